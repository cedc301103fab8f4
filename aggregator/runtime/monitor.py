"""The monitoring port of aggregator, archiver and sources: probes, metrics, profiles over HTTP.

`/healthz` (the loop runs), `/readyz` (the process does its work), `/metrics`, and with PROFILING
`/debug/pprof/…` for callers on the same machine only. The port has its own threads, so it also
reports a loop that hangs.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import Any, Final
from urllib.parse import parse_qsl
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import msgspec
from prometheus_client import make_wsgi_app

from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal
from aggregator.runtime.health import Health
from aggregator.runtime.profiling import requests

_JSON: Final = "application/json"
_TEXT: Final = "text/plain; charset=utf-8"
_TIMEOUT_S: Final = 10

Start = Callable[..., Any]


def serve(config: Config, health: Health) -> None:
    """Serve METRICS_HOST and METRICS_PORT on a thread. Raises Fatal if the port cannot be used."""
    try:
        family = socket.getaddrinfo(config.metrics_host, config.metrics_port)[0][0]
        server: WSGIServer = make_server(
            config.metrics_host,
            config.metrics_port,
            application(health, profiling=config.profiling),
            type("_Server", (_Server,), {"address_family": family}),
            _Handler,
        )
    except OSError as error:
        raise Fatal(
            f"METRICS_PORT {config.metrics_port} cannot be used: {error.strerror}"
        ) from error
    threading.Thread(target=server.serve_forever, name="monitor", daemon=True).start()


def application(health: Health, *, profiling: bool) -> Callable[..., Iterable[bytes]]:
    """Return the WSGI application of the port."""
    metrics: Callable[..., Iterable[bytes]] = make_wsgi_app()

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return metrics(environ, start)
        if environ["REQUEST_METHOD"] not in {"GET", "HEAD"}:
            status, content_type, body = HTTPStatus.METHOD_NOT_ALLOWED, _TEXT, b"GET only\n"
        elif path == "/healthz":
            status = HTTPStatus.OK if health.alive else HTTPStatus.SERVICE_UNAVAILABLE
            content_type, body = _JSON, msgspec.json.encode({"alive": health.alive})
        elif path == "/readyz":
            readiness = health.readiness
            status = HTTPStatus.OK if readiness.ready else HTTPStatus.SERVICE_UNAVAILABLE
            content_type, body = _JSON, msgspec.json.encode(readiness)
        elif path.startswith(requests.PREFIX) and profiling:
            status, content_type, body = _profile(environ)
        else:
            status, content_type, body = HTTPStatus.NOT_FOUND, _TEXT, b"nothing here\n"
        headers = [("Content-Type", content_type), ("Content-Length", str(len(body)))]
        start(f"{status.value} {status.phrase}", [*headers, ("Cache-Control", "no-store")])
        return [b"" if environ["REQUEST_METHOD"] == "HEAD" else body]

    return answer


def _profile(environ: dict[str, Any]) -> tuple[HTTPStatus, str, bytes]:
    if not _is_local(environ):
        text = "profiles are for callers on this machine: use docker exec or kubectl port-forward\n"
        return HTTPStatus.FORBIDDEN, _TEXT, text.encode()
    try:
        name = environ["PATH_INFO"].removeprefix(requests.PREFIX)
        taken = requests.answer(name, dict(parse_qsl(environ.get("QUERY_STRING", ""))))
    except requests.Unasked as error:
        return HTTPStatus(error.status), _TEXT, f"{error}\n".encode()
    return HTTPStatus.OK, taken.content_type, taken.body


def _is_local(environ: dict[str, Any]) -> bool:
    """Return whether the caller is on this machine; a request through a proxy is not local."""
    if "HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ:
        return False
    address = ipaddress.ip_address(environ["REMOTE_ADDR"].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address.is_loopback


class _Server(ThreadingMixIn, WSGIServer):
    """One thread per request, so that a profile of a minute does not delay a probe."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore callers that disconnect early."""


class _Handler(WSGIRequestHandler):
    timeout = _TIMEOUT_S

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: a line per probe would fill the log."""
