"""What every token must show, decided from the log alone.

Which records count is decided per swap. Where all records of a swap lie on one partition, there is
one answer. Where they lie on several, Redis decides which one came first, so every order in which
the partitions may have been read is allowed, and the numbers shown must fit one of them.
`tests.support.oracle` computes the numbers. Shares no code with the aggregator.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from itertools import product
from typing import Any

from tests.support.oracle import MINUTE, Logged, TokenNumbers, event_identity, recompute, token_id

WINDOWS = (("5m", 5), ("1h", 60), ("24h", 1440))
GRACE = 2 * MINUTE
MAX_FUTURE = 5 * MINUTE
# The oracle receives records whose fate is decided, so its own limits must never apply.
_BOUNDLESS = 10**15

Position = tuple[int, int]
Outcome = dict[Position, str]


@dataclass(frozen=True)
class Fated:
    """A record that can be decoded, and whether it is late."""

    logged: Logged
    late: bool

    @property
    def position(self) -> Position:
        return self.logged.partition, self.logged.offset

    @property
    def removed(self) -> bool:
        return bool(self.logged.event["removed"])


@dataclass(frozen=True)
class Sums:
    """The numbers that can be added over partitions: USD in micro-USD, amounts in tokens."""

    trades: int
    buys: int
    volume: int
    buy_volume: int
    amount: Fraction

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.trades + other.trades,
            self.buys + other.buys,
            self.volume + other.volume,
            self.buy_volume + other.buy_volume,
            self.amount + other.amount,
        )


NOTHING = Sums(0, 0, 0, 0, Fraction(0))


def is_bad(value: bytes | None) -> bool:
    """Whether the traffic made this message to be rejected."""
    try:
        return value is None or bool(json.loads(value).get("bad"))
    except ValueError:
        return True


class Expected:
    """The truth about one log, given in offset order within a partition, without bad messages."""

    def __init__(self, log: Iterable[Logged]) -> None:
        self.watermarks: dict[int, int] = {}
        by_swap: dict[tuple[Any, ...], list[Fated]] = defaultdict(list)
        self._records: dict[str, list[Fated]] = defaultdict(list)
        for logged in log:
            fated = Fated(logged, self._observe(logged))
            by_swap[event_identity(logged.event)].append(fated)
            self._records[token_id(logged.event)].append(fated)
        self._fate: Outcome = {}
        self._open: dict[str, list[list[Outcome]]] = defaultdict(list)
        for records in by_swap.values():
            outcomes = _outcomes(records)
            if len(outcomes) == 1:
                self._fate |= outcomes[0]
            else:
                self._open[token_id(records[0].logged.event)].append(outcomes)
        self._counted: dict[int, list[tuple[int, int]]] = defaultdict(list)
        for fated in (fated for records in by_swap.values() for fated in records):
            if self._fate.get(fated.position) == "C":
                logged = fated.logged
                times = self._counted[logged.partition]
                times.append((logged.offset, logged.event["timestamp"]))

    def _observe(self, logged: Logged) -> bool:
        timestamp, partition = logged.event["timestamp"], logged.partition
        watermark = self.watermarks.get(partition)
        newest = min(timestamp, logged.record_timestamp + MAX_FUTURE)
        self.watermarks[partition] = newest if watermark is None else max(watermark, newest)
        return watermark is not None and (timestamp // MINUTE + 1) * MINUTE <= watermark - GRACE

    @property
    def tokens(self) -> set[str]:
        """All tokens of the log."""
        return set(self._records)

    def partitions(self, token: str) -> set[int]:
        """Return the partitions that hold records of the token."""
        return {fated.logged.partition for fated in self._records[token]}

    def trades(self, token: str) -> list[Logged]:
        """Return what is published as a trade, in order: counted and undone swaps.

        Only for a token that lives on one partition.
        """
        return [f.logged for f in self._records[token] if self._fate[f.position] in "CU"]

    def numbers(self, token: str, next_offset: int, now: int) -> TokenNumbers:
        """Return the numbers of a token on one partition, counted up to `next_offset`."""
        read = [f for f in self._records[token] if f.logged.offset < next_offset]
        fates = [self._fate[fated.position] for fated in read]
        kept = [f.logged for f, fate in zip(read, fates, strict=True) if fate in "CU"]
        (partition,) = self.partitions(token)
        numbers = recompute(
            [_of_no_effect(self._records[token][0].logged), *kept],
            now=now,
            windows=WINDOWS,
            grace_ms=_BOUNDLESS,
            max_future_ms=_BOUNDLESS,
            history_from=self._earliest_counted(partition, next_offset, now),
        )[token]
        numbers.late, numbers.duplicates = fates.count("L"), fates.count("D")
        return numbers

    def _earliest_counted(self, partition: int, next_offset: int, now: int) -> int | None:
        """Return where the partition's history begins: its log is read from the first record."""
        end_of_minute = (now // MINUTE + 1) * MINUTE
        times = [
            timestamp
            for offset, timestamp in self._counted[partition]
            if offset < next_offset and timestamp < end_of_minute
        ]
        return min(times, default=None)

    def sums(self, token: str, nows: dict[int, int]) -> Iterator[dict[int, dict[str, Sums]]]:
        """Yield {partition: {window: sums}} for each order that Redis may have decided.

        `nows` is the instant of each partition's row.
        """
        records = [fated for fated in self._records[token] if fated.logged.partition in nows]
        for choice in product(*self._open[token]):
            fate = dict(self._fate)
            for outcome in choice:
                fate |= outcome
            yield {
                partition: {
                    name: _sums(records, fate, partition, now, minutes) for name, minutes in WINDOWS
                }
                for partition, now in nows.items()
            }


def _outcomes(records: Sequence[Fated]) -> list[Outcome]:
    """Return every distinct result of reading one swap's records, over all partition orders."""
    queues: dict[int, list[Fated]] = defaultdict(list)
    for fated in records:
        # Only the first addition and the first retraction of a partition can be canonical.
        if all(fated.removed != other.removed for other in queues[fated.logged.partition]):
            queues[fated.logged.partition].append(fated)
    found: list[Outcome] = []
    for order in _merges(list(queues.values())):
        outcome = dict.fromkeys((fated.position for fated in records), "D")
        outcome |= _decide(order)
        if outcome not in found:
            found.append(outcome)
    return found


def _merges(queues: list[list[Fated]]) -> Iterator[list[Fated]]:
    waiting = [queue for queue in queues if queue]
    if not waiting:
        yield []
    for queue in waiting:
        rest = [other for other in waiting if other is not queue]
        for tail in _merges([queue[1:], *rest]):
            yield [queue[0], *tail]


def _decide(order: Sequence[Fated]) -> Outcome:
    """Return the verdict of each record: C, L, U, V or D, by docs/exactly-once.md."""
    fate: Outcome = {}
    addition = retraction = ""
    for fated in order:
        if fated.removed:
            now_decided = "D" if retraction else "U" if addition == "C" else "V"
            retraction = retraction or now_decided
        else:
            now_decided = "D" if addition else "V" if retraction else "L" if fated.late else "C"
            addition = addition or now_decided
        fate[fated.position] = now_decided
    return fate


def _of_no_effect(logged: Logged) -> Logged:
    """Return a retraction of a swap that never existed: the token is known, no number changes."""
    event = {"tx_hash": "none", "removed": True, "block_hash": None}
    return Logged(logged.event | event, logged.partition, -1, logged.record_timestamp)


def _sums(records: Sequence[Fated], fate: Outcome, partition: int, now: int, minutes: int) -> Sums:
    total = NOTHING
    running = now // MINUTE
    for fated in records:
        sign = {"C": 1, "U": -1}.get(fate[fated.position], 0)
        minute = fated.logged.event["timestamp"] // MINUTE
        if sign and fated.logged.partition == partition and running - minutes < minute <= running:
            total += _signed(fated.logged.event, sign)
    return total


def _signed(event: dict[str, Any], sign: int) -> Sums:
    is_buy, usd = event["side"] == "buy", event["amount_usd"]
    if usd is None:
        return Sums(sign, sign * is_buy, 0, 0, Fraction(0))
    micros = sign * int((Decimal(usd) * 1_000_000).to_integral_value(ROUND_HALF_EVEN))
    amount = sign * Fraction(event["amount"])
    return Sums(sign, sign * is_buy, micros, micros * is_buy, amount)
