"""Where the replay of a partition without a saved state begins. Pure.

The log is read from twice the longest window before its newest record, by record time. Every record
before that point is older, so the log clock is exact from there on, and no swap before it can have
a minute that a window, or the window before it, shows.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aggregator.contracts.seen import NEVER
from aggregator.contracts.units import MINUTE_MS
from aggregator.seen.words import BLOCK_WORDS

CLOCK_MARGIN_MS: Final = MINUTE_MS
"""How far the clocks of producers may be apart.

A trimmed log is known to reach back to an instant only if its first record is older by more.
"""


class Rebuild(msgspec.Struct, frozen=True):
    """How to begin without a saved state.

    Reading begins at `offset`. No swap before the instant `floor` (ms) changes a window. `whole`:
    the log is read from its very first record; `cut`: Kafka may have deleted records that belong
    into the windows. `gap` are the offsets (first, end) that were deleted before anybody read them.
    """

    offset: int
    floor: int = NEVER
    whole: bool = False
    cut: bool = False
    gap: tuple[int, int] | None = None


def rebuild_since(newest_ms: int, longest_window_ms: int, max_future_ms: int) -> int:
    """Return the record time to read from, given the timestamp of the log's newest record."""
    return newest_ms - 2 * longest_window_ms - max_future_ms


def plan_rebuild(
    *,
    start: int,
    end: int,
    committed: int | None,
    since: tuple[int, int] | None,
    first_ms: int | None,
    max_future_ms: int,
) -> Rebuild:
    """Plan the replay of a log that holds the offsets [start, end).

    `since` is the instant of `rebuild_since` and the first offset that is not older; None to read
    everything. `first_ms` is the timestamp of the log's first record, None where it is not known.
    The replay begins at the `committed` offset at the latest: records from there on may still have
    to be forwarded. It begins with a whole block of ids.
    """
    gap = (committed, start) if committed is not None and committed < start else None
    if since is None or start == end:
        return Rebuild(start, whole=start == 0, cut=start > 0, gap=gap)
    at_ms, offset = since
    offset = max(start, min(offset, start if committed is None else committed))
    offset = max(start, offset - offset % BLOCK_WORDS)
    reaches = start == 0 or (first_ms is not None and first_ms < at_ms - CLOCK_MARGIN_MS)
    return Rebuild(
        offset,
        floor=at_ms + max_future_ms,
        whole=start == 0 and offset == 0,
        cut=not reaches,
        gap=gap,
    )
