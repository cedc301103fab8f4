"""One WebSocket connection to a venue: subscribe, watch that it lives, hand frames on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from aggregator.runtime.errors import Retry
from sources.exchange.config import Timing
from sources.exchange.venue import Venue

_LARGEST_FRAME: Final = 8 << 20
_OPEN_S: Final = 10.0

log = structlog.get_logger(__name__)


class Stream:
    """A connection to `url` with the trades of `symbols`.

    `hear` gets every frame; it must not wait. What it raises ends the connection.
    """

    def __init__(
        self,
        venue: Venue,
        url: str,
        symbols: Sequence[str],
        hear: Callable[[bytes], None],
        *,
        timing: Timing,
        clock: Callable[[], float],
    ) -> None:
        self._venue = venue
        self._url = url
        self._symbols = symbols
        self._hear = hear
        self._timing = timing
        self._clock = clock
        self._heard_s = 0.0

    async def run(self) -> None:
        """Connect and read. Raises Retry once the connection is cut, whoever cut it."""
        try:
            async with connect(
                self._url,
                compression=None,
                max_size=_LARGEST_FRAME,
                open_timeout=_OPEN_S,
                close_timeout=1,
                ping_interval=self._timing.ping,
                ping_timeout=self._timing.silent,
            ) as socket:
                self._heard_s = self._clock()
                keeper = asyncio.create_task(self._keep(socket))
                try:
                    while True:
                        frame = await socket.recv(decode=False)
                        self._heard_s = self._clock()
                        self._hear(frame)
                finally:
                    keeper.cancel()
                    await asyncio.gather(keeper, return_exceptions=True)
        except (OSError, WebSocketException, TimeoutError) as error:
            raise Retry(f"{self._url}: {error or type(error).__name__}") from error

    async def _keep(self, socket: ClientConnection) -> None:
        """Subscribe, then ask for an answer where the venue says nothing; cut it if none comes."""
        size = self._venue.limits.symbols_a_message
        for number, begin in enumerate(range(0, len(self._symbols), size), start=1):
            part = self._symbols[begin : begin + size]
            await socket.send(self._venue.subscribe(part, number), text=True)
            await asyncio.sleep(self._venue.limits.message_s)
        while True:
            await asyncio.sleep(self._timing.ping / 3)
            silent_s = self._clock() - self._heard_s
            if silent_s >= self._timing.silent:
                log.warning("venue_silent", venue=self._venue.name, silent_s=round(silent_s, 1))
                socket.transport.abort()
                return
            if silent_s >= self._timing.ping and self._venue.ping:
                await socket.send(self._venue.ping, text=True)
