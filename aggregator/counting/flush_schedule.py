"""When to flush: soon while there are few changes, later while there are many.

To gather changes costs latency and saves patches, since a token that changes twice is published
once. Under little load there is nothing to save. Pure.
"""

from __future__ import annotations

from typing import Final

SHORTEST_MS: Final = 20
"""The poll loop gathers this long in any case."""
PATCHES_A_SECOND: Final = 5_000
"""Up to this rate the schedule flushes sooner than it must: every web node reads every patch."""


class FlushSchedule:
    """The instants of flushes in ms of a monotonic clock, at most `longest_ms` apart."""

    def __init__(self, longest_ms: int) -> None:
        self._longest_ms = longest_ms
        self.next_at = 0

    def flushed(self, patches: int, now_ms: int) -> None:
        """Plan the next flush after one of so many patches."""
        at_rate_ms = patches * 1_000 // PATCHES_A_SECOND
        gathered_ms = min(max(SHORTEST_MS, at_rate_ms), self._longest_ms)
        # Counted from when this flush was due: counted from now, small delays would add up.
        due = self.next_at + gathered_ms
        self.next_at = due if due > now_ms else now_ms + gathered_ms
