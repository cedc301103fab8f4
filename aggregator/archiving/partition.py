"""One partition that an archiver owns: what it has read, decided, promised and archived.

The stages are "settling" while the intent of the previous owner is redone, "filling" while the
archive is asked what it has of the last MARKER_TTL, then "archiving". The partition knows its
records and batches; it does not talk to Kafka or ClickHouse.
"""

from __future__ import annotations

import sys
from collections import deque
from typing import Final, NamedTuple

import msgspec
import structlog

from aggregator.archiving.batches import DecidedQueue, InsertBatch, Rebuilding, cut
from aggregator.archiving.decisions import Decided, LogSource, UndecidedRun
from aggregator.archiving.intents import MAX_GAPS, Intent, LogPosition
from aggregator.contracts.homes import Homes
from aggregator.contracts.stats import ArchiveStatus
from aggregator.member.log import LogExtent, Records
from aggregator.runtime.config import Config
from aggregator.seen.seen import Seen

log = structlog.get_logger(__name__)

SETTLING: Final = "settling"
FILLING: Final = "filling"
ARCHIVING: Final = "archiving"


class InFlightInsert(msgspec.Struct):
    """A batch on its way into ClickHouse.

    `may_exist` says that ClickHouse may already hold all or part of it; `promised_at` is the second
    (`aggregator.archiving.jobs.boot_s`) at which the group last took its intent.
    """

    batch: InsertBatch
    promised_at: float
    may_exist: bool = False


class Progress(NamedTuple):
    """Where a partition is continued, what the log holds, and where its tokens are at home."""

    next_offset: int
    position: LogPosition
    extent: LogExtent
    homes: Homes


class ArchivePartition:
    """The state of one owned partition.

    Every offset below `next_offset` is archived. `redo` is the intent of the previous owner until
    it is settled; `redo_is_lost` is true if the log no longer holds all of it. `read_offset` is the
    first offset that is not read yet, `end` the end offset of the log at the assignment.
    `uncommitted` is true while the group does not know `next_offset`. `size` is the bytes of the
    records in memory, as received. `seen` is None before the archive was asked, which happens at
    the monotonic time `fill_at_s` at the earliest. `outdated` is true once a backfill has raised
    the archive's epoch: what is in flight is completed, then the partition is acquired again.
    """

    def __init__(self, config: Config, source: LogSource, begun: Progress) -> None:
        self.source = source
        self.partition = source.partition
        self.homes = begun.homes
        self.stage = SETTLING
        self.active = True
        self.next_offset = self.read_offset = begun.next_offset
        self.position = begun.position
        self.end = begun.extent.end
        self.redo: Intent | None = begun.position.intent
        self.redo_is_lost = self.redo is not None and self.redo.first < begun.extent.start
        if self.redo is not None:
            self.read_offset = self.redo.last + 1 if self.redo_is_lost else self.redo.first
        self.in_flight: InFlightInsert | None = None
        self.uncommitted = False
        self.waiting: deque[Records] = deque()
        self.rebuilding: Rebuilding | None = None
        self.run: UndecidedRun | None = None
        self.decided = DecidedQueue()
        self.filling_since = 0.0
        self.archived_to_ms: int | None = None
        self.size = 0
        self.seen: Seen | None = None
        self.outdated = False
        self.fill_at_s = 0.0
        self._config = config
        self._waits = 0

    @property
    def gaps(self) -> list[tuple[int, int]]:
        """The newest ranges [first, end) that could not be archived."""
        return self.position.gaps

    @property
    def begin_offset(self) -> int:
        """The offset to read from."""
        return self.read_offset

    @property
    def waits(self) -> int:
        """How many records wait for their insert, or for being decided."""
        return self._waits + len(self.decided) + (len(self.run.swaps) if self.run else 0)

    def take(self, records: Records) -> None:
        """Queue records; those that are there already are skipped."""
        records = records.since(self.read_offset)
        if len(records):
            self.waiting.append(records)
            self._waits += len(records)
            self.size += sum(map(len, filter(None, records.values)))
            self.read_offset = records.offsets[-1] + 1

    def reached(self, end: int) -> None:
        """Note that the log was read up to `end`."""
        self.read_offset = max(self.read_offset, end)

    def next_run(self, below: int = sys.maxsize) -> Records | None:
        """Take the first waiting records below an offset; None where there is none."""
        if not self.waiting:
            return None
        run = self.waiting.popleft()
        rest = run.since(below)
        if len(rest):
            self.waiting.appendleft(rest)
            run = run.part(0, len(run) - len(rest))
        self._waits -= len(run)
        return run if len(run) else None

    def settled(self) -> None:
        """Go on to the archive's own rows: no intent of the previous owner is left."""
        self.stage = FILLING

    def note_epoch(self, number: int) -> None:
        """Note the epoch of the archive for the group's metadata; no intent may be open."""
        if number != self.position.epoch:
            self.position = msgspec.structs.replace(self.position, epoch=number)
            self.uncommitted = True

    def begin(self, seen: Seen, known: int) -> None:
        """Start to archive from `next_offset`; of `known` ids the archive has rows."""
        self.seen = seen
        self.stage = ARCHIVING
        log.info("archiving", partition=self.partition, next_offset=self.next_offset, known=known)

    def forget_intent(self, intent: Intent) -> None:
        """Drop an intent that is settled although the log no longer holds it."""
        self.redo = None
        self.position = msgspec.structs.replace(self.position, intent=None)
        self.next_offset = intent.last + 1
        self.uncommitted = True

    def decide(self, decided: Decided, now_s: float) -> None:
        """Queue decided records."""
        if not self.decided:
            self.filling_since = now_s
        self.decided.add(decided)

    def cut(self, now_ms: int) -> InsertBatch:
        """Take a batch off the decided records."""
        return cut(
            self.decided,
            self.partition,
            self.position,
            max_rows=self._config.archive_batch_rows,
            now_ms=now_ms,
        )

    def complete(self, batch: InsertBatch) -> None:
        """Advance past a batch that is archived or that holds nothing to archive."""
        self.in_flight = self.redo = self.rebuilding = None
        self.size -= batch.size
        # Gaps may have been noted since the batch was cut.
        self.position = msgspec.structs.replace(batch.after, gaps=self.gaps)
        self.next_offset = batch.next_offset
        self.archived_to_ms = batch.oldest
        self.uncommitted = True

    def advance_when_idle(self) -> None:
        """Advance past offsets without a record that follow the last one, if nothing is queued."""
        idle = self.stage == ARCHIVING and self.in_flight is None and not self.waits
        if idle and self.read_offset > self.next_offset:
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
            state="stalled" if fault and self.stage == ARCHIVING else self.stage,
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
        if self.decided:
            return self.decided.oldest
        if self.run is not None:
            return int(self.run.swaps.records["recorded"][0])
        return self.waiting[0].timestamps[0] if self.waiting else self.archived_to_ms
