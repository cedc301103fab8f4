"""Notices that producers use another partitioner than KAFKA_PARTITIONER, and says which. Pure.

Misplaced records are counted all the same, but each takes a second way through Kafka.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.homes import PARTITIONERS, Homes
from aggregator.contracts.swaps import ABSENT, Swaps

_WINDOW: Final = 1_000
_NAMES_A_BATCH: Final = 50
_NAMES: Final = 500
_FITS: Final = 0.9


class MisplacedShare:
    """How many of a partition's last 1,000 records, sent by producers, are away from home."""

    def __init__(self, partition: int, homes: Homes) -> None:
        self._partition = partition
        self._homes = homes
        self._batches: deque[tuple[int, int]] = deque()
        self._records = self._misplaced = 0
        self._names: deque[str] = deque(maxlen=_NAMES)

    def note(self, swaps: Swaps, away: Array) -> None:
        """Note the next records and which of them are away from home (bool)."""
        sent = (swaps.records["origin_partition"] == ABSENT) & ~swaps.records["bad"]
        records, misplaced = int(np.count_nonzero(sent)), int(np.count_nonzero(away & sent))
        self._batches.append((records, misplaced))
        self._records += records
        self._misplaced += misplaced
        while self._batches and self._records - self._batches[0][0] >= _WINDOW:
            first = self._batches.popleft()
            self._records -= first[0]
            self._misplaced -= first[1]
        if misplaced:
            names = np.unique(swaps.records["name"][sent][-_NAMES_A_BATCH:]).tolist()
            self._names.extend(swaps.token_names[name].token_id for name in names)

    @property
    def reason(self) -> str:
        """Return a sentence for operators; empty while fewer than half are misplaced."""
        if self._records < _WINDOW or self._misplaced * 2 <= self._records:
            return ""
        fitting = [each for each in PARTITIONERS if self._fits(each)]
        advice = (
            f"KAFKA_PARTITIONER={fitting[0]} would fit"
            if fitting
            else "no value of KAFKA_PARTITIONER fits: the key of a record must be its token id"
        )
        return (
            f"partitioner: {self._misplaced:,} of the last {self._records:,} records are not where "
            f"KAFKA_PARTITIONER={self._homes.partitioner} places them and are forwarded; {advice}"
        )

    def _fits(self, partitioner: str) -> bool:
        homes = Homes(partitioner, self._homes.homes)
        at_home = sum(homes.of(name) == self._partition for name in self._names)
        return bool(at_home >= _FITS * len(self._names))
