"""The access log: one record for each request and for both ends of each WebSocket.

A record names the route's pattern, never the raw address, so no token id, query or secret of an
address is in it. `swapsite.logs` renders it. Probes and static files are at debug, where nothing is
made of them unless LOG_LEVEL asks for it.
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
# Where a record of `logging` holds the fields.
FIELDS: Final = "access"
# Who hung up before the answer was there; nginx's number for it.
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
    """One answered request; without a response the client left before it was there."""
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
    """A WebSocket: `event` is ws_open, ws_close or ws_refused."""
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
