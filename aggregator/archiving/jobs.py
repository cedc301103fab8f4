"""What an archiver does in ClickHouse: insert batches, settle lost intents, restore markers.

Each job is one try and raises Unavailable if it should be retried. Jobs run one after another on a
thread with its own connection, so a slow server never keeps the poll loop from its group. Knows
nothing of Kafka.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from aggregator.archiving.intents import Intent, span_of
from aggregator.archiving.partition import ArchivePartition, InFlightInsert
from aggregator.clickhouse.connection import ClickHouseClient, Refused, Unavailable
from aggregator.clickhouse.schema import ensure_schema
from aggregator.clickhouse.writer import ArchiveBlock, ArchiveWriter
from aggregator.redis.checkins import Checkins
from aggregator.runtime import faults, metrics, tracing
from aggregator.runtime.config import Config

log = structlog.get_logger(__name__)

# An insert starts at most this long after the group took its intent. A process that was stopped in
# between commits the intent again first, and thereby learns whether it still owns the partition.
LEASE_S: Final = 30.0
# ClickHouse remembers the newest 10,000 tokens of each table (infra/clickhouse/schema). If far
# fewer blocks were inserted since an intent, ClickHouse still knows the token if it has the block.
_TOKENS_KEPT: Final = 9_000
_MEASURE_EVERY_S: Final = 60.0


class ArchiveJobs:
    """The jobs; for one thread at a time."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._clickhouse = ClickHouseClient(config.clickhouse_url, receive_s=90)
        self._writer = ArchiveWriter(self._clickhouse, config.kafka_topic)
        self.prepared = False
        self._measure_at = 0.0

    def close(self) -> None:
        """Close the connection; a job that waits for an answer ends with Unavailable."""
        self._writer.close()

    def prepare(self) -> None:
        """Create or update the tables, once."""
        if not self.prepared:
            for name in ensure_schema(self._clickhouse, self._config):
                log.info("schema_applied", file=name)
            self.prepared = True

    def _connect(self) -> None:
        self.prepare()
        self._writer.connect()

    def insert(self, owner: ArchivePartition, in_flight: InFlightInsert) -> float:
        """Insert the blocks of a batch, except those that are there. Returns the seconds taken."""
        rows = in_flight.batch.rows
        with tracing.span("archive batch", partition=owner.partition, rows=rows):
            return self._insert(owner, in_flight)

    def _insert(self, owner: ArchivePartition, in_flight: InFlightInsert) -> float:
        began = time.monotonic()
        self._connect()
        faults.point("after_intent")
        for block in in_flight.batch.blocks:
            if not owner.active or time.monotonic() - in_flight.promised_at > LEASE_S:
                raise Unavailable("too much time has passed since the group took the intent")
            if in_flight.may_exist:
                self._insert_unless_there(block, in_flight.batch.intent)
            else:
                self._writer.insert(block, self._writer.token(block.partition, span_of(block)))
        faults.point("after_insert")
        took_s = time.monotonic() - began
        self._measure_disks()
        return took_s

    def _measure_disks(self) -> None:
        """Measure the bytes on each disk once a minute; log a failure."""
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + _MEASURE_EVERY_S
        try:
            for disk, size in self._writer.disk_bytes():
                metrics.ARCHIVE_DISK_BYTES.labels(disk).set(size)
        except (Unavailable, Refused) as error:
            log.warning("disks_not_measured", error=str(error))

    def _insert_unless_there(self, block: ArchiveBlock, intent: Intent) -> None:
        """Insert a block that all or some of the tables may already hold."""
        span = span_of(block)
        if self._writer.blocks_since(intent.decided_at) > _TOKENS_KEPT:
            # ClickHouse may have dropped the token, so look for the rows themselves.
            if self._writer.landed(block.partition, span):
                return
            log.warning("token_may_be_forgotten", partition=block.partition, first=span.first)
        token = self._writer.token(block.partition, span)
        self._writer.insert(block, token)
        if not self._writer.landed(block.partition, span):
            # The server died after it noted the token and before it kept the rows.
            self._writer.insert(block, f"{token}:again")

    def resolve_lost_intent(
        self, partition: int, intent: Intent, now_ms: int
    ) -> list[tuple[int, int]]:
        """Settle an intent that the log no longer holds.

        Returns the gaps: the ranges [first, end) whose rows are not in the archive.
        """
        self._connect()
        gaps = []
        for span in intent.block_spans():
            if self._writer.landed(partition, span):
                continue
            # Take the token, so that an insert of the previous owner that is still on its way is
            # dropped. Then look again: that insert may have come first.
            self._writer.poison(partition, span, now_ms)
            if not self._writer.landed(partition, span):
                gaps.append((span.first, span.last + 1))
        return gaps

    def reseed(
        self,
        partition: int,
        partitions: int,
        *,
        checkins: Checkins,
        lost_from: int,
        needed_from: int,
        frontier: int,
        wanted: Callable[[], bool],
    ) -> None:
        """Restore the markers of archived swaps of [lost_from, frontier), then check in.

        `checkins` are bound to the run of Redis that lacks the markers. Markers of offsets below
        `needed_from` are too old to be asked for. `wanted` says whether the partition is still
        ours.
        """
        self._connect()
        seeded = 0
        for rows in self._writer.markers_from(partition, max(lost_from, needed_from)):
            if not wanted():
                raise Unavailable("the partition is no longer ours")
            checkins.seed(rows)
            seeded += len(rows)
        checkins.seeded(partition, partitions, frontier, lost_from)
        log.warning(
            "markers_made_again",
            partition=partition,
            markers=seeded,
            first=lost_from,
            frontier=frontier,
        )
