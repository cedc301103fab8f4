"""Which trades of a symbol were seen: what is new, what is missing, what a restart begins with.

Where a venue numbers the trades, every repeat and every gap is known exactly. Where it does not,
repeats are known among the recent trades, and a cut leaves a gap of unknown size. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from sources.exchange.trades import ExchangeTrade, TradeGap

MOST_GAPS: Final = 1_000
"""Gaps of one symbol; more are joined, so trades between them are sent again, which is harmless."""
RENUMBERED_MS: Final = 10_000
"""A low number on a trade that is newer than all others by this is a new numbering."""
_RECENT: Final = 2_000


class _Numbers(msgspec.Struct, array_like=True):
    newest: int
    time_ms: int
    gaps: list[TradeGap]


class NumberedTrades:
    """A symbol whose trades are numbered without holes.

    `newest` is the highest number seen; of those below it, all but the gaps were seen. `lost`
    counts numbers that were given up, `renumbered` how often the venue has begun to number again.
    """

    def __init__(self, state: bytes | None = None) -> None:
        """Begin with the first trade that comes, or with what `state()` returned."""
        self.newest: int | None = None
        self.time_ms = 0
        self.lost = 0
        self.renumbered = 0
        self._gaps: list[TradeGap] = []
        if state is not None:
            held = msgspec.json.decode(state, type=_Numbers)
            self.newest, self.time_ms, self._gaps = held.newest, held.time_ms, held.gaps

    @property
    def started(self) -> bool:
        return self.newest is not None

    @property
    def gaps(self) -> Sequence[TradeGap]:
        return self._gaps

    def take(self, trade: ExchangeTrade) -> bool:
        """Note a trade; a number further on opens a gap, a number in a gap makes it smaller."""
        number = int(trade.id)
        newest = self.newest
        if newest is None or number == newest + 1:
            self._advance(number, trade.timestamp)
            return True
        if number > newest:
            self._open(newest + 1, number - 1)
            self._advance(number, trade.timestamp)
            return True
        if self._close(number):
            self.time_ms = max(self.time_ms, trade.timestamp)
            return True
        if trade.timestamp <= self.time_ms + RENUMBERED_MS:
            return False
        self.renumbered += 1
        self.lost += sum(gap.last - gap.first + 1 for gap in self._gaps)
        self._gaps.clear()
        self._advance(number, trade.timestamp)
        return True

    def reveal(self, number: int) -> None:
        """Note that the venue names a newest trade, which may not have been seen."""
        if self.newest is not None and number > self.newest:
            self._open(self.newest + 1, number)
            self.newest = number

    def missing(self, gap: TradeGap) -> int:
        """Return how many numbers of a range are still missing."""
        return sum(part.last - part.first + 1 for part in self._within(gap))

    def give_up(self, gap: TradeGap) -> int:
        """Stop to expect what is still missing of a range; return how many numbers that are."""
        parts = self._within(gap)
        self._gaps = [
            piece
            for each in self._gaps
            for piece in _without(each, gap)
            if piece.first <= piece.last
        ]
        count = sum(part.last - part.first + 1 for part in parts)
        self.lost += count
        return count

    def state(self) -> bytes:
        return msgspec.json.encode(_Numbers(self.newest or 0, self.time_ms, self._gaps))

    def _advance(self, number: int, time_ms: int) -> None:
        self.newest = number
        self.time_ms = max(self.time_ms, time_ms)

    def _open(self, first: int, last: int) -> None:
        if len(self._gaps) >= MOST_GAPS:
            joined = self._gaps.pop()
            self._gaps.append(TradeGap(joined.first, last, joined.after_ms))
        else:
            self._gaps.append(TradeGap(first, last, self.time_ms))

    def _close(self, number: int) -> bool:
        """Take a number out of its gap; return False where it is in none."""
        for index in range(len(self._gaps) - 1, -1, -1):
            gap = self._gaps[index]
            if number > gap.last:
                return False
            if number >= gap.first:
                pieces = _without(gap, TradeGap(number, number, 0))
                self._gaps[index : index + 1] = [p for p in pieces if p.first <= p.last]
                return True
        return False

    def _within(self, gap: TradeGap) -> list[TradeGap]:
        return [
            TradeGap(max(each.first, gap.first), min(each.last, gap.last), each.after_ms)
            for each in self._gaps
            if each.first <= gap.last and each.last >= gap.first
        ]


class _Names(msgspec.Struct, array_like=True):
    newest: str
    time_ms: int


class NamedTrades:
    """A symbol whose trades have names without an order: only recent repeats are known."""

    def __init__(self, state: bytes | None = None) -> None:
        """Begin with the first trade that comes, or with what `state()` returned."""
        self.newest = ""
        self.time_ms = 0
        self._recent: dict[str, None] = {}
        if state is not None:
            held = msgspec.json.decode(state, type=_Names)
            self.newest, self.time_ms = held.newest, held.time_ms
            self._recent[self.newest] = None

    @property
    def started(self) -> bool:
        return bool(self.newest)

    @property
    def gaps(self) -> Sequence[TradeGap]:
        return ()

    def take(self, trade: ExchangeTrade) -> bool:
        name = str(trade.id)
        if name in self._recent:
            return False
        self._recent[name] = None
        if len(self._recent) > _RECENT:
            del self._recent[next(iter(self._recent))]
        if trade.timestamp >= self.time_ms:
            self.newest, self.time_ms = name, trade.timestamp
        return True

    def reaches(self, trades: Sequence[ExchangeTrade], newest: str, time_ms: int) -> bool:
        """Return whether past trades reach back to a trade that was seen, so that none is lost."""
        return any(each.id == newest or each.timestamp < time_ms for each in trades)

    def state(self) -> bytes:
        return msgspec.json.encode(_Names(self.newest, self.time_ms))


def _without(gap: TradeGap, taken: TradeGap) -> tuple[TradeGap, TradeGap]:
    """Return what is left of a gap below and above a range; a part may be empty."""
    below = TradeGap(gap.first, min(gap.last, taken.first - 1), gap.after_ms)
    above = TradeGap(max(gap.first, taken.last + 1), gap.last, gap.after_ms)
    return (below, above) if taken.first <= gap.last and taken.last >= gap.first else (gap, _EMPTY)


_EMPTY: Final = TradeGap(1, 0, 0)
