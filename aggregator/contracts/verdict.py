"""The decision about one record, which the marker store makes and the windows apply."""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """A decision; the one-letter codes are the wire format of redis/lua/claim.lua."""

    COUNTED = "C"
    """The record at which a swap counts, on time: add it to its bucket."""
    LATE = "L"
    """The record at which a swap counts, but its bucket was closed: count it as late only."""
    UNDONE = "U"
    """The record at which the retraction of a counted swap counts: subtract from the bucket."""
    VOID = "V"
    """A swap or retraction that changes nothing, because its counterpart was decided first."""
    DUPLICATE = "D"
    """A repeat of a swap or retraction that was decided at another position: change nothing."""
