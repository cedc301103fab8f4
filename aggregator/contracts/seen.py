"""The header of the ids that a partition has decided: what is saved of it beside its blocks.

The deduplication makes it and the store of snapshots keeps it. Neither may import the other, so the
type that both know is here. docs/design.md rules 2 and 3 say what the fields mean.
"""

from __future__ import annotations

from typing import Final

import msgspec

NEVER: Final = -(2**62)
"""A `floor` where there is none."""


class SeenHeader(msgspec.Struct, frozen=True):
    """The state of a partition's deduplication at `next_offset`, apart from its journal.

    `clock` is the log clock in ms, None before the first record. Swaps with an event time below
    `floor` (ms) are late. `origins` has, by partition, the highest offset that was forwarded from
    there. The state needs every block of [first_block, open_block); the words of the open block are
    sections of the snapshot.
    """

    next_offset: int
    clock: int | None
    floor: int
    origins: dict[int, int]
    first_block: int
    open_block: int

    @property
    def named_blocks(self) -> range:
        """The numbers of the closed blocks that the state needs."""
        return range(self.first_block, self.open_block)
