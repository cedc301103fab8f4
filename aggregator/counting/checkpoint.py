"""The one commit order: save what changed to Redis, then commit the offset it covers to Kafka.

A restart begins at the next_offset of the snapshot, never at the committed offset, so a crash
between the two loses nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from aggregator.counting.epochs import write_epoch
from aggregator.counting.partition import PartitionOwner
from aggregator.member.kafka import SwapLog
from aggregator.redis.snapshots import Snapshots
from aggregator.runtime import faults, metrics
from aggregator.runtime.errors import Fenced, Retry

log = structlog.get_logger(__name__)


class Checkpoint:
    """Saves the state of partitions, and commits the offsets that were saved."""

    def __init__(self, swap_log: SwapLog, snapshots: Snapshots) -> None:
        self._log = swap_log
        self._snapshots = snapshots

    def save(self, owner: PartitionOwner) -> None:
        """Save what changed of a partition, if anything did.

        Raises Retry, NewIncarnation and Fenced.
        """
        if not owner.active or owner.saved_offset == owner.next_offset:
            return
        began = time.perf_counter()
        header, snapshot = owner.take_snapshot()
        taken = time.perf_counter()
        faults.point("mid_snapshot")
        self._snapshots.save(
            owner.partition,
            header,
            snapshot.changed,
            snapshot.dropped,
            # The first snapshot of a rebuilt state: no section in Redis is part of it.
            replace=owner.saved_offset is None and not owner.restored,
        )
        owner.saved(header)
        size = sum(map(len, snapshot.changed.values()))
        metrics.SNAPSHOT_BYTES.labels(owner.partition).inc(size)
        log.debug(
            "snapshot_saved",
            partition=owner.partition,
            next_offset=header.next_offset,
            sections=len(snapshot.changed),
            bytes=size,
            taking_s=taken - began,
            saving_s=time.perf_counter() - taken,
        )
        faults.point("after_snapshot")

    def commit(self, owners: Iterable[PartitionOwner], *, wait: bool = True) -> None:
        """Commit the offsets that were saved. A commit that fails is made up by the next one."""
        positions = {
            owner.partition: (owner.saved_offset, write_epoch(owner.epoch))
            for owner in owners
            if owner.active and owner.saved_offset is not None
        }
        if self._log.unreachable:
            return
        try:
            self._log.commit(positions, wait=wait)
        except (Retry, Fenced) as error:
            log.warning("commit_failed", partitions=sorted(positions), error=str(error))
