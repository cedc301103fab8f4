"""Outlets write frames to a client: one for any ASGI server, and a faster one for Daphne.

An outlet accepts a frame, or reports that the client has not read the last ones yet. It never waits
and never buffers without a bound. It does not look into frames.

Daphne's `send` returns before the client has received anything, its buffer is unbounded, and
Twisted arms epoll for each write. So `DaphneOutlet` uses Daphne's protocol object: Twisted's
producer interface reports when more than 64 KiB wait, and a frame with nothing waiting before it is
written to the socket immediately (measured in docs/performance.md).
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any, Final, Protocol

from asgiref.typing import ASGISendCallable

_TEXT_FRAME: Final = 0x81


class Outlet(Protocol):
    """Write frames to one client."""

    @property
    def blocked(self) -> bool:
        """Return whether the client must read something before another frame may be written."""

    def write(self, frame: bytes) -> None:
        """Send a text frame; call it only while not blocked. A closed socket discards it."""

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then a close frame; cut off a client that reads neither."""

    def pause_reading(self) -> None:
        """Stop reading from the client, so that its requests wait in its own buffers."""

    def resume_reading(self) -> None:
        """Resume reading from the client."""


def outlet_of(send: ASGISendCallable) -> Outlet:
    """Return the best outlet for the server of `send`; the socket must be accepted already."""
    module = sys.modules.get("daphne.ws_protocol")
    if module is not None and isinstance(send, partial) and send.args:
        protocol = send.args[0]
        if isinstance(protocol, module.WebSocketProtocol):
            return DaphneOutlet(protocol)
    return AsgiOutlet(send)


class AsgiOutlet:
    """Write through the `send` of any ASGI server.

    The specification requires `send` to wait while the client does not read.
    """

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._sending: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def blocked(self) -> bool:
        """Return whether the last frame is still being sent."""
        return self._sending is not None and not self._sending.done()

    def write(self, frame: bytes) -> None:
        """Start to send the frame."""
        event = {"type": "websocket.send", "text": frame.decode()}
        self._sending = asyncio.get_running_loop().create_task(self._deliver(event))

    def close(self, code: int, reason: str) -> None:
        """Close after the frame that is being sent, or after one second."""
        if not self._closing:
            self._closing = True
            event = {"type": "websocket.close", "code": code, "reason": reason}
            before, loop = self._sending, asyncio.get_running_loop()
            self._sending = loop.create_task(self._finish(before, event))

    def pause_reading(self) -> None:
        """Do nothing: ASGI has no call for it, and the server bounds what waits for `receive`."""

    def resume_reading(self) -> None:
        """Do nothing: reading was not paused."""

    async def _finish(self, before: asyncio.Task[None] | None, event: dict[str, Any]) -> None:
        if before is not None:
            await asyncio.wait([before], timeout=1)
            before.cancel()
        await self._deliver(event)

    async def _deliver(self, event: dict[str, Any]) -> None:
        try:
            await self._send(event)  # type: ignore[arg-type]
        except (OSError, RuntimeError):
            # The client has gone: servers raise either error, and `receive` reports it as well.
            self._closing = True


class DaphneOutlet:
    """Write to Daphne's Autobahn protocol directly and, if nothing waits, to the socket."""

    def __init__(self, protocol: Any) -> None:
        self.blocked = False
        self._protocol = protocol
        self._transport = protocol.transport
        # Until now the HTTP channel is the transport's producer. It would stop reading from a
        # client that does not read.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, True)
        # A TLS transport encrypts, and compression changes the frame. Only a plain socket may be
        # written to directly.
        self._plain = protocol._perMessageCompress is None and all(
            hasattr(self._transport, name)
            for name in ("writeSomeData", "dataBuffer", "_tempDataLen")
        )

    def pauseProducing(self) -> None:
        """Handle Twisted's IPushProducer call: more than 64 KiB wait."""
        self.blocked = True

    def resumeProducing(self) -> None:
        """Handle Twisted's IPushProducer call: nothing waits any more."""
        self.blocked = False
        if getattr(self._transport, "disconnecting", False):
            # Twisted closes a connection only after its producer is unregistered.
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Handle Twisted's IPushProducer call: the connection is gone."""
        self.blocked = True

    def pause_reading(self) -> None:
        """Leave requests in the socket: Daphne's queue of requests is unbounded."""
        if self._protocol.state == self._protocol.STATE_OPEN:
            self._transport.pauseProducing()

    def resume_reading(self) -> None:
        """Resume reading; Twisted ignores this for a connection that is being closed."""
        self._transport.resumeProducing()

    def write(self, frame: bytes) -> None:
        """Write to the socket immediately if nothing waits, else append to what waits."""
        protocol, transport = self._protocol, self._transport
        if protocol.state != protocol.STATE_OPEN:
            return
        if not self._plain:
            protocol.sendMessage(frame, False)
            return
        raw = _header(len(frame)) + frame
        if not transport.dataBuffer and not transport._tempDataLen and transport.connected:
            sent = transport.writeSomeData(raw)
            if isinstance(sent, int) and sent >= 0:
                if sent < len(raw):
                    transport.write(raw[sent:])
                return
            # The connection is dead; let Twisted detect and report that.
        transport.write(raw)

    def close(self, code: int, reason: str) -> None:
        """Close as Daphne does; Autobahn cuts the connection after a second."""
        protocol = self._protocol
        if protocol.state == protocol.STATE_OPEN:
            # A paused producer would keep Twisted from ending the connection.
            self._transport.unregisterProducer()
            protocol.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123])


def _header(length: int) -> bytes:
    """Return the header of an unmasked final text frame (RFC 6455, section 5.2)."""
    if length < 126:
        return bytes((_TEXT_FRAME, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
