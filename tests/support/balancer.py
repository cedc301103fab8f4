"""A TCP balancer in front of web nodes, for tests: forwards bytes, closes and resets."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Sequence


class Balancer:
    """Forwards each connection to a random node that accepts it."""

    def __init__(self, ports: Sequence[int]) -> None:
        self.ports = list(ports)
        """The ports of the nodes that get connections now."""
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.Transport] = set()
        self.port = 0

    async def start(self) -> None:
        """Listen on any port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: _Side(self._open, lambda side: loop.create_task(self._connect(side))),
            "127.0.0.1",
        )
        self.port = self._server.sockets[0].getsockname()[1]

    def stop(self) -> None:
        """Abort all connections."""
        if self._server is not None:
            self._server.close()
        for transport in list(self._open):
            transport.abort()

    async def _connect(self, front: _Side) -> None:
        loop = asyncio.get_running_loop()
        for port in random.sample(self.ports, len(self.ports)):
            back = _Side(self._open)
            with contextlib.suppress(OSError):
                await loop.create_connection(lambda back=back: back, "127.0.0.1", port)
                front.join(back)
                return
        front.transport.abort()


class _Side(asyncio.Protocol):
    """One side of a forwarded connection; forwards what it receives to the other side."""

    transport: asyncio.Transport

    def __init__(
        self,
        opened: set[asyncio.Transport],
        made: Callable[[_Side], object] = lambda _: None,
    ) -> None:
        self._opened = opened
        self._made = made
        self._peer: _Side | None = None
        self._early = b""

    def join(self, peer: _Side) -> None:
        """Connect this side to the other side."""
        self._peer, peer._peer = peer, self
        peer.transport.write(self._early)
        if self.transport.is_closing():
            peer.transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to connect the other side."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._opened.add(transport)
        self._made(self)

    def data_received(self, data: bytes) -> None:
        """Forward the bytes."""
        if self._peer is None:
            self._early += data
        else:
            self._peer.transport.write(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """End the other side in the same way."""
        self._opened.discard(self.transport)
        if self._peer is not None:
            if exc is None:
                self._peer.transport.close()
            else:
                self._peer.transport.abort()
