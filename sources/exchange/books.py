"""The markets of one session: takes their trades, drops repeats, knows which lag."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from aggregator.runtime.errors import ConfigError
from sources.events import Outgoing
from sources.exchange.events import EventWriter
from sources.exchange.ids import NamedTrades, NumberedTrades
from sources.exchange.trades import ExchangeTrade, Instrument

SYMBOL: Final = "symbol:"
"""Begins the journal's key of a symbol."""


class Book:
    """One market and what was seen of it.

    `behind` says that trades may have been missed that no id shows, as after a cut. `anchor` is
    the id and time of the newest trade before that.
    """

    def __init__(self, market: Instrument, seen: NumberedTrades | NamedTrades) -> None:
        self.market = market
        self.seen = seen
        self.behind = False
        self.anchor: tuple[str, int] = ("", 0)
        self.changed = False
        self.mending = False

    def cut(self) -> None:
        """Note that the connection was cut, or has just been made."""
        if self.seen.started and not self.behind:
            self.behind = True
            self.anchor = (str(self.seen.newest), self.seen.time_ms)

    def reveal(self, number: int) -> bool:
        """Note the number of the newest trade of the venue; return whether it is missing."""
        if isinstance(self.seen, NamedTrades) or not self.seen.started:
            return False
        self.seen.reveal(number)
        return bool(self.seen.gaps)

    @property
    def unsure(self) -> bool:
        """Whether a restart must begin before what was seen last, because no id shows a gap."""
        return self.behind and isinstance(self.seen, NamedTrades)

    @property
    def whole(self) -> bool:
        """Whether nothing is known to be missing."""
        return not self.behind and not self.seen.gaps


class Books:
    """All markets of a session, by symbol. `put` takes the record of each new trade."""

    def __init__(
        self,
        markets: Iterable[Instrument],
        *,
        numbered: bool,
        held: Mapping[str, bytes],
        writer: EventWriter,
        put: Callable[[Outgoing], None],
    ) -> None:
        """`held` is what the journal holds. Raises ConfigError where it cannot be read."""
        self._writer = writer
        self._put = put
        self._books: dict[str, Book] = {}
        kind = NumberedTrades if numbered else NamedTrades
        for market in markets:
            key = SYMBOL + market.symbol
            try:
                self._books[market.symbol] = Book(market, kind(held.get(key)))
            except ValueError as error:
                raise ConfigError([f"the journal's entry {key} cannot be read: {error}"]) from error

    def __iter__(self) -> Iterator[Book]:
        return iter(self._books.values())

    def get(self, symbol: str) -> Book | None:
        """Return the book of a symbol, None where it was not asked for."""
        return self._books.get(symbol)

    def hear(self, book: Book, trade: ExchangeTrade) -> None:
        """Take a trade of the stream: a number that is not lower shows what was missed before."""
        if book.behind and isinstance(trade.id, int):
            newest = book.seen.newest
            book.behind = isinstance(newest, int) and trade.id < newest
        self.take(book, trade)

    def take(self, book: Book, trade: ExchangeTrade) -> bool:
        """Queue a trade if it is new; return whether it is."""
        if not book.seen.take(trade):
            return False
        book.changed = True
        self._put(self._writer.record(book.market, trade))
        return True

    def progress(self) -> dict[str, bytes | None]:
        """Return the journal entries of the books that have changed since the last call."""
        changed = [book for book in self._books.values() if book.changed and not book.unsure]
        for book in changed:
            book.changed = False
        return {SYMBOL + book.market.symbol: book.seen.state() for book in changed}

    def whole_until(self, now_ms: int) -> int:
        """Return the time up to which nothing is missing, ms since the epoch; at most `now_ms`."""
        times = [gap.after_ms for book in self._books.values() for gap in book.seen.gaps[:1]]
        times += [book.anchor[1] for book in self._books.values() if book.behind]
        return min(times, default=now_ms)
