"""A TCP proxy for tests, on the event loop of its user. `stop` leaves no socket open.

A transport that is closed or aborted closes its socket in a later turn of the loop. If the loop
ends before that turn, the socket stays open until the garbage collector warns of it, which fails
whatever test runs then.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterable


class TcpProxy(ABC):
    """Forwards each connection to the first of `targets()` that accepts it."""

    def __init__(self) -> None:
        self.port = 0
        self.sides: set[ProxySide] = set()
        """Both sides of every connection whose socket is open."""
        self._server: asyncio.Server | None = None
        self._connecting: set[asyncio.Task[None]] = set()

    @abstractmethod
    def targets(self) -> Iterable[tuple[str, int]]:
        """Return the host and port of each server to try for a new connection, in order."""

    def answering_side(self) -> ProxySide:
        """Return a side that is connected to a target."""
        return ProxySide(self)

    async def start(self) -> None:
        """Listen on any port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _AcceptedSide(self), "127.0.0.1")
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Accept no more connections, abort all of them and wait until their sockets are closed."""
        if self._server is not None:
            self._server.close()
        # A connection that was accepted in this turn of the loop has its side from the next one on.
        await asyncio.sleep(0)
        while self._connecting or self.sides:
            for task in self._connecting:
                task.cancel()
            for side in self.sides:
                side.abort()
            await asyncio.sleep(0)

    def connect(self, front: ProxySide) -> None:
        """Connect an accepted side to a target, in a task."""
        task = asyncio.get_running_loop().create_task(self._connect(front))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, front: ProxySide) -> None:
        loop = asyncio.get_running_loop()
        for host, port in self.targets():
            with contextlib.suppress(OSError):
                _, back = await loop.create_connection(self.answering_side, host, port)
                front.join(back)
                return
        front.abort()


class ProxySide(asyncio.Protocol):
    """One side of a forwarded connection; forwards what it receives to the other side."""

    def __init__(self, proxy: TcpProxy) -> None:
        self.proxy = proxy
        self._transport: asyncio.Transport | None = None
        self._peer: ProxySide | None = None
        self._early = b""
        proxy.sides.add(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Handle the start of this side."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def join(self, peer: ProxySide) -> None:
        """Connect this side to the other side, and forward what it has received already."""
        self._peer, peer._peer = peer, self
        peer.write(self._early)
        if self not in self.proxy.sides:
            peer.close()

    def data_received(self, data: bytes) -> None:
        """Forward the bytes."""
        self.forward(data)

    def forward(self, data: bytes) -> None:
        """Send bytes to the other side, or keep them until there is one."""
        if self._peer is None:
            self._early += data
        else:
            self._peer.write(data)

    def write(self, data: bytes) -> None:
        """Send bytes to whom this side is connected to."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Send what is written, then close."""
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close without sending what is written; without effect before the start."""
        if self._transport is not None:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side in the same way."""
        self.proxy.sides.discard(self)
        if self._peer is not None:
            if exc is None:
                self._peer.close()
            else:
                self._peer.abort()


class _AcceptedSide(ProxySide):
    """A side that the proxy accepted; it needs a target."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.proxy.connect(self)
