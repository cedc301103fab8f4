"""What the windows must show, from the log alone: slow, plain and exact.

Two steps, each by the text of DESIGN 3, 4 and 5. `decide` gives every record of the log its letter;
`recompute` makes the numbers of every token at an instant from decided records. Ids, labels and
token names are compared as texts, money is whole micro-USD, amounts and prices are fractions, and
no state is kept between instants. Shares no code with the service.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from functools import cached_property
from typing import Any, NamedTuple

MINUTE = 60_000
HOUR = 60 * MINUTE
BLOCK = 8192
"""Offsets whose ids are forgotten together."""
EARLIEST = 1_230_768_000_000
"""2009-01-01: a smaller timestamp is in seconds."""
_LONGEST_LABEL = 256
_NEVER = -(2**62)
_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}\Z")


@dataclass(frozen=True, eq=False)
class Logged:
    """One record of the log: the event as in its JSON, its position and its record time (ms).

    The event is None where it is not a swap at all. `origin` is the position (partition, offset)
    that a forwarded record comes from. Two records are never equal, even with the same content.
    """

    event: dict[str, Any] | None
    partition: int
    offset: int
    record_timestamp: int
    origin: tuple[int, int] | None = None

    @property
    def swap(self) -> dict[str, Any]:
        """The event of a record that has one."""
        assert self.event is not None
        return self.event

    @cached_property
    def micros(self) -> int | None:
        """The value in micro-USD, None where it is not known."""
        if self.swap.get("amount_usd") is None:
            return None
        exact = Decimal(self.swap["amount_usd"]).scaleb(6, Context(prec=60))
        return int(exact.to_integral_value(ROUND_HALF_EVEN, Context(prec=60)))

    @cached_property
    def amount(self) -> Fraction:
        """The amount in tokens, to 18 digits."""
        exact = Decimal(self.swap["amount"]).scaleb(18, Context(prec=80))
        return Fraction(int(exact.to_integral_value(ROUND_HALF_EVEN, Context(prec=80))), 10**18)

    @cached_property
    def price(self) -> Fraction | None:
        """The price in USD, None where it is not known or 0."""
        if self.swap.get("price_usd") is not None:
            return Fraction(self.swap["price_usd"]) or None
        if self.swap.get("amount_usd") is not None:
            return Fraction(self.swap["amount_usd"]) / Fraction(self.swap["amount"]) or None
        return None

    @cached_property
    def trader(self) -> str | None:
        """The trader, None where it is not known."""
        return label(self.swap.get("trader"))


@dataclass(frozen=True)
class Rules:
    """Durations in ms. `homes` 0: every token is at home where it is."""

    homes: int = 0
    partitioner: str = "murmur2"
    grace_ms: int = 24 * HOUR
    max_future_ms: int = 5 * MINUTE
    ttl_ms: int = 26 * HOUR


@dataclass(frozen=True, eq=False)
class DecidedRecord:
    """A record, the letter of its verdict, and the record that it takes out of the windows."""

    logged: Logged
    letter: str
    undone: Logged | None = None


@dataclass(frozen=True)
class PreviousNumbers:
    """The previous window of a window; `retraction_touched` as in `WindowNumbers`."""

    trades: int
    volume_usd: int
    price_change_pct: Fraction | None
    retraction_touched: bool


@dataclass(frozen=True)
class WindowNumbers:
    """One window of one token. USD in whole micro-USD, amounts in tokens, prices in USD.

    `complete`: the history covers the whole window. `retraction_touched`: a swap was taken out of
    one of its minutes. A bucket keeps extremes only, so there the engine's prices, largest trade
    and distinct traders need not be those of the swaps that are left.
    """

    trades: int
    buys: int
    sells: int
    traders: int
    buyers: int
    sellers: int
    volume_usd: int
    buy_volume_usd: int
    sell_volume_usd: int
    net_volume_usd: int
    volume_token: Fraction
    open_usd: Fraction | None
    high_usd: Fraction | None
    low_usd: Fraction | None
    close_usd: Fraction | None
    vwap_usd: Fraction | None
    price_change_pct: Fraction | None
    largest_trade_usd: int | None
    complete: bool
    previous: PreviousNumbers | None
    retraction_touched: bool


@dataclass
class TokenNumbers:
    """One token at one instant. Last price, last trade and symbol are of all swaps ever counted.

    `minutes` are those in which a swap was counted, retracted or not. `unretracted` holds the
    windows as if no swap had ever been taken out.
    """

    unpriced: int = 0
    duplicates: int = 0
    late: int = 0
    retracted: int = 0
    symbol: str | None = None
    last_price_usd: Fraction | None = None
    last_trade_at: int | None = None
    minutes: set[int] = field(default_factory=set)
    windows: dict[str, WindowNumbers] = field(default_factory=dict)
    unretracted: dict[str, WindowNumbers] = field(default_factory=dict)


# --- which records count ---


class _Entry(NamedTuple):
    """What stands of an id: C counted, L late, X removed, T removed before any swap."""

    state: str
    at: int
    counted: Logged | None
    block: str | None


class _Partition:
    """The fold of one partition's log."""

    def __init__(self, partition: int, rules: Rules) -> None:
        self._partition, self._rules = partition, rules
        self._clock = _NEVER
        self._entries: dict[tuple[Any, ...], _Entry] = {}
        self._origins: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._open = 0

    def read(self, logged: Logged) -> DecidedRecord:
        while self._open < logged.offset // BLOCK:
            self._ends[self._open] = self._clock
            self._open += 1
        self._clock = max(self._clock, logged.record_timestamp)
        rules, event = self._rules, logged.event
        if event is None or not _is_swap(logged, rules.max_future_ms):
            return DecidedRecord(logged, "B")
        if rules.homes:
            home = home_of(token_id(event), rules.homes, rules.partitioner)
            if home != self._partition:
                return DecidedRecord(logged, "M")
        if logged.origin is not None:
            partition, offset = logged.origin
            if offset <= self._origins.get(partition, -1):
                return DecidedRecord(logged, "F")
            self._origins[partition] = offset
        return self._change(logged)

    def _change(self, logged: Logged) -> DecidedRecord:
        event = logged.swap
        name, block = event_identity(event), _block(event)
        entry = self._entries.get(name)
        if entry is not None and self._forgotten(entry.at):
            entry = None
        other = entry is not None and None not in (entry.block, block) and entry.block != block
        state = entry.state if entry is not None else ""
        counted = entry.counted if entry is not None else None
        if event.get("removed", False):
            letter = _letter_of_removal(state, other)
        else:
            late = event["timestamp"] < self._clock - self._rules.grace_ms
            letter = _letter_of_add(state, other, late)
        undone = None
        if letter == "U" and counted is not None and not self._forgotten(counted.offset):
            undone = counted
        if letter in _AFTER:
            kept = logged if letter in "CP" else counted if letter == "N" else None
            self._entries[name] = _Entry(
                _AFTER[letter], logged.offset, kept, None if letter in "UV" else block
            )
        return DecidedRecord(logged, letter, undone)

    def _forgotten(self, offset: int) -> bool:
        block = offset // BLOCK
        return block < self._open and self._clock > self._ends[block] + self._rules.ttl_ms


