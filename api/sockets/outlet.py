"""How a frame leaves: one way for any ASGI server, and a faster one for Daphne.

An outlet takes a frame or says that the client has not taken the last ones yet; it never waits and
never buffers without bound. Knows nothing of what is in a frame.

Daphne's `send` returns before the client has anything, its buffer has no bound, and Twisted arms
epoll for each write. `DaphneOutlet` therefore talks to Daphne's protocol object: it is told by
Twisted's producer interface when more than 64 KiB wait, and hands a frame to the socket at once
where nothing waits before it (measured in docs/performance.md).
"""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from typing import Any, Final, Protocol

from asgiref.typing import ASGISendCallable

_TEXT_FRAME: Final = 0x81


class Outlet(Protocol):
    """The way to one client."""

    @property
    def blocked(self) -> bool:
        """Whether the client must take something before another frame may be written."""

    def write(self, frame: bytes) -> None:
        """Send a text frame; only while not blocked. A closed socket swallows it."""

    def close(self, code: int, reason: str) -> None:
        """Send what was written, then a close frame; a client that takes neither is cut off."""

    def pause_reading(self) -> None:
        """Read nothing from the client, so that its requests wait in its own buffers."""

    def resume_reading(self) -> None:
        """Read from the client again."""


def outlet_of(send: ASGISendCallable) -> Outlet:
    """The best outlet for the server that `send` belongs to; the socket must be accepted."""
    module = sys.modules.get("daphne.ws_protocol")
    if module is not None and isinstance(send, partial) and send.args:
        protocol = send.args[0]
        if isinstance(protocol, module.WebSocketProtocol):
            return DaphneOutlet(protocol)
    return AsgiOutlet(send)


class AsgiOutlet:
    """For any ASGI server whose `send` waits while the client does not read, as the spec asks."""

    def __init__(self, send: ASGISendCallable) -> None:
        self._send = send
        self._sending: asyncio.Task[None] | None = None
        self._closing = False

    @property
    def blocked(self) -> bool:
        """Whether the last frame is still on its way."""
        return self._sending is not None and not self._sending.done()

    def write(self, frame: bytes) -> None:
        """Begin to send the frame."""
        event = {"type": "websocket.send", "text": frame.decode()}
        self._sending = asyncio.get_running_loop().create_task(self._deliver(event))

    def close(self, code: int, reason: str) -> None:
        """Close behind the frame on its way, if it gets there within a second."""
        if not self._closing:
            self._closing = True
            event = {"type": "websocket.close", "code": code, "reason": reason}
            before, loop = self._sending, asyncio.get_running_loop()
            self._sending = loop.create_task(self._finish(before, event))

    def pause_reading(self) -> None:
        """The server bounds what waits for `receive`; ASGI has no call for it."""

    def resume_reading(self) -> None:
        """Nothing was paused."""

    async def _finish(self, before: asyncio.Task[None] | None, event: dict[str, Any]) -> None:
        if before is not None:
            await asyncio.wait([before], timeout=1)
            before.cancel()
        await self._deliver(event)

    async def _deliver(self, event: dict[str, Any]) -> None:
        try:
            await self._send(event)  # type: ignore[arg-type]
        except (OSError, RuntimeError):
            # The client has gone; servers say so in either way, and `receive` tells it too.
            self._closing = True


class DaphneOutlet:
    """Past ASGI's send to Daphne's Autobahn protocol and, where nothing waits, to the socket."""

    def __init__(self, protocol: Any) -> None:
        self.blocked = False
        self._protocol = protocol
        self._transport = protocol.transport
        # Until now the HTTP channel is the transport's producer: it would stop reading from a
        # client that does not read.
        self._transport.unregisterProducer()
        self._transport.registerProducer(self, True)
        # A TLS transport encrypts and a compressed frame is another one: only a plain socket may be
        # written to directly.
        self._plain = protocol._perMessageCompress is None and all(
            hasattr(self._transport, name)
            for name in ("writeSomeData", "dataBuffer", "_tempDataLen")
        )

    def pauseProducing(self) -> None:
        """Twisted's IPushProducer: more than 64 KiB wait."""
        self.blocked = True

    def resumeProducing(self) -> None:
        """Twisted's IPushProducer: nothing waits any more."""
        self.blocked = False
        if getattr(self._transport, "disconnecting", False):
            # Twisted ends a connection only when its producer is done.
            self._transport.unregisterProducer()

    def stopProducing(self) -> None:
        """Twisted's IPushProducer: the connection is gone."""
        self.blocked = True

    def pause_reading(self) -> None:
        """Daphne's queue of requests has no bound: leave them in the socket."""
        if self._protocol.state == self._protocol.STATE_OPEN:
            self._transport.pauseProducing()

    def resume_reading(self) -> None:
        """Read from the client again; Twisted leaves one that is being closed as it is."""
        self._transport.resumeProducing()

    def write(self, frame: bytes) -> None:
        """Write at once where nothing waits, else behind what waits."""
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
            # A dead connection: let Twisted find it out in its own way.
        transport.write(raw)

    def close(self, code: int, reason: str) -> None:
        """Close as Daphne does itself; Autobahn cuts the connection after a second."""
        protocol = self._protocol
        if protocol.state == protocol.STATE_OPEN:
            # A paused producer would keep Twisted from ending the connection.
            self._transport.unregisterProducer()
            protocol.sendCloseFrame(code=code, reasonUtf8=reason.encode()[:123])


def _header(length: int) -> bytes:
    """The header of an unmasked final text frame (RFC 6455, 5.2)."""
    if length < 126:
        return bytes((_TEXT_FRAME, length))
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")
