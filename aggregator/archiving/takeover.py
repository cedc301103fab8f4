"""How an archiver takes over a partition: what the owner before had promised, then the check-in.

`acquire` reads the position and the intent from the group's commit metadata and has the group
confirm them. `settle` brings the intent to its end and sees that Redis holds every claim that the
archive has (DESIGN 4 rules 7 and 9); only then does the partition archive.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import structlog

from aggregator.archiving.intents import Intent, pack, unpack
from aggregator.archiving.partition import ArchivePartition, Flight
from aggregator.archiving.writers import Gates, Writers
from aggregator.member.end_offset_check import LogEndCheck
from aggregator.member.kafka import SwapLog
from aggregator.redis.checkins import Checkins
from aggregator.runtime import metrics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry

log = structlog.get_logger(__name__)


class ArchiveTakeover:
    """Takes partitions that the group has assigned to this archiver."""

    def __init__(
        self,
        *,
        config: Config,
        swap_log: SwapLog,
        checkins: Checkins,
        writers: Writers,
        gates: Gates,
        now_ms: Callable[[], int],
    ) -> None:
        self.partitions = config.kafka_partitions
        self._config = config
        self._log = swap_log
        self._checkins = checkins
        self._writers = writers
        self._gates = gates
        self._now_ms = now_ms
        self._log_end = LogEndCheck(
            config.kafka_topic,
            "archived",
            "Give CLICKHOUSE_URL another database and ARCHIVER_GROUP another name to begin a new "
            "archive",
        )

    def acquire(self, partition: int) -> ArchivePartition | None:
        """Read where the owner before had got to, and have the group confirm that it is ours.

        None where ClickHouse is to be asked and is left alone now.
        """
        committed, metadata = self._log.committed(partition)
        position = unpack(metadata)
        extent = self._log.extent(partition, None)
        if committed is None or not metadata:
            # The group is new, Kafka has forgotten it, or somebody else has set its offset, whereby
            # its intent was lost: the archive knows what it has.
            if self._gates.clickhouse.closed_for_s:
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
        self._log_end.check(partition, committed, extent.end)
        owner = ArchivePartition(self._config, partition, committed, position, extent)
        if owner.redo is None and committed < extent.start:
            _report_gap(partition, committed, extent.start)
            owner.skip_to(extent.start)
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

    def settle(self, owner: ArchivePartition) -> None:
        """Bring the intent that was found to its end, and check in with this run of Redis.

        A step at a time: asked again until the partition archives. Raises Retry.
        """
        if owner.redo is not None:
            self._settle_intent(owner, owner.redo)
        if not owner.checked_in:
            self._check_in(owner)
        if owner.redo is None and owner.checked_in:
            self._log.begin(owner.partition, owner.next_offset)
            owner.begin()

    def _settle_intent(self, owner: ArchivePartition, intent: Intent) -> None:
        if owner.redo_is_lost:
            self._writers.start(
                owner,
                lambda jobs: jobs.settle_lost(owner.partition, intent, self._now_ms()),
                lambda gaps: self._intent_lost(owner, intent, gaps),
            )
        elif owner.flight is None and owner.read_offset > intent.last:
            self._log.pause([owner.partition])
            owner.flight = Flight(owner.cut_again(), 0.0, again=True)

    def _intent_lost(
        self, owner: ArchivePartition, intent: Intent, gaps: list[tuple[int, int]]
    ) -> None:
        for first, behind in gaps:
            _report_gap(owner.partition, first, behind)
            owner.add_gap(first, behind)
        owner.forget_intent(intent)

    def _check_in(self, owner: ArchivePartition) -> None:
        """See that Redis has every claim that the archive has, or will have.

        Where it has, ClickHouse is not needed for it.
        """
        partition, frontier = owner.partition, owner.position.claimed_to
        lost_from = self._checkins.look(partition, self.partitions, frontier)
        if lost_from is None:
            owner.checked_in = True
            return
        if owner.redo is not None:
            return
        owner.stage = "checking_in"
        if self._writers.busy(partition) or self._gates.kafka.closed_for_s:
            return
        try:
            extent = self._log.extent(partition, self._markers_from())
        except Retry as error:
            self._gates.kafka.failed(str(error))
            return
        # The job must not check in with a later run of Redis, which may lack more.
        checkins = self._checkins.bound()
        # Where the log begins later than markers live, all of them may be asked for.
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
            lambda _: owner.has_checked_in(),
        )

    def _markers_from(self) -> int | None:
        """The record time from which markers may be asked for: by repeats, or by a replay."""
        if self._config.clock == "event":
            return None
        replay_ms = 2 * self._config.longest_window_minutes * 60_000 + self._config.grace_ms
        reach_ms = max(replay_ms, self._config.marker_ttl_ms) + self._config.max_future_ms
        return self._now_ms() - reach_ms


def _report_gap(partition: int, first: int, behind: int) -> None:
    log.error("archive_gap", partition=partition, first=first, behind=behind)
    metrics.ARCHIVE_GAP_OFFSETS.labels(partition).inc(behind - first)