# The state that a letter leaves; the other letters change nothing.
_AFTER = {"C": "C", "P": "C", "N": "C", "L": "L", "n": "L", "U": "X", "V": "X", "T": "T"}


def _letter_of_add(state: str, other: bool, late: bool) -> str:
    fresh = "L" if late else "C"
    if state in {"", "X"}:
        return fresh
    if state == "T":
        return fresh if other else "V"
    if not other:
        return "D"
    return "N" if state == "C" else "n" if late else "P"


def _letter_of_removal(state: str, other: bool) -> str:
    if not state:
        return "T"
    if state in {"X", "T"}:
        return "D"
    return "I" if other else "U"


def _is_swap(logged: Logged, max_future_ms: int) -> bool:
    """Whether the timestamp is that of a swap; the rest of the event is well formed."""
    timestamp = logged.swap["timestamp"]
    if timestamp < EARLIEST:
        return False
    judged = not logged.swap.get("removed", False) and logged.origin is None
    return not judged or timestamp <= logged.record_timestamp + max_future_ms


def decide(log: Iterable[Logged], rules: Rules) -> list[DecidedRecord]:
    """Decide every record of whole logs; each partition's records come in the order of offsets."""
    partitions: dict[int, _Partition] = {}
    decided = []
    for logged in log:
        if logged.partition not in partitions:
            partitions[logged.partition] = _Partition(logged.partition, rules)
        decided.append(partitions[logged.partition].read(logged))
    return decided


