"""What an archiver does in ClickHouse: insert batches, settle lost intents, look rows up.

Each job is one try and raises Unavailable if it should be retried. Jobs run one after another on a
thread with its own connection, so a slow server never keeps the poll loop from its group. Knows
nothing of Kafka.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import structlog

from aggregator.archiving.batches import span_of
from aggregator.archiving.decisions import Found, WantedIds
from aggregator.archiving.intents import Intent, Place, Switch
from aggregator.archiving.partition import ArchivePartition, InFlightInsert
from aggregator.clickhouse.connection import ClickHouseClient, Refused, Unavailable
from aggregator.clickhouse.questions import ArchivedRow, ArchiveQuestions, Entries, join
from aggregator.clickhouse.schema import ensure_schema
from aggregator.clickhouse.writer import ArchiveBlock, ArchiveWriter, Epoch
from aggregator.contracts.event import Swap
from aggregator.contracts.homes import Homes
from aggregator.contracts.units import DAY_MS, HOUR_MS
from aggregator.runtime import faults, metrics, tracing
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.seen.known import Known

log = structlog.get_logger(__name__)

# An insert starts at most this long after the group took its intent. A process that was stopped in
# between commits the intent again first, and thereby learns whether it still owns the partition.
LEASE_S: Final = 30.0
# ClickHouse remembers the newest 10,000 tokens of each table (infra/clickhouse/schema). If far
# fewer blocks were inserted since an intent, ClickHouse still knows the token if it has the block.
_TOKENS_KEPT: Final = 9_000
_MEASURE_EVERY_S: Final = 60.0
# How far ahead of the broker a record timestamp may be (message.timestamp.after.max.ms), and the
# clocks of two machines apart: a row came in at most so long before the log clock passed it.
AHEAD_MS: Final = HOUR_MS
CLOCKS_APART_MS: Final = 600_000


def boot_s() -> float:
    """Return the seconds of a clock that does not stand still while the machine is suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Filled(NamedTuple):
    """What the archive has of a partition, and its epoch as of the question.

    Nothing is asked while a backfill is writing: `known` is None then.
    """

    known: Known | None
    epoch: Epoch


class Inserted(NamedTuple):
    """How long an insert took, and the number of the archive's epoch as it began."""

    seconds: float
    epoch: int


class TopicId:
    """The id of the topic, filled before the first job asks for it."""

    def __init__(self) -> None:
        self.text = ""


