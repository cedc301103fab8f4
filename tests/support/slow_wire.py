"""A proxy of one TCP address that delivers late, like a slow network or a queue."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from tests.support.tcp_proxy import ProxySide, TcpProxy

_LOOK_S = 0.01


class SlowWire(TcpProxy):
    """Each byte to the client arrives `delay_s` after it was sent. The other direction is fast.

    `delay_s` may change at any moment, also for bytes in flight.
    """

    def __init__(self, host: str, port: int) -> None:
        super().__init__()
        self.delay_s = 0.0
        self._target = (host, port)

    def targets(self) -> Iterable[tuple[str, int]]:
        """Return the one target."""
        return [self._target]

    def answering_side(self) -> ProxySide:
        """Return a side that forwards late."""
        return _LateSide(self)

    async def __aenter__(self) -> SlowWire:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()


class _LateSide(ProxySide):
    """Keeps what it receives for a while; what it keeps at its end is lost."""

    def __init__(self, wire: SlowWire) -> None:
        super().__init__(wire)
        self._wire = wire
        self._kept: deque[tuple[float, bytes]] = deque()

    def data_received(self, data: bytes) -> None:
        self._kept.append((asyncio.get_running_loop().time(), data))
        if len(self._kept) == 1:
            self._deliver()

    def _deliver(self) -> None:
        """Forward what is old enough, and look again while something is kept."""
        loop = asyncio.get_running_loop()
        while self._kept and self._kept[0][0] <= loop.time() - self._wire.delay_s:
            self.forward(self._kept.popleft()[1])
        if self._kept:
            loop.call_later(_LOOK_S, self._deliver)

    def connection_lost(self, exc: Exception | None) -> None:
        self._kept.clear()
        super().connection_lost(exc)
