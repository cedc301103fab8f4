"""Lengths of time in milliseconds, the unit of every instant and duration in the code."""

from __future__ import annotations

from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


def minute_of(timestamp_ms: int) -> int:
    """Return the number of the UTC minute that holds the instant; minute 0 begins at the epoch."""
    return timestamp_ms // MINUTE_MS
