"""The decision about one record of a partition, which `aggregator.seen` makes.

The letters are stored in the journal of a partition and in the archive, so their meaning never
changes. docs/exactly-once.md has the table of transitions.
"""

from __future__ import annotations

from enum import StrEnum


class Verdict(StrEnum):
    """A decision about one record."""

    COUNTED = "C"
    """A swap that counts, on time."""
    LATE = "L"
    """A swap that counts as late: it is archived, and in no window."""
    PROMOTED = "P"
    """A swap that stands as late and was included again on time: it counts in the windows now."""
    DUPLICATE = "D"
    """A repeat of what is already decided: no change."""
    UNDONE = "U"
    """A retraction of a swap that stands: what the swap added is subtracted."""
    RETRACTED_FIRST = "T"
    """A retraction that precedes its swap: the next swap of this id is void."""
    VOID = "V"
    """A swap made void by a retraction that preceded it."""
    IGNORED = "I"
    """A retraction of another block than the one that stands: no change."""
    MOVED_BLOCK = "N"
    """A repeat in another block of a swap that is counted: the new block is remembered."""
    MOVED_BLOCK_LATE = "n"
    """A repeat in another block of a swap that stands as late: the new block is remembered."""
    BAD = "B"
    """A record that is no swap; it is in the dead-letter topic."""
    MISPLACED = "M"
    """A record away from its token's home partition; it is forwarded there."""
    FORWARDED_BEFORE = "F"
    """A forwarded record that this partition has read before."""


ARCHIVE_REPLACED = "u"
"""In the archive alone: a retraction that takes out an older row than the one it names."""
ARCHIVE_GONE = "G"
"""In the archive alone: a retraction whose swap the archive does not hold."""