def origin_of(headers: Iterable[tuple[str, Any]] | None) -> tuple[int, int] | None:
    """Return the position (partition, offset) that a forwarded record comes from."""
    for name, text in headers or ():
        if name == "origin":
            partition, offset = text.decode().split(":")[:2]
            return int(partition), int(offset)
    return None


def home_of(key: str, homes: int, partitioner: str = "murmur2") -> int:
    """Return the partition that producers choose for a key: murmur2 (Java), crc32 (librdkafka)."""
    if partitioner == "crc32":
        return zlib.crc32(key.encode()) % homes
    assert partitioner == "murmur2"
    data = key.encode()
    mixed, whole = 0x9747B28C ^ len(data), len(data) & ~3
    for at in range(0, whole, 4):
        word = _times(int.from_bytes(data[at : at + 4], "little"))
        mixed = _times(mixed) ^ _times(word ^ word >> 24)
    if whole < len(data):
        mixed = _times(mixed ^ int.from_bytes(data[whole:], "little"))
    mixed = _times(mixed ^ mixed >> 13)
    return ((mixed ^ mixed >> 15) & 0x7FFFFFFF) % homes


def _times(word: int) -> int:
    return word * 0x5BD1E995 & 0xFFFFFFFF


# --- what they make ---


@dataclass
class _Fate:
    """What becomes of the records of one token; `undone` holds what was taken out."""

    counted: list[Logged] = field(default_factory=list)
    undone: list[Logged] = field(default_factory=list)
    late: int = 0
    duplicates: int = 0
    retractions: int = 0


def recompute(
    decided: Iterable[DecidedRecord],
    *,
    now: int,
    windows: Sequence[tuple[str, int]],
    history_from: int | None,
) -> dict[str, TokenNumbers]:
    """Return every token that has numbers at `now` (ms), by token id.

    `windows` are (name, minutes); `history_from` is the instant from which the history is complete.
    """
    fates: dict[str, _Fate] = {}
    for each in decided:
        if each.letter not in "CPLDU":
            continue
        changed = each.undone or each.logged
        waits = each.letter in "CP" or each.undone is not None
        if waits and changed.swap["timestamp"] // MINUTE > now // MINUTE:
            continue
        fate = fates.setdefault(token_id(each.logged.swap), _Fate())
        if each.letter in "CP":
            fate.counted.append(each.logged)
        fate.late += each.letter == "L"
        fate.duplicates += each.letter == "D"
        fate.retractions += each.letter == "U"
        if each.undone is not None:
            fate.undone.append(each.undone)
    return {
        token: _numbers(fate, now=now, windows=windows, since=history_from)
        for token, fate in fates.items()
    }


