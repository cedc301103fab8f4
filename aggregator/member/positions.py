"""Detects offsets that the Kafka client skipped, and says where to seek back to.

librdkafka resolves a logical offset, such as the end of the log, asynchronously, and applies the
answer even when the consumer has been sought elsewhere in the meantime. The records in between
would be lost silently. For a while after a seek, a jump in the offsets is therefore not accepted at
first: the caller seeks back, and only a jump that repeats is a hole in the log itself (a
transaction marker or a compacted record). Pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

# Longer than any request of the client can be pending (socket.timeout.ms, 60 s): after that, no
# answer to an older look-up can move the consumer.
_VERIFY_S: Final = 120.0


class _Place:
    def __init__(self, next_offset: int, verify_until: float) -> None:
        self.next_offset = next_offset
        self.verify_until = verify_until
        self.seen_jump: int | None = None


class Positions:
    """The next offset of every partition that is being read."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._places: dict[int, _Place] = {}

    def begin(self, partition: int, offset: int) -> None:
        """Note that the consumer was sought to `offset`."""
        self._places[partition] = _Place(offset, self._clock() + _VERIFY_S)

    def drop(self, partition: int) -> None:
        """Forget a partition that another member owns now."""
        self._places.pop(partition, None)

    def keep(self, partition: int, offsets: Sequence[int]) -> tuple[int, int | None]:
        """Return how many of the polled offsets to accept, and the offset to seek back to, if any.

        `offsets` ascend. Nothing is accepted of a partition for which `begin` was not called.
        """
        place = self._places.get(partition)
        if place is None:
            return 0, None
        expected = place.next_offset
        # The usual poll has no holes: then the loop over its offsets is not needed.
        if offsets[0] <= expected and offsets[-1] - offsets[0] == len(offsets) - 1:
            place.next_offset = max(expected, offsets[-1] + 1)
            return len(offsets), None
        for kept, offset in enumerate(offsets):
            if offset > place.next_offset and not self._is_hole(place, offset):
                return kept, place.next_offset
            # Lower offsets are accepted, too: after a seek back the client may repeat records.
            place.next_offset = max(place.next_offset, offset + 1)
        return len(offsets), None

    def keep_end(self, partition: int, end: int) -> tuple[bool, int | None]:
        """Return whether all offsets below `end` were read, and the offset to seek back to, if any.

        `end` is the end offset at which the client says that it has arrived.
        """
        place = self._places.get(partition)
        if place is None:
            return False, None
        if end > place.next_offset and not self._is_hole(place, end):
            return False, place.next_offset
        place.next_offset = max(place.next_offset, end)
        return True, None

    def _is_hole(self, place: _Place, to: int) -> bool:
        """Whether the log itself has no records between the next offset and `to`."""
        if self._clock() >= place.verify_until:
            return True
        # A late answer moves the consumer once, so a second read from the next offset delivers what
        # was skipped. It arrives at the same offset again only where nothing lies between.
        if place.seen_jump == to:
            # A log with one hole has many, and a seek back for each would be expensive.
            place.verify_until = 0.0
            return True
        place.seen_jump = to
        return False
