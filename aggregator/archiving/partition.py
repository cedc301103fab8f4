"""One partition that an archiver owns: what it has read, promised and archived.

The stages are "settling" while the intent of the previous owner is redone, "checking_in" until
Redis is known to hold every claim that the archive holds, then "archiving". The partition knows its
batches; it does not talk to Kafka, Redis or ClickHouse.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import structlog

from aggregator.archiving.intents import (
    MAX_GAPS,
    InsertBatch,
    Intent,
    LogPosition,
    SwapQueue,
    batch_of,
    column,
    cut,
    rebuild_blocks,
)
from aggregator.contracts.archive_rows import SwapRows
from aggregator.contracts.arrays import Array
from aggregator.contracts.stats import ArchiveStatus
from aggregator.contracts.units import MINUTE_MS
from aggregator.member.kafka import LogExtent
from aggregator.runtime.config import Config

log = structlog.get_logger(__name__)

# No bucket is closed before the first record.
_NO_WATERMARK: Final = -(2**62)


class InFlightInsert(msgspec.Struct):
    """A batch on its way into ClickHouse.

    `may_exist` says that ClickHouse may already hold all or part of it; `promised_at` is the
    monotonic second at which the group last took its intent.
    """

    batch: InsertBatch
    promised_at: float
    may_exist: bool = False


class ArchivePartition:
    """The state of one owned partition.

    Every offset below `next_offset` is archived. `redo` is the intent of the previous owner until
    it is settled; `redo_is_lost` is true if the log no longer holds all of it. `read_offset` is the
    first offset that is not read yet, `end` the end offset of the log at the assignment.
    `uncommitted` is true while the group does not know `next_offset`. `size` is the bytes of the
    records in memory, as received. Records from offset `looked_up_to` on have not been looked up in
    the archive, which old swaps need.
    """

    def __init__(
        self,
        config: Config,
        partition: int,
        next_offset: int,
        position: LogPosition,
        extent: LogExtent,
    ) -> None:
        self.partition = partition
        self.stage = "settling"
        self.active = True
        self.checked_in = False
        self.next_offset = self.read_offset = next_offset
        self.position = position
        self.end = extent.end
        self.redo: Intent | None = position.intent
        self.redo_is_lost = self.redo is not None and self.redo.first < extent.start
        if self.redo is not None:
            self.read_offset = self.redo.first
        self.in_flight: InFlightInsert | None = None
        self.uncommitted = False
        self.waiting = SwapQueue()
        self.decided = SwapQueue()
        self.filling_since = 0.0
        self.archived_to_ms: int | None = None
        self.size = 0
        self.looked_up_to = next_offset
        self._config = config
        self._watermark = position.watermark

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The newest ranges [first, end) that could not be archived."""
        return self.position.gaps

    @property
    def reading(self) -> bool:
        """Whether records are wanted."""
        return self.stage == "archiving" or (self.redo is not None and not self.redo_is_lost)

    @property
    def read_end(self) -> int:
        """The end offset of the records that are wanted."""
        return sys.maxsize if self.redo is None else self.redo.last + 1

    def begin(self) -> None:
        """Start to archive from `next_offset`: the intent is settled and Redis is complete."""
        self.stage = "archiving"
        self.read_offset = self.next_offset
        log.info("archiving", partition=self.partition, next_offset=self.next_offset)

    def mark_checked_in(self) -> None:
        """Note that Redis holds every claim that the archive has."""
        self.checked_in = True

    def forget_intent(self, intent: Intent) -> None:
        """Drop an intent that is settled although the log no longer holds it."""
        self.redo = None
        self.position = msgspec.structs.replace(self.position, intent=None)
        self.next_offset = intent.last + 1
        self.uncommitted = True

    def read(self, swaps: SwapRows, read_to: int) -> None:
        """Queue decoded records in log order; `read_to` is the first offset not read yet."""
        self.waiting.add(swaps)
        self.size += int(swaps.rows["size"].sum())
        self.read_offset = max(self.read_offset, read_to)

    def lateness(self, parts: Sequence[SwapRows]) -> tuple[Array, Array]:
        """Decide which of the first waiting records are late (bool), with the watermark after each.

        The rule is that of the windows: a record is late if its bucket was closed before it
        arrived.
        """
        times, recorded = column(parts, "timestamp"), column(parts, "recorded")
        before = _NO_WATERMARK if self._watermark is None else self._watermark
        seen = np.concatenate(([before], np.minimum(times, recorded + self._config.max_future_ms)))
        watermarks = np.maximum.accumulate(seen)
        closed_to = watermarks[:-1] - self._config.grace_ms
        return (times // MINUTE_MS + 1) * MINUTE_MS <= closed_to, watermarks[1:]

    def decide(self, verdicts: str, watermarks: Array, now_s: float) -> None:
        """Move the first waiting records to `decided`, with the verdicts of the markers."""
        if not self.decided:
            self.filling_since = now_s
        letters = np.frombuffer(verdicts.encode(), np.uint8)
        first = 0
        for part in self.waiting.take(len(verdicts)):
            end = first + len(part)
            part.swaps["verdict"] = letters[first:end]
            part.rows["watermark"] = watermarks[first:end]
            self.decided.add(part)
            first = end
        self._watermark = int(watermarks[-1])

    def cut(self, now_ms: int) -> InsertBatch:
        """Take a batch off the decided records."""
        return cut(
            self.decided,
            self.partition,
            self.gaps,
            max_rows=self._config.archive_batch_rows,
            now_ms=now_ms,
        )

    def rebuild_batch(self) -> InsertBatch:
        """Build the batch of the inherited intent from the waiting records."""
        assert self.redo is not None
        intent = self.redo
        taken = self.waiting.take(self.waiting.below(intent.last + 1))
        return batch_of(
            intent,
            msgspec.structs.replace(self.position, intent=None),
            taken,
            rebuild_blocks(intent, self.partition, taken),
        )

    def complete(self, batch: InsertBatch) -> None:
        """Advance past a batch that is archived or that holds nothing to archive."""
        self.in_flight = self.redo = None
        self.size -= batch.size
        self.position = batch.after
        self.next_offset = batch.next_offset
        self.archived_to_ms = batch.oldest
        self.uncommitted = True

    def advance_when_idle(self) -> None:
        """Advance past offsets without a swap that follow the last record, if nothing is queued."""
        idle = self.stage == "archiving" and self.in_flight is None
        empty = idle and not self.waiting and not self.decided
        if empty and self.read_offset > self.next_offset:
            self.next_offset = self.read_offset
            self.uncommitted = True

    def skip_to(self, offset: int) -> None:
        """Advance to the log's begin `offset`; what lay before it can no longer be archived."""
        self.add_gap(self.next_offset, offset)
        self.next_offset = self.read_offset = offset

    def add_gap(self, first: int, end: int) -> None:
        """Note that the archive lacks the offsets [first, end)."""
        gaps = [*self.gaps, (first, end)][-MAX_GAPS:]
        self.position = msgspec.structs.replace(self.position, gaps=gaps)
        self.uncommitted = True

    def status(self, *, now_ms: int, end: int | None, fault: str) -> ArchiveStatus:
        """Return the status that is published for operators every second."""
        lag = max(0, (self.end if end is None else end) - self.next_offset)
        oldest = self._oldest()
        if lag == 0:
            age_ms: int | None = 0
        else:
            age_ms = None if oldest is None else max(0, now_ms - oldest)
        return ArchiveStatus(
            partition=self.partition,
            state="stalled" if fault and self.stage == "archiving" else self.stage,
            next_offset=self.next_offset,
            lag=lag,
            age_ms=age_ms,
            gaps=[list(gap) for gap in self.gaps],
            fault=fault or None,
        )

    def _oldest(self) -> int | None:
        """Return the timestamp of the first record that is not archived, as far as it is known."""
        if self.in_flight is not None:
            return self.in_flight.batch.oldest
        for held in (self.decided, self.waiting):
            if held:
                return held.oldest
        return self.archived_to_ms
