"""Whether the client has skipped a part of the log, and where it must go back to.

A consumer that was sought can still be moved by the answer to an older question: librdkafka looks
up a logical offset such as the log's end asynchronously, and applies the answer even after a seek.
What lay between would never be read, and nothing would tell. So for a while after a seek every jump
is doubted: the caller seeks back, and only a jump that shows twice is a hole of the log itself (the
marker of a transaction, a compacted record). Pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

# Longer than any request of the client lives (socket.timeout.ms, 60 s).
_DOUBTED_S: Final = 120.0


class _Place:
    def __init__(self, next_offset: int, doubted_until: float) -> None:
        self.next_offset = next_offset
        self.doubted_until = doubted_until
        self.seen_jump: int | None = None


class Positions:
    """The next offset of each partition that is being read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[int, _Place] = {}

    def begin(self, partition: int, offset: int) -> None:
        """Reading was told to start here."""
        self._places[partition] = _Place(offset, self._clock() + _DOUBTED_S)

    def drop(self, partition: int) -> None:
        """The partition is another's."""
        self._places.pop(partition, None)

    def keep(self, partition: int, offsets: Sequence[int]) -> tuple[int, int | None]:
        """How many of the offsets read to take, and the offset to seek back to, if any.

        `offsets` ascend. Of a partition that was not begun nothing is taken.
        """
        place = self._places.get(partition)
        if place is None:
            return 0, None
        expected = place.next_offset
        if offsets[0] <= expected and offsets[-1] - offsets[0] == len(offsets) - 1:
            place.next_offset = max(expected, offsets[-1] + 1)
            return len(offsets), None
        for kept, offset in enumerate(offsets):
            if offset > place.next_offset and not self._believed(place, offset):
                return kept, place.next_offset
            place.next_offset = max(place.next_offset, offset + 1)
        return len(offsets), None

    def keep_end(self, partition: int, end: int) -> tuple[bool, int | None]:
        """Whether to take it that all offsets below `end` were read, and where to seek back to."""
        place = self._places.get(partition)
        if place is None:
            return False, None
        if end > place.next_offset and not self._believed(place, end):
            return False, place.next_offset
        place.next_offset = max(place.next_offset, end)
        return True, None

    def _believed(self, place: _Place, to: int) -> bool:
        if self._clock() >= place.doubted_until:
            return True
        if place.seen_jump == to:
            # A log with holes has many: they are not doubted again.
            place.doubted_until = 0.0
            return True
        place.seen_jump = to
        return False
