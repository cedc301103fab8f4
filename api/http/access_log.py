"""The access log: one record for each request, and one each for open and close of a WebSocket.

A record names the pattern of the route, never the raw path, so it contains no token id, query or
secret. `swapsite.logs` renders it. Probes and static files are logged at debug level.
"""

from __future__ import annotations

import logging
from typing import Any, Final

from django.http import HttpRequest
from django.http.response import HttpResponseBase

from api.auth.client_ip import request_ip
from api.correlation import Correlation
from api.http.bearer import SUBJECT

LOGGER: Final = "access"
# The attribute of a `logging` record that holds the fields.
FIELDS: Final = "access"
# nginx's status for a client that closed the connection before the answer.
CLIENT_GONE: Final = 499

_QUIET: Final = frozenset({"healthz", "readyz", "readyz/node", "metrics", "static/<path:path>"})
_log = logging.getLogger(LOGGER)


def request(
    asked: HttpRequest,
    caller: Correlation,
    route: str,
    response: HttpResponseBase | None,
    seconds: float,
) -> None:
    """Log an answered request; `response` is None if the client left before the answer."""
    level = logging.DEBUG if route in _QUIET else logging.INFO
    if not _log.isEnabledFor(level):
        return
    _write(
        level,
        "request",
        request_id=caller.request_id,
        trace_id=caller.trace_id,
        method=asked.method,
        route=f"/{route}",
        status=CLIENT_GONE if response is None else response.status_code,
        ms=round(seconds * 1_000, 2),
        bytes=len(getattr(response, "content", b"")),
        ip=request_ip(asked),
        subject=asked.META.get(SUBJECT),
    )


def socket(event: str, caller: Correlation, ip: str, subject: str | None, **fields: Any) -> None:
    """Log an event of a WebSocket: ws_open, ws_close or ws_refused."""
    if _log.isEnabledFor(logging.INFO):
        _write(
            logging.INFO,
            event,
            request_id=caller.request_id,
            trace_id=caller.trace_id,
            route="/ws",
            ip=ip,
            subject=subject,
            **fields,
        )


def _write(level: int, event: str, **fields: Any) -> None:
    _log.log(level, event, extra={FIELDS: fields})