def _numbers(
    fate: _Fate, *, now: int, windows: Sequence[tuple[str, int]], since: int | None
) -> TokenNumbers:
    # Records are never equal, so this compares identities.
    undone = set(fate.undone)
    standing = [one for one in fate.counted if one not in undone]
    prices = _prices(fate.counted)
    symbols = [label(one.swap.get("symbol")) for one in _in_order(fate.counted)]
    named = [symbol for symbol in symbols if symbol is not None]
    return TokenNumbers(
        unpriced=sum(one.swap.get("amount_usd") is None for one in standing),
        duplicates=fate.duplicates,
        late=fate.late,
        retracted=fate.retractions,
        symbol=named[-1] if named else None,
        last_price_usd=prices[-1] if prices else None,
        last_trade_at=max((one.swap["timestamp"] for one in fate.counted), default=None),
        minutes={one.swap["timestamp"] // MINUTE for one in fate.counted},
        windows={
            name: _window(standing, fate.undone, now, minutes, since) for name, minutes in windows
        },
        unretracted={
            name: _window(fate.counted, [], now, minutes, since) for name, minutes in windows
        },
    )


def _window(
    standing: list[Logged], undone: list[Logged], now: int, minutes: int, since: int | None
) -> WindowNumbers:
    last = now // MINUTE
    inside = _within(standing, last - minutes, last)
    priced = [(one, one.micros) for one in inside if one.micros is not None]
    buys = [one for one in inside if one.swap["side"] == "buy"]
    sells = [one for one in inside if one.swap["side"] == "sell"]
    volume = sum(micros for _, micros in priced)
    buy_volume = sum(micros for one, micros in priced if one.swap["side"] == "buy")
    amount = sum((one.amount for one, _ in priced), Fraction(0))
    prices = _prices(inside)
    return WindowNumbers(
        trades=len(inside),
        buys=len(buys),
        sells=len(sells),
        traders=_distinct_traders(inside),
        buyers=_distinct_traders(buys),
        sellers=_distinct_traders(sells),
        volume_usd=volume,
        buy_volume_usd=buy_volume,
        sell_volume_usd=volume - buy_volume,
        net_volume_usd=buy_volume - (volume - buy_volume),
        volume_token=amount,
        open_usd=prices[0] if prices else None,
        high_usd=max(prices, default=None),
        low_usd=min(prices, default=None),
        close_usd=prices[-1] if prices else None,
        # A price of 0 counts as no price.
        vwap_usd=Fraction(volume, 1_000_000) / amount if volume else None,
        price_change_pct=_change(prices),
        largest_trade_usd=max((micros for _, micros in priced), default=None),
        complete=_reaches(since, last - minutes),
        previous=_previous(standing, undone, last - minutes, minutes, since),
        retraction_touched=bool(_within(undone, last - minutes, last)),
    )


def _previous(
    standing: list[Logged], undone: list[Logged], last: int, minutes: int, since: int | None
) -> PreviousNumbers | None:
    if not _reaches(since, last - minutes):
        return None
    inside = _within(standing, last - minutes, last)
    return PreviousNumbers(
        trades=len(inside),
        volume_usd=sum(one.micros or 0 for one in inside),
        price_change_pct=_change(_prices(inside)),
        retraction_touched=bool(_within(undone, last - minutes, last)),
    )


def _reaches(since: int | None, before_first: int) -> bool:
    """Whether a history that begins at `since` covers the minutes after `before_first`."""
    return since is not None and since <= (before_first + 1) * MINUTE


def _distinct_traders(log: list[Logged]) -> int:
    named = {one.trader for one in log}
    return len(named - {None})


def _change(prices: list[Fraction]) -> Fraction | None:
    return (prices[-1] - prices[0]) / prices[0] * 100 if prices else None


# --- names ---


def token_id(event: dict[str, Any]) -> str:
    """Return `chain:token`, with an address in lower case."""
    return f"{event['chain']}:{_lower_hex(event['token'])}"


def event_identity(event: dict[str, Any]) -> tuple[Any, ...]:
    """Return what is counted once: an event of a chain and one of its tokens."""
    token = _lower_hex(event["token"])
    return event["chain"], _lower_hex(event["tx_hash"]), event["log_index"], token


def label(text: str | None) -> str | None:
    """Return a symbol or trader as it is shown: cut, without invisible characters, or None.

    An address of 40 digits is shown in lower case.
    """
    kept = _visible(text)
    return kept.lower() if kept is not None and _ADDRESS.match(kept) else kept


def _visible(text: str | None) -> str | None:
    if text is None:
        return None
    kept = [c for c in text[:_LONGEST_LABEL] if unicodedata.category(c) not in {"Cc", "Cf"}]
    return "".join(kept) if "".join(kept).strip() else None


def _block(event: dict[str, Any]) -> str | None:
    block = _visible(event.get("block_hash"))
    return None if block is None else _lower_hex(block)


def _lower_hex(text: str) -> str:
    return text.lower() if text.startswith(("0x", "0X")) else text


def _within(log: list[Logged], after: int, last: int) -> list[Logged]:
    """Return the records of the minutes (after, last]."""
    return [one for one in log if after < one.swap["timestamp"] // MINUTE <= last]


def order_of(logged: Logged) -> tuple[int, int, int, int]:
    """Return what sorts records in the order of trading; a swap without a block comes first."""
    event, block = logged.swap, logged.swap.get("block_number")
    return event["timestamp"], -1 if block is None else block, event["log_index"], logged.offset


def _in_order(log: list[Logged]) -> list[Logged]:
    return sorted(log, key=order_of)


def _prices(log: list[Logged]) -> list[Fraction]:
    return [one.price for one in _in_order(log) if one.price is not None]


def by_partition(decided: Iterable[DecidedRecord]) -> dict[int, list[DecidedRecord]]:
    """Return decided records by their partition."""
    found: dict[int, list[DecidedRecord]] = defaultdict(list)
    for each in decided:
        found[each.logged.partition].append(each)
    return found
