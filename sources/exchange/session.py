"""One source of an exchange: streams that are kept alive, gaps that are filled, progress noted.

What makes it complete: a trade is known by its number, so a cut, a skipped message or a full queue
only leaves a gap, and gaps are asked for until the venue has answered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from aggregator.contracts.ids import TokenIdInvalid, canonical_token
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.errors import BadMessage, ConfigError, Retry
from sources.exchange.books import Book, Books
from sources.exchange.config import ExchangeSource, Timing, chosen
from sources.exchange.events import EventWriter
from sources.exchange.filler import Filler
from sources.exchange.outlet import CAPACITY, SymbolProgress, TradeOutlet
from sources.exchange.rest import HttpRest, Rest
from sources.exchange.stream import Stream
from sources.exchange.trades import Ack, Closing, Instrument, Refusal, VenueHeartbeat
from sources.metrics import SourceMetrics
from sources.ports import SourceJournal, SourceSink

_STEADY_S: Final = 60.0
"""A connection that lasted this long ends a run of failures."""
_REJECTED_S: Final = 60.0
"""How long a message that cannot be read keeps the source from calling itself live."""

log = structlog.get_logger(__name__)


async def run(
    source: ExchangeSource, sink: SourceSink, journal: SourceJournal, metrics: SourceMetrics
) -> None:
    """Bring the trades of an exchange into the sink until cancelled.

    Raises ConfigError for a symbol that the venue does not have, Fatal and Fenced as the ports do.
    """
    venue = source.venue_of()
    headers = {"X-MBX-APIKEY": source.api_key} if source.api_key else {}
    rest = HttpRest(
        source.urls.rest or venue.rest_url,
        venue.limits.request_s,
        headers,
        count=partial(metrics.call, "rest"),
        clock=time.monotonic,
    )
    await Session(source, sink, journal, metrics, rest).run()


class Session:
    """The work of one source; `run` is its whole life."""

    def __init__(
        self,
        source: ExchangeSource,
        sink: SourceSink,
        journal: SourceJournal,
        metrics: SourceMetrics,
        rest: Rest,
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        now_ms: Callable[[], int] = wall_ms,
        capacity: int = CAPACITY,
    ) -> None:
        self._source = source
        self._venue = source.venue_of()
        self._url = source.urls.stream or self._venue.stream_url
        self._journal = journal
        self._metrics = metrics
        self._rest = rest
        self._timing = timing or Timing()
        self._clock = clock
        self._now_ms = now_ms
        self._outlet = TradeOutlet(
            sink,
            journal,
            self,
            journal_s=self._timing.journal,
            clock=clock,
            capacity=capacity,
        )
        self._writer = EventWriter(self._venue, source.assume_par)
        self._books: Books
        self._filler: Filler
        # The connections that do not work, by number, and why; "" is one that begins.
        self._down: dict[int, str] = {}
        self._rejected_s = -_REJECTED_S
        self._rejected = ""

    async def run(self) -> None:
        """Own the journal, find the markets, then read, fill and send until cancelled."""
        self._metrics.state("standby")
        held = await self._journal.own()
        self._metrics.state("starting")
        markets = chosen(self._source.symbols, await self._listed())
        _check_names(markets)
        self._books = Books(
            markets,
            numbered=self._venue.numbered,
            held=held,
            writer=self._writer,
            put=self._outlet.put,
        )
        await self._warm_up(markets)
        size = self._venue.limits.symbols_a_connection
        async with asyncio.TaskGroup() as group:
            self._filler = Filler(
                self._venue,
                self._rest,
                self._books,
                room=self._outlet.room,
                metrics=self._metrics,
                timing=self._timing,
                group=group,
            )
            group.create_task(self._outlet.run())
            for number, begin in enumerate(range(0, len(markets), size)):
                part = [market.symbol for market in markets[begin : begin + size]]
                self._down[number] = ""
                group.create_task(self._keep(number, part))
            while True:
                self._report()
                await asyncio.sleep(self._timing.journal)

    async def _listed(self) -> Sequence[Instrument]:
        """Return the venue's open markets, however long it takes."""
        backoff = Backoff(*self._timing.again)
        while True:
            try:
                return self._venue.read_instruments(await self._rest.get(self._venue.instruments()))
            except (Retry, BadMessage) as error:
                self._metrics.state("waiting", f"the list of markets: {error}")
                log.warning("markets_unknown", venue=self._venue.name, error=str(error))
                await asyncio.sleep(backoff.pause_s())

    async def _warm_up(self, markets: Sequence[Instrument]) -> None:
        """Know the prices of quote currencies before the first trade, if the venue answers."""
        for market in self._writer.priced_by(markets):
            try:
                body = await self._rest.get(self._venue.newest(market))
                for trade in self._venue.read_page(market, body).trades:
                    self._writer.observe(market, trade)
            except (Retry, BadMessage) as error:
                log.warning("quote_unpriced", symbol=market.symbol, error=str(error))

    async def _keep(self, number: int, symbols: Sequence[str]) -> None:
        """Keep some symbols connected until cancelled."""
        backoff = Backoff(*self._timing.again)
        while True:
            await self._outlet.room()
            opened_s = self._clock()
            try:
                await self._connections(number, symbols)
            except Retry as error:
                self._down[number] = str(error)
                self._metrics.reconnected()
                log.warning("connection_cut", venue=self._venue.name, error=str(error))
            if self._clock() - opened_s > _STEADY_S:
                backoff.reset()
            await asyncio.sleep(backoff.pause_s())

    async def _connections(self, number: int, symbols: Sequence[str]) -> None:
        """Run one connection after another, each opened before the last one ends.

        Raises Retry once a connection is cut before it has a successor.
        """
        link = self._open(symbols)
        old: _Link | None = None
        try:
            while True:
                try:
                    await link.until(link.acknowledged, self._timing.silent, "no acknowledgement")
                except Retry:
                    if old is None or old.task.done():
                        raise
                    await link.close()
                    link, old = old, None
                    await asyncio.sleep(self._timing.again[0])
                else:
                    self._down.pop(number, None)
                    await self._replace(old, symbols)
                    old = None
                await link.until(link.closing, self._life_s())
                # Set even if its time is over: where the successor fails, another one is opened.
                link.closing.set()
                if link.refusal:
                    symbols = await self._still_open(symbols)
                old, link = link, self._open(symbols)
        finally:
            await link.close()
            if old is not None:
                await old.close()

    def _life_s(self) -> float | None:
        """Return how long a connection is used."""
        life_s = self._venue.limits.life_s
        return None if life_s is None else life_s - self._timing.overlap

    async def _replace(self, old: _Link | None, symbols: Sequence[str]) -> None:
        """Let the connection before this one go, if there is one; note what was not received."""
        if old is None or old.refusal:
            self._cut(symbols)
        if old is not None:
            await asyncio.wait({old.task}, timeout=self._timing.overlap)
            await old.close()

    def _open(self, symbols: Sequence[str]) -> _Link:
        limits = self._venue.limits
        messages = -(-len(symbols) // limits.symbols_a_message)
        link = _Link(len(symbols) if self._venue.answers_each_symbol else messages)
        stream = Stream(
            self._venue,
            self._url,
            symbols,
            lambda frame: self._hear(link, frame),
            timing=self._timing,
            clock=self._clock,
        )
        link.task = asyncio.create_task(stream.run())
        return link

    def _cut(self, symbols: Sequence[str]) -> None:
        """Note that trades of these symbols may have been missed until now."""
        for symbol in symbols:
            book = self._books.get(symbol)
            if book is not None:
                self._behind(book)

    def _behind(self, book: Book) -> None:
        book.cut()
        if not book.whole:
            self._filler.wake(book)

    def _hear(self, link: _Link, frame: bytes) -> None:
        """Take a frame. Raises Retry where the connection must end."""
        try:
            message = self._venue.read(frame)
        except BadMessage as error:
            self._reject(error)
            return
        if isinstance(message, (list, tuple)):
            for trade in message:
                book = self._books.get(trade.symbol)
                if book is None:
                    self._reject(BadMessage("frame", "symbol", f"{trade.symbol!r}: not asked for"))
                    continue
                self._books.hear(book, trade)
                if book.seen.gaps and not book.mending:
                    self._filler.wake(book)
            if self._outlet.full:
                raise Retry("the queue to Kafka is full; what is missed is filled afterwards")
        else:
            self._control(link, message)

    def _control(self, link: _Link, message: Ack | VenueHeartbeat | Refusal | Closing) -> None:
        match message:
            case Ack():
                link.answered()
            case VenueHeartbeat(latest=latest):
                for symbol, number in latest.items():
                    book = self._books.get(symbol)
                    if book is not None and book.reveal(number):
                        self._filler.wake(book)
            case Closing(detail=detail):
                log.info("venue_closes", venue=self._venue.name, detail=detail)
                link.closing.set()
            case Refusal(symbols=symbols, detail=detail):
                log.error("venue_refuses", symbols=list(symbols), detail=detail)
                link.refusal = detail
                link.answered()
                # The others on the connection go on; a new one takes over without a break.
                asyncio.get_running_loop().call_later(self._timing.again[1], link.closing.set)

    def _reject(self, error: BadMessage) -> None:
        """Count a message that cannot be read; have what it held looked for by requests."""
        self._metrics.dropped("undecodable")
        if self._clock() - self._rejected_s >= _REJECTED_S:
            self._rejected_s = self._clock()
            log.error("message_rejected", venue=self._venue.name, error=str(error))
            for book in self._books:
                self._behind(book)
        self._rejected = str(error)

    async def _still_open(self, symbols: Sequence[str]) -> Sequence[str]:
        """Return the symbols that the venue still lists; all of them where it does not say."""
        try:
            body = await self._rest.get(self._venue.instruments())
            listed = {market.symbol for market in self._venue.read_instruments(body)}
        except (Retry, BadMessage) as error:
            log.warning("markets_unknown", venue=self._venue.name, error=str(error))
            return symbols
        for symbol in set(symbols) - listed:
            log.error("market_closed", venue=self._venue.name, symbol=symbol)
        return [symbol for symbol in symbols if symbol in listed] or symbols

    def progress(self) -> SymbolProgress:
        """Return what is noted once all trades taken so far are sent."""
        certain = not self._down and self._clock() - self._rejected_s >= _REJECTED_S
        until_ms = self._books.whole_until(self._now_ms()) if certain else None
        return SymbolProgress(self._books.progress(), until_ms)

    def sent(self, count: int) -> None:
        """Count events that the broker has."""
        self._metrics.events("swap", count)

    def covered(self, until_ms: int) -> None:
        """Note that the broker has all up to a time."""
        self._metrics.sent(until_ms / 1000)

    def _report(self) -> None:
        """Set the state and what is counted in between."""
        for reason, count in self._writer.unpriced.items():
            self._metrics.unpriced(reason, count)
        self._writer.unpriced.clear()
        quotes = {book.market.quote for book in self._books}
        for quote, price in self._writer.rates(quotes).items():
            self._metrics.reference(quote, price, None)
        behind = [book.market.symbol for book in self._books if not book.whole]
        if self._down:
            fault = next(filter(None, self._down.values()), "")
            self._metrics.state("waiting" if fault else "starting", fault)
        elif self._clock() - self._rejected_s < _REJECTED_S:
            self._metrics.state("waiting", f"messages are rejected: {self._rejected}")
        elif behind:
            self._metrics.state("catching_up", f"trades are missing: {', '.join(behind[:10])}")
        else:
            self._metrics.state("live")


def _check_names(markets: Sequence[Instrument]) -> None:
    """Raise ConfigError unless each base asset can be a token (DESIGN 3)."""
    faults = []
    for market in markets:
        try:
            canonical_token(market.base)
        except TokenIdInvalid as error:
            faults.append(f"symbols: {market.symbol}: {error}")
    if faults:
        raise ConfigError(faults)


class _Link:
    """One connection of a session, of which the venue gives `answers` to subscriptions.

    `refusal` is what it said of a subscription that it refuses.
    """

    def __init__(self, answers: int) -> None:
        self.task: asyncio.Task[None]
        self._awaited = answers
        self.acknowledged = asyncio.Event()
        self.closing = asyncio.Event()
        self.refusal = ""

    def answered(self) -> None:
        """Note an answer; from the last one on, the venue sends the trades of all symbols."""
        self._awaited -= 1
        if self._awaited <= 0:
            self.acknowledged.set()

    async def until(self, event: asyncio.Event, timeout_s: float | None, fault: str = "") -> None:
        """Wait for an event. Raises what ends the connection before it.

        When the time is over raises Retry with the fault, or returns if there is none.
        """
        waiting = asyncio.create_task(event.wait())
        try:
            done, _ = await asyncio.wait(
                {self.task, waiting}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            waiting.cancel()
        if self.task in done:
            self.task.result()
        if not done and fault:
            raise Retry(f"{fault}: {self.refusal}" if self.refusal else fault)

    async def close(self) -> None:
        """Cut the connection, if it is not cut yet. Raises what ended it, unless that is a cut."""
        self.task.cancel()
        await asyncio.wait({self.task})
        error = None if self.task.cancelled() else self.task.exception()
        if error is not None and not isinstance(error, Retry):
            raise error
