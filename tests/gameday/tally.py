"""What every token must show according to the log, summed by the minute in one pass.

The rules are those of `tests.support.oracle`, which is too slow for millions of records and which
checks this one (`test_tally.py`). The traffic has no block hashes. USD are micro-USD, amounts
10^-18 token. Shares no code with the service.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final

import msgspec

from tests.gameday.events import MAX_FUTURE, PARTITIONS
from tests.support.oracle import home_of

MINUTE: Final = 60_000
GRACE: Final = 5 * MINUTE
"""As the site sets it: with the default no swap of a day would be late."""
_ATTOS: Final = 10**18
# A token's trades are numbered from the minute of its first one times this (docs of `trades`).
_NUMBERS_A_MINUTE: Final = 2**20
_decode = msgspec.json.Decoder().decode

# The verdict on a record: counted, late, a retraction of one of these, a retraction that came first
# and the swap that it made void, repeated, not at home, forwarded before.
COUNTED, LATE, UNDOING, EARLY, VOID, REPEATED, MISPLACED, FORWARDED = b"CLUTVDMF"
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

    def add(self, swap: Swap, sign: int) -> None:
        """Add a row with this sign."""
        self.trades += sign
        if swap.usd is not None:
            self.volume += sign * swap.usd
            self.buy_volume += sign * swap.usd * swap.buy
            self.amount += sign * swap.amount


@dataclass
class Token:
    """One token. `stream` are the offsets of its trades in log order, as they are numbered.

    A trade is a swap counted in a window, or the retraction of one; a late swap is neither.
    `retracted` counts the retractions of late swaps, which no minute knows.
    """

    partition: int
    symbol: str | None = None
    duplicates: int = 0
    late: int = 0
    retracted: int = 0
    minutes: dict[int, Minute] = field(default_factory=lambda: defaultdict(Minute))
    archived: dict[int, Archived] = field(default_factory=lambda: defaultdict(Archived))
    stream: array[int] = field(default_factory=lambda: array("q"))
    first_number: int = 0


@dataclass(slots=True)
class Entry:
    """What stands of an id: counted, late, removed, or removed before it came."""

    state: int
    swap: Swap | None = None
    place: Place = (0, 0)


_REMOVED: Final = 0


class Tally:
    """Reads every record of the log, each partition in the order of its offsets.

    `begins` has the timestamp of each partition's first record, where its history begins.
    `misplaced` are the positions of records that are not at home, `forwarded` those of records that
    the service has sent home, and `forwards` counts what it has sent.
    """

    def __init__(self) -> None:
        self.tokens: dict[str, Token] = {}
        self.dead: set[tuple[int, int]] = set()
        self.misplaced: set[tuple[int, int]] = set()
        self.forwarded: set[tuple[int, int]] = set()
        self.records = self.forwards = 0
        self.counts = dict.fromkeys("CLUTVDMF", 0)
        self.rows: dict[int, tuple[array[int], bytearray]] = {}
        self.begins: dict[int, int] = {}
        self._clocks: dict[int, int] = {}
        self._entries: dict[tuple[str, int, str], Entry] = {}
        self._origins: dict[tuple[int, int], int] = {}

    def add(
        self,
        partition: int,
        offset: int,
        stamp: int,
        value: bytes | None,
        origin: tuple[int, int] | None = None,
    ) -> None:
        """The next record of a partition; `stamp` is its Kafka timestamp (ms)."""
        self.records += 1
        if origin is not None:
            self.forwards += 1
            self.forwarded.add(origin)
        self.begins.setdefault(partition, stamp)
        clock = self._clocks[partition] = max(stamp, self._clocks.get(partition, 0))
        event = _event(value)
        if event is None or (
            event["timestamp"] > stamp + MAX_FUTURE and not event["removed"] and origin is None
        ):
            self.dead.add((partition, offset))
            return
        token_id = f"{event['chain']}:{event['token']}"
        fate = self._where(partition, token_id, origin)
        if fate is None:
            self._decide(partition, offset, event, event["timestamp"] < clock - GRACE)
        else:
            self.counts[chr(fate)] += 1
            if fate == MISPLACED:
                self.misplaced.add((partition, offset))

    def _where(self, partition: int, token_id: str, origin: tuple[int, int] | None) -> int | None:
        """The fate of a record that is not at home, or that came before; None for all others."""
        if home_of(token_id, PARTITIONS) != partition:
            return MISPLACED
        if origin is not None:
            if origin[1] <= self._origins.get((partition, origin[0]), -1):
                return FORWARDED
            self._origins[partition, origin[0]] = origin[1]
        return None

    def _decide(self, partition: int, offset: int, event: dict[str, Any], late: bool) -> None:
        key = (event["tx_hash"], event["log_index"], event["token"])
        entry = self._entries.get(key)
        fate = self._fate(None if entry is None else entry.state, event["removed"], late)
        self.counts[chr(fate)] += 1
        token_id = f"{event['chain']}:{event['token']}"
        if fate in {COUNTED, LATE, UNDOING, REPEATED}:
            # A record of another fate does not even make the token known.
            token = self.tokens.setdefault(token_id, Token(partition))
        if fate == REPEATED:
            token.duplicates += 1
            return
        offsets, fates = self.rows.setdefault(partition, (array("q"), bytearray()))
        offsets.append(offset)
        fates.append(fate)
        place = (event["timestamp"], offset)
        if fate == UNDOING:
            assert entry is not None
            self._undo(token, entry, offset)
            self._entries[key] = Entry(_REMOVED)
        elif fate in {COUNTED, LATE}:
            swap = _swap(event)
            self._count(token, swap, place, fate == LATE)
            token.symbol = event["symbol"] if fate == COUNTED else token.symbol
            self._entries[key] = Entry(fate, swap, place)
        else:
            self._entries[key] = Entry(EARLY if fate == EARLY else _REMOVED)

    @staticmethod
    def _fate(state: int | None, removed: bool, late: bool) -> int:
        if removed:
            if state is None:
                return EARLY
            return UNDOING if state in {COUNTED, LATE} else REPEATED
        if state == EARLY:
            return VOID
        if state in {COUNTED, LATE}:
            return REPEATED
        return LATE if late else COUNTED

    def _count(self, token: Token, swap: Swap, place: Place, late: bool) -> None:
        minute = place[0] // MINUTE
        archived = token.archived[minute]
        archived.add(swap, 1)
        archived.late += late
        if late:
            token.late += 1
            return
        self._number(token, minute, place[1])
        token.minutes[minute].add(swap, place, 1)

    def _undo(self, token: Token, entry: Entry, offset: int) -> None:
        """Take out what the swap put in, whatever its retraction says."""
        assert entry.swap is not None
        minute = entry.place[0] // MINUTE
        token.archived[minute].add(entry.swap, -1)
        if entry.state == LATE:
            token.retracted += 1
            return
        self._number(token, minute, offset)
        token.minutes[minute].add(entry.swap, entry.place, -1)

    @staticmethod
    def _number(token: Token, minute: int, offset: int) -> None:
        if not token.stream:
            token.first_number = minute * _NUMBERS_A_MINUTE + 1
        token.stream.append(offset)


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
