"""What an archiver does in ClickHouse, away from its poll loop: insert, settle, make markers again.

Each job is one try: it raises Unavailable where it should be made again. They run one after another
on a thread of their own, with a connection of their own, so that a slow server never keeps the
loop from its group. Knows nothing of Kafka.
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

# An insert begins at most so long after the group took its intent: a process that was stopped in
# between asks the group again.
LEASE_S: Final = 30.0
# The server remembers 10,000 tokens a table (infra/clickhouse/schema); far fewer than that since an
# intent, and its token says by itself whether the block is there.
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
        """Close the connection; a job that waits for its answer ends with Unavailable."""
        self._writer.close()

    def prepare(self) -> None:
        """See that the tables are there."""
        if not self.prepared:
            for name in ensure_schema(self._clickhouse, self._config):
                log.info("schema_applied", file=name)
            self.prepared = True

    def _connect(self) -> None:
        self.prepare()
        self._writer.connect()

    def insert(self, owner: ArchivePartition, flight: InFlightInsert) -> float:
        """Insert the blocks of a batch; those that are there stay as they are. Seconds taken."""
        rows = flight.batch.rows
        with tracing.span("archive batch", partition=owner.partition, rows=rows):
            return self._insert(owner, flight)

    def _insert(self, owner: ArchivePartition, flight: InFlightInsert) -> float:
        began = time.monotonic()
        self._connect()
        faults.point("after_intent")
        for block in flight.batch.blocks:
            if not owner.active or time.monotonic() - flight.promised_at > LEASE_S:
                raise Unavailable("too much time has passed since the group took the intent")
            if flight.may_exist:
                self._insert_unless_there(block, flight.batch.intent)
            else:
                self._writer.insert(block, self._writer.token(block.partition, span_of(block)))
        faults.point("after_insert")
        took_s = time.monotonic() - began
        self._measure_disks()
        return took_s

    def _measure_disks(self) -> None:
        """Once a minute, how much lies on which disk; the next insert asks where this one fails."""
        if time.monotonic() < self._measure_at:
            return
        self._measure_at = time.monotonic() + _MEASURE_EVERY_S
        try:
            for disk, size in self._writer.disk_bytes():
                metrics.ARCHIVE_DISK_BYTES.labels(disk).set(size)
        except (Unavailable, Refused) as error:
            log.warning("disks_not_measured", error=str(error))

    def _insert_unless_there(self, block: ArchiveBlock, intent: Intent) -> None:
        """Insert a block that may be there, wholly or in some of the tables."""
        span = span_of(block)
        if self._writer.blocks_since(intent.decided_at) > _TOKENS_KEPT:
            # The token may be forgotten: only the rows themselves can tell.
            if self._writer.landed(block.partition, span):
                return
            log.warning("token_may_be_forgotten", partition=block.partition, first=span.first)
        token = self._writer.token(block.partition, span)
        self._writer.insert(block, token)
        if not self._writer.landed(block.partition, span):
            # A server that died between noting the token and keeping the rows.
            self._writer.insert(block, f"{token}:again")

    def resolve_lost_intent(
        self, partition: int, intent: Intent, now_ms: int
    ) -> list[tuple[int, int]]:
        """Settle an intent that the log no longer holds; the gaps (first, behind the last)."""
        self._connect()
        gaps = []
        for span in intent.block_spans():
            if self._writer.landed(partition, span):
                continue
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
        """Make the markers of what is archived of [lost_from, frontier) again, and check in.

        `checkins` are bound to the run of Redis that lacks them. Markers of offsets below
        `needed_from` are too old to be asked for.
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
