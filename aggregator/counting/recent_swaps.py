"""The newest swaps that were counted, to subtract them when the chain takes them back. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import SWAP
from aggregator.contracts.verdict import Verdict

KEPT: Final = 65_536
"""8 MB of memory in each partition; a retraction of an older swap reads it back from Kafka."""

_COUNTED: Final = ord(Verdict.COUNTED.value)
_PROMOTED: Final = ord(Verdict.PROMOTED.value)


class RecentSwaps:
    """A ring of the last `kept` swaps of a partition that were counted, by their offsets."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        # Untouched pages of zeros take no memory, so a quiet partition stays small.
        self._swaps = np.zeros(kept, SWAP)
        self._offsets = np.zeros(kept, np.int64)
        self._total = 0

    def add(self, swaps: Array, letters: Array) -> None:
        """Keep the counted ones of these swaps (SWAP), which ascend from call to call."""
        counted = (letters == _COUNTED) | (letters == _PROMOTED)
        if not counted.all():
            swaps = swaps[counted]
        swaps = swaps[-self._kept :]
        begin = self._total % self._kept
        room = self._kept - begin
        for place, part in ((begin, swaps[:room]), (0, swaps[room:])):
            self._swaps[place : place + len(part)] = part
            self._offsets[place : place + len(part)] = part["offset"]
        self._total += len(swaps)

    def find(self, offsets: Array) -> tuple[Array, Array]:
        """Return the swaps at these offsets (SWAP) and which were found (bool)."""
        found = np.zeros(len(offsets), np.bool_)
        values = np.zeros(len(offsets), SWAP)
        begin = self._total % self._kept
        # Once the ring is full, both of its parts ascend and the second is the older one.
        for low, high in ((0, begin), (begin, self._kept if self._total > begin else begin)):
            part = self._offsets[low:high]
            places = np.searchsorted(part, offsets)
            here = places < len(part)
            here[here] = part[places[here]] == offsets[here]
            values[here] = self._swaps[low:high][places[here]]
            found |= here
        return values, found
