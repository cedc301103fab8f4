"""What a save says about the decided ids of a partition, beside their words.

`aggregator.seen` makes and reads it; `aggregator.redis` saves it as part of a snapshot's header.
"""

from __future__ import annotations

from typing import Final

import msgspec

NEVER: Final = -(2**62)
"""A time before every other (ms): a floor that excludes nothing, a log clock without a record."""


class SeenHeader(msgspec.Struct, frozen=True):
    """The position, the clock and the held blocks of a partition.

    `clock` is the log clock (ms), None before the first record. An add older than `floor` (ms) is
    late; NEVER where none is. `origins` has the highest origin offset seen of each partition that
    forwarded records here. The save consists of the blocks [first_block, open_block), each of them,
    and of the tail sections of `open_block`.
    """

    next_offset: int
    clock: int | None
    floor: int
    origins: dict[int, int]
    first_block: int
    open_block: int
