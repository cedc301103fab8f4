"""What the markers decide of one record: the word between the marker store and the windows."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """The one-letter codes are the marker store's wire format (redis/lua/claim.lua)."""

    COUNTED = "C"
    """The canonical occurrence of a swap, on time: add it to its bucket."""
    LATE = "L"
    """Canonical, but its bucket was closed: count it as late, not in the windows."""
    UNDONE = "U"
    """The canonical retraction of a counted swap: take it out of its bucket."""
    VOID = "V"
    """A swap or retraction that changes nothing: its partner was decided first."""
    DUPLICATE = "D"
    """A repeat of a position that is already decided: change nothing."""