class ArchiveJobs:
    """The jobs; for one thread at a time."""

    def __init__(self, config: Config, topic: TopicId) -> None:
        self._config = config
        self._topic = topic
        self._clickhouse = ClickHouseClient(config.clickhouse_url, receive_s=90)
        self._made: tuple[ArchiveWriter, ArchiveQuestions] | None = None
        self.prepared = False
        self._measure_at = 0.0

    def abort(self) -> None:
        """End a job that waits for an answer on its thread, with Unavailable."""
        self._clickhouse.abort()

    def close(self) -> None:
        """Close the connection; no job may be running."""
        self._clickhouse.close()

    def prepare(self) -> None:
        """Create or update the tables, once."""
        if not self.prepared:
            for name in ensure_schema(self._clickhouse, self._config):
                log.info("schema_applied", file=name)
            self.prepared = True

    def _connect(self) -> tuple[ArchiveWriter, ArchiveQuestions]:
        self.prepare()
        if self._made is None:
            self._made = (
                ArchiveWriter(self._clickhouse, self._topic.text),
                ArchiveQuestions(self._clickhouse, self._topic.text),
            )
        self._made[0].connect()
        return self._made

    def next_offset(self, partition: int) -> int:
        """Return the offset after the topic's last row of the partition."""
        return self._connect()[1].next_offset(partition)

    def last_unnamed(self, partition: int) -> ArchivedRow | None:
        """Return the partition's last row that names no topic."""
        return self._connect()[1].last_unnamed(partition)

    def epoch(self, partition: int) -> int:
        """Return the number of the archive's epoch."""
        return self._connect()[0].epoch(partition).number

    def insert(self, owner: ArchivePartition, in_flight: InFlightInsert) -> Inserted:
        """Insert the blocks of a batch, except those that are there."""
        with tracing.span("archive batch", partition=owner.partition, rows=in_flight.batch.rows):
            return self._insert(owner, in_flight)

    def _insert(self, owner: ArchivePartition, in_flight: InFlightInsert) -> Inserted:
        began = time.monotonic()
        writer, _ = self._connect()
        faults.point("after_intent")
        # A backfill that has raised it adds no row before the group has it without an intent. So
        # this batch may still be inserted.
        epoch = writer.epoch(owner.partition).number
        for block in in_flight.batch.blocks:
            if not owner.active or boot_s() - in_flight.promised_at > LEASE_S:
                raise Unavailable("too much time has passed since the group took the intent")
            if in_flight.may_exist:
                self._insert_unless_there(writer, block, in_flight.batch.intent)
            else:
                writer.insert(block, writer.token(block.partition, span_of(block)))
        faults.point("after_insert")
        took_s = time.monotonic() - began
        self._measure_disks(writer)
        return Inserted(took_s, epoch)

    def _measure_disks(self, writer: ArchiveWriter) -> None:
        """Measure the bytes on each disk once a minute; log a failure."""
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + _MEASURE_EVERY_S
        try:
            for disk, size in writer.disk_bytes():
                metrics.ARCHIVE_DISK_BYTES.labels(disk).set(size)
        except (Unavailable, Refused) as error:
            log.warning("disks_not_measured", error=str(error))

    def _insert_unless_there(
        self, writer: ArchiveWriter, block: ArchiveBlock, intent: Intent
    ) -> None:
        """Insert a block that all or some of the tables may already hold."""
        span = span_of(block)
        forgotten = writer.blocks_since(intent.decided_at) > _TOKENS_KEPT
        # ARCHIVE_KEEP takes the rows of an old day, soon or on arrival, but not their totals: that
        # they are not there says nothing.
        fleeting = (block.day + 1) * DAY_MS + self._config.keep_ttl_ms < wall_ms() + DAY_MS
        if forgotten:
            # ClickHouse may have dropped the token, so look for the rows themselves.
            if writer.landed(block.partition, span):
                return
            log.warning("token_may_be_forgotten", partition=block.partition, first=span.first)
            if fleeting:
                return
        token = writer.token(block.partition, span)
        writer.insert(block, token)
        if not fleeting and not writer.landed(block.partition, span):
            # The server died after it noted the token and before it kept the rows.
            writer.insert(block, f"{token}:again")

    def resolve_lost_intent(
        self, partition: int, intent: Intent, now_ms: int
    ) -> list[tuple[int, int]]:
        """Settle an intent that the log no longer holds.

        Returns the gaps: the ranges [first, end) whose rows are not in the archive.
        """
        writer, _ = self._connect()
        gaps = []
        for span in intent.block_spans():
            if writer.landed(partition, span):
                continue
            # Take the token, so that an insert of the previous owner that is still on its way is
            # dropped. Then look again: that insert may have come first.
            writer.poison(partition, span, now_ms)
            if not writer.landed(partition, span):
                gaps.append((span.first, span.last + 1))
        return gaps

    def values_at(self, places: Sequence[Place], unnamed: bool) -> dict[Place, Swap]:
        """Return the values of the rows at these places; of rows without a topic if `unnamed`."""
        if not places:
            return {}
        _, questions = self._connect()
        rows = questions.rows_at(places, unnamed=True) if unnamed else []
        return {
            Place(row.partition, row.offset): row.swap
            for row in [*rows, *questions.rows_at(places)]
        }

    def fill(
        self,
        partition: int,
        clock: int,
        switch: Switch | None,
        homes: Homes,
        wanted: Callable[[], bool],
    ) -> Filled:
        """Return what the archive has of the partition within MARKER_TTL of the log clock (ms).

        `wanted` says whether the partition is still ours.
        """
        writer, questions = self._connect()
        # First the epoch: rows that come in later then raise it above this one.
        epoch = writer.epoch(partition)
        if epoch.writing:
            return Filled(None, epoch)
        since = clock - self._config.marker_ttl_ms - AHEAD_MS - CLOCKS_APART_MS
        parts: list[Entries] = []
        if switch is not None and clock <= switch.clock + self._config.marker_ttl_ms:
            parts.append(
                questions.unnamed_since(since, lambda token_id: homes.of(token_id) == partition)
            )
        for part in questions.since(partition, since):
            if not wanted():
                raise Unavailable("the partition is no longer ours")
            parts.append(part)
        entries = join(parts)
        return Filled(Known.of(entries) if len(entries) else None, epoch)

    def look_up(self, wanted: WantedIds, *, unnamed: bool) -> Found:
        """Return what the archive has of these ids, of all time.

        With `unnamed`, also the rows from before the topic had a name.
        """
        _, questions = self._connect()
        everything = [*wanted.late, *wanted.retracted, *wanted.forwarded]
        return Found(
            questions.entries_of(wanted.late),
            questions.rows_of(wanted.retracted),
            questions.unnamed_rows_of(everything) if unnamed else [],
        )
