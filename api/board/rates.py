"""How fast owners meet repeats, late swaps and dead letters: from the tallies in their heartbeats.

Pure: the caller tells the time. For the operators' eyes alone.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from aggregator.contracts.stats import Heartbeat, Tallies

OVER_MS: Final = 60_000


class Rate(msgspec.Struct, frozen=True):
    """What a partition's owner met a second, over the last `over_ms` (at most a minute)."""

    partition: int
    over_ms: int
    records: float
    duplicates: float
    late: float
    dead_letters: float


class _Heard(msgspec.Struct):
    epoch: int
    tallies: deque[tuple[int, Tallies]]


class Rates:
    """The tallies of each partition over the last minute, of its newest owner."""

    def __init__(self) -> None:
        self._heard: dict[int, _Heard] = {}

    def heard(self, heartbeat: Heartbeat, now_ms: int) -> None:
        """An owner has said what it met so far; one of an older epoch is not listened to."""
        heard = self._heard.get(heartbeat.partition)
        if heard is None or heartbeat.epoch > heard.epoch:
            heard = self._heard[heartbeat.partition] = _Heard(heartbeat.epoch, deque())
        elif heartbeat.epoch < heard.epoch:
            return
        kept = heard.tallies
        kept.append((now_ms, heartbeat.tallies))
        while kept[0][0] < now_ms - OVER_MS:
            kept.popleft()

    def all(self) -> list[Rate]:
        """The rates of every partition that has any, by number."""
        return [rate for number in sorted(self._heard) if (rate := self.of(number)) is not None]

    def of(self, partition: int) -> Rate | None:
        """The partition's rates; None before its owner was heard twice."""
        heard = self._heard.get(partition)
        if heard is None:
            return None
        (first_at, first), (last_at, last) = heard.tallies[0], heard.tallies[-1]
        if last_at <= first_at:
            return None
        seconds = (last_at - first_at) / 1_000

        def a_second(name: str) -> float:
            met: int = getattr(last, name) - getattr(first, name)
            return round(met / seconds, 3)

        return Rate(
            partition=partition,
            over_ms=last_at - first_at,
            **{name: a_second(name) for name in Tallies.__struct_fields__},
        )
