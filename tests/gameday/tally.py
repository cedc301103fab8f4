"""What every token must show according to the log, summed by the minute in one pass.

The rules are those of `tests.support.oracle`, which is too slow for millions of records and which
checks this one (`test_tally.py`). Every token must live on one partition. USD are micro-USD,
amounts 10^-18 token. Shares no code with the service.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec

MINUTE: Final = 60_000
_GRACE: Final = 2 * MINUTE
_MAX_FUTURE: Final = 5 * MINUTE
_ATTOS: Final = 10**18
# A token's trades are numbered from the minute of its first one times this (docs of `trades`).
_NUMBERS_A_MINUTE: Final = 2**20
_decode = msgspec.json.Decoder().decode

# The verdict on a record: counted, late, a retraction that undoes, without effect, repeated.
COUNTED, LATE, UNDOING, VOID, REPEATED = b"CLUVD"
Place = tuple[int, int]
"""(event time in ms, offset): the order of trading within a partition."""


@dataclass(slots=True)
class Minute:
    """One token in one UTC minute. `touched`: a swap was retracted, so extremes may be too wide."""

    trades: int = 0
    buys: int = 0
    volume: int = 0
    buy_volume: int = 0
    amount: int = 0
    unpriced: int = 0
    retracted: int = 0
    touched: bool = False
    last_at: int = 0
    first: tuple[Place, float] | None = None
    last: tuple[Place, float] | None = None
    high: float = 0.0
    low: float = float("inf")
    largest: int | None = None
    buyers: set[str] = field(default_factory=set)
    sellers: set[str] = field(default_factory=set)

    def add(self, swap: Swap, place: Place, sign: int) -> None:
        """Count a swap, or (-1) retract one; a retracted swap stays in extremes and traders."""
        self.trades += sign
        self.buys += sign * swap.buy
        if swap.usd is None:
            self.unpriced += sign
        else:
            self.volume += sign * swap.usd
            self.buy_volume += sign * swap.usd * swap.buy
            self.amount += sign * swap.amount
        if sign < 0:
            self.retracted += 1
            self.touched = True
            return
        self.last_at = max(self.last_at, place[0])
        (self.buyers if swap.buy else self.sellers).add(swap.trader)
        if swap.usd is not None:
            self.largest = swap.usd if self.largest is None else max(self.largest, swap.usd)
        if swap.price is not None:
            entry = (place, swap.price)
            self.first = entry if self.first is None else min(self.first, entry)
            self.last = entry if self.last is None else max(self.last, entry)
            self.high, self.low = max(self.high, swap.price), min(self.low, swap.price)


@dataclass(slots=True)
class Swap:
    """The fields of an event that are summed."""

    buy: bool
    usd: int | None
    amount: int
    price: float | None
    trader: str


@dataclass(slots=True)
class Archived:
    """A token's minute or day as the archive sums it, late swaps included."""

    trades: int = 0
    volume: int = 0
    buy_volume: int = 0
    amount: int = 0
    late: int = 0


@dataclass
class Token:
    """One token. `stream` are the offsets of its trades in log order, as they are numbered.

    A trade is a swap counted in a window, or the retraction of one; a late swap is neither.
    """

    partition: int
    symbol: str | None = None
    duplicates: int = 0
    late: int = 0
    minutes: dict[int, Minute] = field(default_factory=lambda: defaultdict(Minute))
    archived: dict[int, Archived] = field(default_factory=lambda: defaultdict(Archived))
    stream: array[int] = field(default_factory=lambda: array("q"))
    first_number: int = 0


