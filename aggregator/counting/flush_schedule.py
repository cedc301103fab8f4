"""How soon changes are published again: at once while there are few, gathered while there are many.

Pure. Gathering costs latency and saves patches, since a token that changes twice is published once;
under little load there is nothing to save.
"""

from __future__ import annotations

from typing import Final

SHORTEST_MS: Final = 20
"""What the poll loop gathers anyway."""
UNHURRIED_A_SECOND: Final = 5_000
"""Up to so many patches are published sooner than they have to be; every web node reads each."""


class Pace:
    """The instants of publishing, ms of a monotonic clock; never more than `longest_ms` apart."""

    def __init__(self, longest_ms: int) -> None:
        self._longest_ms = longest_ms
        self.next_at = 0

    def published(self, patches: int, now_ms: int) -> None:
        """So many were published now."""
        unhurried_ms = patches * 1_000 // UNHURRIED_A_SECOND
        gathered_ms = min(max(SHORTEST_MS, unhurried_ms), self._longest_ms)
        # From when it was due: counted from now, each would come a little later than the last.
        due = self.next_at + gathered_ms
        self.next_at = due if due > now_ms else now_ms + gathered_ms
