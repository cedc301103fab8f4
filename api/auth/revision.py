"""The revision of what operators decided, as it lies in Redis: ms since the epoch, in digits."""

from __future__ import annotations

from typing import Final

# Anybody who can write to Redis may have put something else there.
NEWEST_REVISION: Final = 10**16 - 1


def revision_of(value: bytes) -> int | None:
    """The revision; None where the value cannot be one."""
    if not value.isdigit() or len(value) > len(str(NEWEST_REVISION)):
        return None
    return int(value)
