"""The ASGI application at /ws: do the handshake, then pass the client's messages to its session.

It is plain ASGI, because a Channels consumer adds a hop through a thread for each message. It sends
only the accept or the refusal of the handshake; the hub sends everything else.

A browser does not show its page the HTTP answer to a handshake. So a page whose origin is not
allowed, or a client of a full node, is accepted only to receive the reason and a close code. It
gets no session, its messages are dropped, and its JWT is not examined.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import structlog
from asgiref.typing import ASGIReceiveCallable, ASGISendCallable, WebSocketScope
from structlog.contextvars import bind_contextvars

from aggregator.runtime import metrics
from api.auth.client_ip import scope_ip
from api.auth.jwt import Claims, TokenRefused
from api.correlation import correlation_of
from api.http import access_log
from api.services import Services, services
from api.sockets.connection import Connection
from api.sockets.limits import AUTH_WITHIN_MS
from api.sockets.outlet import Outlet, outlet_of
from api.sockets.protocol import SUBPROTOCOL, Close, Message, frame, write
from api.sockets.session import SocketSession

PATH: Final = "/ws"
_REFUSED: Final[Any] = {"type": "websocket.close", "code": 1008, "reason": ""}

log = structlog.get_logger(__name__)


class _Refusal(NamedTuple):
    """Hold why a handshake is refused, in the terms of the protocol."""

    code: str
    text: str
    close: Close


_FULL: Final = _Refusal("node_full", "this node takes no further connection", Close.LIMIT)
_ORIGIN: Final = _Refusal(
    "origin_not_allowed",
    "the page's origin is not in WS_ALLOWED_ORIGINS of the service",
    Close.ORIGIN,
)


async def consumer(
    scope: WebSocketScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    """Serve one socket from its handshake to its close."""
    parts = services()
    hub = parts.hub
    caller = correlation_of(
        _header(scope, b"x-request-id") or "", _header(scope, b"traceparent") or ""
    )
    bind_contextvars(request_id=caller.request_id, trace_id=caller.trace_id)
    if (await receive())["type"] != "websocket.connect":
        return
    address = scope_ip(dict(scope), parts.config.trusted_proxies)
    if scope["path"] != PATH or hub.stopping:
        access_log.socket("ws_refused", caller, address, None, status=403)
        # A close before the accept makes the server answer the handshake with 403.
        await send(_REFUSED)
        return
    offered = list(scope["subprotocols"])
    # A browser closes a connection whose answer selects none of the subprotocols it offered.
    chosen = SUBPROTOCOL if SUBPROTOCOL in offered else None
    accept: Any = {"type": "websocket.accept", "subprotocol": chosen, "headers": []}
    await send(accept)
    refusal = _refusal(scope, parts)
    if refusal is not None:
        access_log.socket("ws_refused", caller, address, None, code=int(refusal.close))
        _refuse(outlet_of(send), refusal)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        return
    now_ms = parts.now_ms()
    connection = Connection(outlet_of(send), hub.limits, now_ms)
    connection.deadline = now_ms + AUTH_WITHIN_MS
    session = _session(connection, parts, address)
    hub.start()
    hub.add(connection)
    try:
        token = _token(scope, offered)
        if await session.attempt() and (token is None or await session.authenticate(token)):
            session.welcome()
        access_log.socket("ws_open", caller, address, _subject(connection))
        await _listen(receive, session)
    finally:
        hub.remove(connection)
        open_ms = parts.now_ms() - now_ms
        # the code that this node closed with; null if the client closed
        access_log.socket(
            "ws_close", caller, address, _subject(connection), code=connection.closing, ms=open_ms
        )


def _subject(connection: Connection) -> str | None:
    return connection.claims.subject if connection.claims is not None else None


async def _listen(receive: ASGIReceiveCallable, session: SocketSession) -> None:
    while True:
        event: Any = await receive()
        if event["type"] == "websocket.disconnect":
            return
        text = event.get("text")
        await session.receive(event["bytes"] if text is None else text)


def _session(connection: Connection, parts: Services, address: str) -> SocketSession:
    async def verify(token: str) -> Claims:
        if parts.verifier is None:
            await parts.settled()
        if parts.verifier is None:
            raise TokenRefused("auth_unavailable", "This node cannot check tokens now.")
        return await parts.verifier.authenticate(token, parts.now_s())

    return SocketSession(
        connection,
        parts.hub,
        verify=verify,
        charge=lambda subject, cost: parts.limiter.take(subject, address, cost),
        charge_subject=lambda subject, cost: parts.limiter.take(subject, None, cost),
        limits_of=parts.access.limits,
        hides=parts.board.hides,
        windows=[name for name, _ in parts.config.windows],
        leeway_ms=parts.config.jwt_leeway_ms,
        now_ms=parts.now_ms,
        now_s=parts.now_s,
    )


def _refusal(scope: WebSocketScope, parts: Services) -> _Refusal | None:
    """Return why this client may not connect; None if it may."""
    if parts.hub.full:
        metrics.LIMITS_HIT.labels("ws_connections").inc()
        return _FULL
    origin, host = _header(scope, b"origin"), _header(scope, b"host")
    if parts.origins.allow(origin, host):
        return None
    metrics.AUTH_REFUSED.labels("ws", "origin_refused").inc()
    log.warning("origin_refused", origin=(origin or "")[:128])
    return _ORIGIN


def _refuse(outlet: Outlet, refusal: _Refusal) -> None:
    error = Message(type="error", code=refusal.code, message=refusal.text)
    outlet.write(frame([write(error)]))
    outlet.close(int(refusal.close), refusal.text)
    metrics.WS_CLOSED.labels(int(refusal.close)).inc()


def _token(scope: WebSocketScope, offered: list[str]) -> str | None:
    """Return the JWT of the handshake: `Authorization: Bearer`, or the offer after `bearer`."""
    scheme, _, token = (_header(scope, b"authorization") or "").strip().partition(" ")
    if scheme.lower() == "bearer":
        return token.strip()
    if SUBPROTOCOL in offered:
        following = offered[offered.index(SUBPROTOCOL) + 1 :]
        return following[0] if following else None
    return None


def _header(scope: WebSocketScope, name: bytes) -> str | None:
    for each, value in scope["headers"]:
        if each == name:
            return value.decode("latin-1")
    return None
