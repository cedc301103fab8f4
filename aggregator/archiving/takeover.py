"""How an archiver takes over a partition: redo what the previous owner promised, then check in.

`acquire` reads the position and the intent from the group's commit metadata and has the group
confirm them. `advance` redoes the intent and ensures that Redis holds every claim that the archive
holds (DESIGN 4 rule 10, docs/exactly-once.md). Only then does the partition archive.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from aggregator.archiving.intents import Intent, pack, unpack
from aggregator.archiving.partition import ArchivePartition, InFlightInsert
from aggregator.archiving.writers import CircuitBreakers, Writers
from aggregator.member.end_offset_check import EndOffsetCheck
from aggregator.member.kafka import SwapLog
from aggregator.redis.checkins import Checkins
from aggregator.runtime import metrics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry

log = structlog.get_logger(__name__)


class ArchiveTakeover:
    """Takes over the partitions that the group assigns to this archiver."""

    def __init__(
        self,
        *,
        config: Config,
        swap_log: SwapLog,
        checkins: Checkins,
        writers: Writers,
        breakers: CircuitBreakers,
        now_ms: Callable[[], int],
    ) -> None:
        self.partitions = config.kafka_partitions
        self._config = config
        self._log = swap_log
        self._checkins = checkins
        self._writers = writers
        self._breakers = breakers
        self._now_ms = now_ms
        self._end_offset_check = EndOffsetCheck(
            config.kafka_topic,
            "archived",
            "Give CLICKHOUSE_URL another database and ARCHIVER_GROUP another name to begin a new "
            "archive",
        )

    def acquire(self, partition: int) -> ArchivePartition | None:
        """Read how far the previous owner was, and have the group confirm the ownership.

        Returns None if ClickHouse must be asked but its circuit breaker is open.
        """
        committed, metadata = self._log.committed(partition)
        position = unpack(metadata)
        extent = self._log.extent(partition, None)
        if committed is None or not metadata:
            # The group is new, Kafka has deleted its commits, or another program set the offset and
            # thereby dropped the intent. Ask the archive itself how far it is.
            if self._breakers.clickhouse.open_for_s:
                return None
            archived = self._writers.ask(lambda archive: archive.next_offset(partition))
            if committed is not None:
                log.warning(
                    "offset_set_by_others",
                    partition=partition,
                    offset=committed,
                    archived_to=archived,
                    fix="to archive again use manage.py backfill",
                )
            committed = max(extent.start, archived)
            position = msgspec.structs.replace(position, claimed_to=archived)
        self._end_offset_check.check(partition, committed, extent.end)
        owner = ArchivePartition(self._config, partition, committed, position, extent)
        if owner.redo is None and committed < extent.start:
            _report_gap(partition, committed, extent.start)
            owner.skip_to(extent.start)
        # Commit what was read: the group refuses a member that no longer owns the partition.
        self._log.commit({partition: (owner.next_offset, pack(owner.position))})
        owner.uncommitted = False
        log.info(
            "archive_acquired",
            partition=partition,
            next_offset=owner.next_offset,
            intent=None if owner.redo is None else [owner.redo.first, owner.redo.last],
        )
        if owner.redo is not None and not owner.redo_is_lost:
            self._log.begin(partition, owner.redo.first)
        return owner

    def advance(self, owner: ArchivePartition) -> None:
        """Take one step: redo the inherited intent, then check in with this run of Redis.

        Call it again until the partition archives. Raises Retry.
        """
        if owner.redo is not None:
            self._redo_intent(owner, owner.redo)
        if not owner.checked_in:
            self._check_in(owner)
        if owner.redo is None and owner.checked_in:
            self._log.begin(owner.partition, owner.next_offset)
            owner.begin()

    def _redo_intent(self, owner: ArchivePartition, intent: Intent) -> None:
        if owner.redo_is_lost:
            self._writers.start(
                owner,
                lambda jobs: jobs.resolve_lost_intent(owner.partition, intent, self._now_ms()),
                lambda gaps: self._intent_lost(owner, intent, gaps),
            )
        elif owner.in_flight is None and owner.read_offset > intent.last:
            self._log.pause([owner.partition])
            # All records of the intent are read. Pause until the redo is done; the partition then
            # begins again after the intent.
            owner.in_flight = InFlightInsert(owner.rebuild_batch(), 0.0, may_exist=True)

    def _intent_lost(
        self, owner: ArchivePartition, intent: Intent, gaps: list[tuple[int, int]]
    ) -> None:
        for first, end in gaps:
            _report_gap(owner.partition, first, end)
            owner.add_gap(first, end)
        owner.forget_intent(intent)

    def _check_in(self, owner: ArchivePartition) -> None:
        """Ensure that Redis has every claim that the archive has or is about to have.

        This needs no ClickHouse if Redis lost nothing.
        """
        partition, frontier = owner.partition, owner.position.claimed_to
        lost_from = self._checkins.look(partition, self.partitions, frontier)
        if lost_from is None:
            owner.checked_in = True
            return
        # Markers are restored from the archive's rows, which are complete only after the redo.
        if owner.redo is not None:
            return
        owner.stage = "checking_in"
        if self._writers.busy(partition) or self._breakers.kafka.open_for_s:
            return
        try:
            extent = self._log.extent(partition, self._markers_from())
        except Retry as error:
            self._breakers.kafka.failed(str(error))
            return
        # Bind the job to this run of Redis. A later run may lack more markers than this job
        # restores, so the job must not check in with it.
        checkins = self._checkins.bound()
        # If the log begins after the oldest marker expires, all markers may still be asked for.
        needed_from = extent.since if extent.since > extent.start else 0
        self._writers.start(
            owner,
            lambda jobs: jobs.reseed(
                partition,
                self.partitions,
                checkins=checkins,
                lost_from=lost_from,
                needed_from=needed_from,
                frontier=frontier,
                wanted=lambda: owner.active,
            ),
            lambda _: owner.mark_checked_in(),
        )

    def _markers_from(self) -> int | None:
        """Return the record time from which a repeat or a replay may still ask for markers."""
        if self._config.clock == "event":
            return None
        replay_ms = 2 * self._config.longest_window_minutes * 60_000 + self._config.grace_ms
        reach_ms = max(replay_ms, self._config.marker_ttl_ms) + self._config.max_future_ms
        return self._now_ms() - reach_ms


def _report_gap(partition: int, first: int, end: int) -> None:
    # `infra.embedded.proofs` reads these fields.
    log.error("archive_gap", partition=partition, first=first, behind=end)
    metrics.ARCHIVE_GAP_OFFSETS.labels(partition).inc(end - first)
