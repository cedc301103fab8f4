"""What a partition hands over to be saved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from aggregator.redis.snapshots import SnapshotHeader


class SaveJob(msgspec.Struct, frozen=True, gc=False):
    """What to save of one partition.

    `changed` and `dropped` are sections, `blocks` and `forgotten` blocks of decided ids. `before`
    is (epoch, call) of the save that this one follows; None: the job holds the whole state.
    """

    partition: int
    header: SnapshotHeader
    changed: Mapping[bytes, bytes]
    dropped: Sequence[bytes]
    blocks: Mapping[int, bytes]
    forgotten: Sequence[int]
    before: tuple[int, int] | None
