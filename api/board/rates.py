"""Rates of duplicates, late swaps and dead letters, from the tallies in the owners' heartbeats.

Pure: time is an argument. Shown to operators only.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from aggregator.contracts.stats import Heartbeat, Tallies

OVER_MS: Final = 60_000


class CountRate(msgspec.Struct, frozen=True):
    """A partition's counts per second, over the last `over_ms` (at most a minute)."""

    partition: int
    over_ms: int
    records: float
    duplicates: float
    late: float
    dead_letters: float
    misplaced: float


class _Recorded(msgspec.Struct):
    epoch: int
    tallies: deque[tuple[int, Tallies]]


class Rates:
    """Keep the tallies of each partition's newest owner over the last minute."""

    def __init__(self) -> None:
        self._by_partition: dict[int, _Recorded] = {}

    def record(self, heartbeat: Heartbeat, now_ms: int) -> None:
        """Record a heartbeat's tallies; ignore one of an older epoch."""
        found = self._by_partition.get(heartbeat.partition)
        if found is None or heartbeat.epoch > found.epoch:
            found = self._by_partition[heartbeat.partition] = _Recorded(heartbeat.epoch, deque())
        elif heartbeat.epoch < found.epoch:
            return
        kept = found.tallies
        kept.append((now_ms, heartbeat.tallies))
        while kept[0][0] < now_ms - OVER_MS:
            kept.popleft()

    def all(self) -> list[CountRate]:
        """Return the rates of every partition that has any, by number."""
        return [
            rate for number in sorted(self._by_partition) if (rate := self.of(number)) is not None
        ]

    def of(self, partition: int) -> CountRate | None:
        """Return the partition's rates; None before the second heartbeat of its owner."""
        found = self._by_partition.get(partition)
        if found is None:
            return None
        (first_at, first), (last_at, last) = found.tallies[0], found.tallies[-1]
        if last_at <= first_at:
            return None
        seconds = (last_at - first_at) / 1_000

        def per_second(name: str) -> float:
            counted: int = getattr(last, name) - getattr(first, name)
            return round(counted / seconds, 3)

        return CountRate(
            partition=partition,
            over_ms=last_at - first_at,
            **{name: per_second(name) for name in Tallies.__struct_fields__},
        )
