"""Logs on stdout: one JSON object per line, or readable lines if stdout is a terminal.

structlog renders the events of the program and of its libraries, so both look alike. The access log
does not use structlog, because a line for every request must be cheap. Texts that look like a JSON
Web Token are replaced before they are written, so that no JWT reaches a log.
"""

from __future__ import annotations

import logging
import re
import sys
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from aggregator.runtime import tracing

_TOKEN = re.compile(r"eyJ[\w-]{8,}\.[\w-]*\.?[\w-]*")


def _blank_tokens(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    for name, value in event.items():
        if isinstance(value, str) and "eyJ" in value:
            event[name] = _TOKEN.sub("[token]", value)
    return event


def _trace_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    event.update(tracing.ids())
    return event


_SHARED: list[Processor] = [
    structlog.contextvars.merge_contextvars,
    _trace_ids,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.stdlib.ExtraAdder(allow=[]),
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
]


class OnlyExceptions(logging.Filter):
    """Keeps only records with a traceback: a response such as 503 is not an event for the log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the record has an exception."""
        return record.exc_info is not None


class AccessFormatter(logging.Formatter):
    """Renders the records of `api.http.access_log`, as JSON or as readable lines."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        fields: dict[str, Any] = getattr(record, "access", {})
        event = record.getMessage()
        at = datetime.fromtimestamp(record.created, UTC)
        if self._as_json:
            head = {"at": at, "level": record.levelname.lower(), "logger": record.name}
            line = msgspec.json.encode({**head, "event": event, **fields}).decode()
        else:
            line = _readable(at, event, fields)
        return _TOKEN.sub("[token]", line) if "eyJ" in line else line


def _readable(at: datetime, event: str, fields: dict[str, Any]) -> str:
    """Return a line such as `12:00:00 GET /api/overview 200 3.1 ms 5120 B 127.0.0.1 alice`."""
    get = fields.get
    what = f"{get('method')} {get('route')}" if event == "request" else f"{event} {get('route')}"
    of_answer = [
        str(get("status") or ""),
        f"{get('ms')} ms" if "ms" in fields else "",
        f"{get('bytes')} B" if "bytes" in fields else "",
        f"code {get('code')}" if get("code") else "",
    ]
    parts = [f"{at:%H:%M:%S}", what, *of_answer, str(get("ip")), str(get("subject") or "")]
    return " ".join(part for part in parts if part)


def configure_structlog() -> None:
    """Make structlog's loggers pass their events to the handlers of the standard library."""
    logging.captureWarnings(True)
    structlog.configure(
        processors=[*_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def logging_config(log_format: str, level: str) -> dict[str, Any]:
    """Return Django's `LOGGING`; `log_format` is auto, json or console."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stdout.isatty())
    rendering: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if as_json:
        rendering += [
            structlog.processors.format_exc_info,
            _blank_tokens,
            structlog.processors.JSONRenderer(),
        ]
    else:
        rendering += [_blank_tokens, structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())]
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "filters": {"only_exceptions": {"()": OnlyExceptions}},
        "formatters": {
            "structlog": {
                "()": structlog.stdlib.ProcessorFormatter,
                "processors": rendering,
                "foreign_pre_chain": _SHARED,
            },
            "access": {"()": AccessFormatter, "as_json": as_json},
        },
        "handlers": {
            "access": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "access",
            },
            "stdout": {
                "class": "logging.StreamHandler",
                "stream": "ext://sys.stdout",
                "formatter": "structlog",
            },
        },
        "root": {"handlers": ["stdout"], "level": level.upper()},
        "loggers": {
            "access": {"handlers": ["access"], "propagate": False},
            # Errors of clients are answered and not logged: a line for each would fill the disk.
            "django.request": {"level": "ERROR", "filters": ["only_exceptions"]},
            "django.security": {"level": "ERROR"},
            # It logs a traceback per second while Redis is down; `api.auth.control` logs it once.
            "channels_redis": {"level": "CRITICAL"},
            # Its lines about each listener and factory repeat what Daphne logs.
            "twisted": {"level": "WARNING"},
            # Removes the handlers of Django's default configuration.
            "django": {"handlers": [], "propagate": True},
            "django.server": {"handlers": [], "propagate": True},
        },
    }