class Tally:
    """Reads every record of the log, each partition in the order of its offsets."""

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.dead: set[tuple[int, int]] = set()
        self.records = 0
        self.counts = dict.fromkeys("CLUVD", 0)
        self.rows: dict[int, tuple[array[int], bytearray]] = {}
        self.earliest: dict[int, int] = {}
        self._watermarks: dict[int, int] = {}
        self._additions: dict[tuple[str, int], int] = {}
        self._retracted: set[tuple[str, int]] = set()

    def add(self, partition: int, offset: int, stamp: int, value: bytes | None) -> None:
        """The next record of a partition; `stamp` is its Kafka timestamp (ms)."""
        self.records += 1
        event = _event(value)
        if event is None or event["timestamp"] > stamp + _MAX_FUTURE:
            self.dead.add((partition, offset))
            return
        timestamp: int = event["timestamp"]
        watermark = self._watermarks.get(partition)
        newest = min(timestamp, stamp + _MAX_FUTURE)
        self._watermarks[partition] = newest if watermark is None else max(watermark, newest)
        minute = timestamp // MINUTE
        closed = watermark is not None and (minute + 1) * MINUTE <= watermark - _GRACE

        token_id = f"{event['chain']}:{event['token']}"
        token = self.tokens.get(token_id)
        if token is None:
            token = self.tokens[token_id] = Token(partition)
        fate = self._decide((event["tx_hash"], event["log_index"]), event["removed"], closed)
        self.counts[chr(fate)] += 1
        if fate == REPEATED:
            token.duplicates += 1
            return
        offsets, fates = self.rows.setdefault(partition, (array("q"), bytearray()))
        offsets.append(offset)
        fates.append(fate)
        if fate != VOID:
            self._count(token, event, fate, minute, (timestamp, offset))

    def _decide(self, swap: tuple[str, int], removed: bool, closed: bool) -> int:
        addition = self._additions.get(swap)
        if removed:
            if swap in self._retracted:
                return REPEATED
            self._retracted.add(swap)
            if addition is None or addition == VOID:
                return VOID
            return UNDOING
        if addition is not None:
            return REPEATED
        fate = VOID if swap in self._retracted else LATE if closed else COUNTED
        self._additions[swap] = fate
        return fate

    def _count(
        self, token: Token, event: dict[str, Any], fate: int, minute: int, place: Place
    ) -> None:
        swap = _swap(event)
        sign = -1 if fate == UNDOING else 1
        undone_late = (
            fate == UNDOING and self._additions[event["tx_hash"], event["log_index"]] == LATE
        )
        archived = token.archived[minute]
        archived.trades += sign
        archived.late += fate == LATE
        if swap.usd is not None:
            archived.volume += sign * swap.usd
            archived.buy_volume += sign * swap.usd * swap.buy
            archived.amount += sign * swap.amount
        if fate == LATE:
            token.late += 1
        elif not undone_late:
            if not token.stream:
                token.first_number = minute * _NUMBERS_A_MINUTE + 1
            token.stream.append(place[1])
            token.symbol = event["symbol"]
            token.minutes[minute].add(swap, place, sign)
            if fate == COUNTED:
                known = self.earliest.get(token.partition, place[0])
                self.earliest[token.partition] = min(known, place[0])


def _event(value: bytes | None) -> dict[str, Any] | None:
    """The event, None for what the traffic made as one that must not count."""
    try:
        event: dict[str, Any] = _decode(value or b"")
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    return None if event.get("bad") else event


def _swap(event: dict[str, Any]) -> Swap:
    # The traffic writes six digits of USD and twelve of an amount, so neither is rounded here.
    amount = Decimal(event["amount"])
    usd = event["amount_usd"]
    price = None if usd is None else float(Decimal(usd) / amount)
    return Swap(
        buy=event["side"] == "buy",
        usd=None if usd is None else int(Decimal(usd).scaleb(6)),
        amount=int(amount * _ATTOS),
        price=price or None,
        trader=event["trader"],
    )


def window(token: Token, as_of: int, minutes: int, back: int = 0) -> Minute:
    """The sum of the `minutes` up to and with the minute of `as_of`, `back` windows before."""
    last = as_of // MINUTE - back * minutes
    total = Minute()
    for at, each in token.minutes.items():
        if last - minutes < at <= last:
            _merge(total, each)
    return total


def _merge(total: Minute, each: Minute) -> None:
    for name in ("trades", "buys", "volume", "buy_volume", "amount", "unpriced", "retracted"):
        setattr(total, name, getattr(total, name) + getattr(each, name))
    total.touched |= each.touched
    total.last_at = max(total.last_at, each.last_at)
    total.buyers |= each.buyers
    total.sellers |= each.sellers
    if each.largest is not None:
        total.largest = max(total.largest or 0, each.largest)
    if each.first is not None and each.last is not None:
        total.first = each.first if total.first is None else min(total.first, each.first)
        total.last = each.last if total.last is None else max(total.last, each.last)
        total.high, total.low = max(total.high, each.high), min(total.low, each.low)
