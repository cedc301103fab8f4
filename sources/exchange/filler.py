"""Brings the trades that the stream did not: asks the venue for them until it has no more.

Each market that misses something has a task of its own, so a market that waits does not hold up
another; the venue's limits on requests are kept by `Rest`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from aggregator.runtime.backoff import Backoff
from aggregator.runtime.errors import BadMessage, Retry
from sources.exchange.books import Book, Books
from sources.exchange.config import Timing
from sources.exchange.ids import NamedTrades
from sources.exchange.rest import Rest
from sources.exchange.trades import Instrument, TradeGap, VenuePage
from sources.exchange.venue import Venue
from sources.metrics import SourceMetrics

TRIES: Final = 5
"""How often a gap is asked for before its trades count as lost: a venue may list them late."""

log = structlog.get_logger(__name__)


class Filler:
    """Fills gaps. `room` waits until more records can be queued."""

    def __init__(
        self,
        venue: Venue,
        rest: Rest,
        books: Books,
        *,
        room: Callable[[], Awaitable[None]],
        metrics: SourceMetrics,
        timing: Timing,
        group: asyncio.TaskGroup,
    ) -> None:
        self._venue = venue
        self._rest = rest
        self._books = books
        self._room = room
        self._metrics = metrics
        self._timing = timing
        self._group = group

    def wake(self, book: Book) -> None:
        """Have a book mended that misses something."""
        if not book.mending:
            book.mending = True
            self._group.create_task(self._mend(book))

    async def _mend(self, book: Book) -> None:
        """Mend a book until it is whole."""
        backoff = Backoff(*self._timing.again)
        tries = 0
        try:
            if self._venue.numbered:
                await asyncio.sleep(self._timing.grace)
            while not book.whole:
                try:
                    done = await self._step(book, last=tries + 1 >= TRIES)
                except (Retry, BadMessage) as error:
                    done = False
                    tries = 0  # a venue that does not answer has not said that it has no more
                    self._failed(book.market, error)
                else:
                    tries = 0 if done else tries + 1
                if done:
                    backoff.reset()
                else:
                    await asyncio.sleep(backoff.pause_s())
        finally:
            book.mending = False

    async def _step(self, book: Book, *, last: bool) -> bool:
        """Ask for the newest trades, or for a gap; return False where it must be asked again."""
        if book.behind:
            await self._newest(book)
            return True
        gap = book.seen.gaps[0]
        await self._fill(book, gap)
        if isinstance(book.seen, NamedTrades) or not book.seen.missing(gap):
            self._metrics.gap(filled=True)
            return True
        if not last:
            return False
        lost = book.seen.give_up(gap)
        book.changed = True
        self._metrics.gap(filled=False)
        log.error("gap_unfilled", symbol=book.market.symbol, first=gap.first, trades=lost)
        return True

    async def _newest(self, book: Book) -> None:
        """Take the newest trades: they show what was missed, or are all of it."""
        page = await self._page(book.market, self._venue.newest(book.market))
        newest, time_ms = book.anchor
        missed = sum([self._books.take(book, trade) for trade in page.trades])
        book.behind = False
        if isinstance(book.seen, NamedTrades):
            reached = book.seen.reaches(page.trades, newest, time_ms)
            if missed or not reached:
                self._metrics.gap(filled=reached)
            if not reached:
                log.error("gap_unfilled", symbol=book.market.symbol, after=newest)

    async def _fill(self, book: Book, gap: TradeGap) -> None:
        """Take all trades of a gap that the venue has."""
        asked: set[str] = set()
        path = self._venue.fill(book.market, gap, None)
        while path is not None and path not in asked:
            asked.add(path)
            page = await self._page(book.market, path)
            for trade in page.trades:
                if gap.first <= int(trade.id) <= gap.last:
                    self._books.take(book, trade)
            path = self._venue.fill(book.market, gap, page)

    async def _page(self, market: Instrument, path: str) -> VenuePage:
        await self._room()
        body = await self._rest.get(path)
        return self._venue.read_page(market, body)

    def _failed(self, market: Instrument, error: Retry | BadMessage) -> None:
        if isinstance(error, BadMessage):
            self._metrics.dropped("undecodable")
        log.warning("fill_failed", symbol=market.symbol, error=str(error))
