"""Takes partitions over: a higher epoch first, then the state, then the replay.

The order makes it safe (DESIGN 4 rule 8). The new epoch is committed to Kafka, which refuses a
member that is no longer in the group; then it is taken in Redis, which from then on refuses every
lower epoch; only then is the state loaded. The work runs on threads of its own, so that the other
partitions of the process go on. This module starts no reading and publishes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Final, NamedTuple

import structlog

from aggregator.contracts.homes import Homes
from aggregator.contracts.units import MINUTE_MS
from aggregator.counting.commit_metadata import (
    NOTHING_COMMITTED,
    CommitMetadata,
    read_metadata,
)
from aggregator.counting.partition import PartitionOwner
from aggregator.counting.rebuild import Rebuild, plan_rebuild, rebuild_since
from aggregator.member.end_offset_check import EndOffsetCheck
from aggregator.member.homes import TopicHomes
from aggregator.member.log import Log, LogExtent
from aggregator.redis.snapshots import Snapshot, Snapshots
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

log = structlog.get_logger(__name__)

_OTHER_HOMES: Final = (
    "The counts of a topic hold for one value of both, so count under other values with a new "
    "topic, or with a new KAFKA_GROUP and an empty Redis"
)


class Taken(NamedTuple):
    """A partition that was taken over: its owner, its homes, and what every commit says."""

    owner: PartitionOwner
    homes: Homes
    metadata: CommitMetadata


class _Prepared(NamedTuple):
    """What was found out about a partition before its epoch is committed."""

    extent: LogExtent
    committed: int | None
    homes: Homes
    metadata: CommitMetadata
    position: int
    reject_from: int
    plan: Rebuild | None


class _Attempt(NamedTuple):
    """One try to take a partition, at `now_ms` by the own clock; `taking` once it is committed."""

    now_ms: int
    preparing: Future[_Prepared]
    taking: Future[Taken] | None


class Takeover:
    """Takes partitions that the group has assigned to this process.

    `partitions` is how many the topic had at the last takeover; 0 before the first.
    """

    def __init__(
        self,
        config: Config,
        member_log: Log,
        snapshots: Snapshots,
        now_ms: Callable[[], int],
        executor: Executor,
    ) -> None:
        self.partitions = 0
        self._config = config
        self._log = member_log
        self._snapshots = snapshots
        self._now_ms = now_ms
        self._executor = executor
        self._homes = TopicHomes(
            config, member_log, read_metadata, taken="counted", remedy=_OTHER_HOMES
        )
        self._remedy = (
            f"To count the new topic, delete the keys snap:{{{config.kafka_topic}:*}}:* and "
            f"dedupe:{{{config.kafka_topic}:*}}:* in Redis, then restart this process and the web "
            "nodes: until then they show the numbers of the old topic, as stale"
        )
        self._log_end = EndOffsetCheck(config.kafka_topic, "counted", self._remedy)
        self._attempts: dict[int, _Attempt] = {}

    def poll(self, partition: int) -> Taken | None:
        """Begin to take the partition, or go on; None while it is not taken yet.

        The owner is at the end of its saved state, under a new epoch. Raises Retry as the engines
        do, Fenced where the group or a newer owner has the partition, Fatal where the log is not
        the one that was counted; the next call begins again.
        """
        attempt = self._attempts.pop(partition, None)
        if attempt is None:
            now_ms = self._now_ms()
            attempt = _Attempt(now_ms, self._executor.submit(self._prepare, partition), None)
        if attempt.taking is None and attempt.preparing.done():
            # On the thread of the loop: Kafka checks that a commit comes from a member of the group
            # and not that the member has the partition, and the loop knows that it still has it.
            prepared = attempt.preparing.result()
            self._log.commit({partition: (prepared.position, prepared.metadata.encode())})
            self._homes.committed(prepared.homes)
            taking = self._executor.submit(self._take, partition, prepared, attempt.now_ms)
            attempt = attempt._replace(taking=taking)
        if attempt.taking is not None and attempt.taking.done():
            return attempt.taking.result()
        self._attempts[partition] = attempt
        return None

    def cancel(self, partition: int) -> None:
        """Give up taking a partition; nothing more is committed for it."""
        self._attempts.pop(partition, None)

    def _prepare(self, partition: int) -> _Prepared:
        topic_id = self._log.topic_id()
        committed, text = self._log.committed(partition)
        found = read_metadata(text)
        is_old = found != NOTHING_COMMITTED and not found.homes
        if found.topic_id and topic_id and found.topic_id != topic_id:
            # Of a topic that is gone: only its epoch still means something.
            found, committed = CommitMetadata(found.epoch), None
        self.partitions = max(self._log.partition_count(), partition + 1)
        homes = self._homes.of(partition, found, topic_id)
        extent = self._log.extent(partition, None)
        if committed is not None:
            committed = min(committed, extent.end)
        epoch = max(found.epoch, self._snapshots.last_epoch(partition)) + 1
        # The version before counted misplaced records where they stood, so its committed offset
        # says nothing about forwards: they begin with the replay.
        plan = self._plan(partition, extent, committed) if is_old else None
        reject_from = max(committed or 0, extent.start)
        # An offset that Kafka has deleted stays committed until a save: it is what the gap says.
        position = committed if plan is None else plan.offset
        return _Prepared(
            extent=extent,
            committed=committed,
            homes=homes,
            metadata=CommitMetadata(epoch, homes.homes, homes.partitioner, topic_id),
            position=extent.start if position is None else position,
            reject_from=reject_from,
            plan=plan,
        )

    def _take(self, partition: int, prepared: _Prepared, now_ms: int) -> Taken:
        extent, metadata = prepared.extent, prepared.metadata
        self._snapshots.take(partition, metadata.epoch)
        began = time.perf_counter()
        snapshot = self._snapshots.load(partition)
        loaded = time.perf_counter()
        if snapshot is not None:
            self._check_topic(partition, snapshot, metadata.topic_id, extent)
        owner = PartitionOwner(
            config=self._config,
            partition=partition,
            epoch=metadata.epoch,
            topic_id=metadata.topic_id,
            extent=extent,
            reject_from=prepared.reject_from,
            forward_from=max(prepared.position, extent.start),
            now_ms=now_ms if self._config.clock == "wall" else 0,
        )
        if snapshot is None or not owner.resume(snapshot):
            plan = prepared.plan or self._plan(partition, extent, prepared.committed)
            owner.rebuild(plan)
        log.debug(
            "restored",
            partition=partition,
            loading_s=loaded - began,
            decoding_s=time.perf_counter() - loaded,
        )
        return Taken(owner, prepared.homes, metadata)

    def _check_topic(
        self, partition: int, snapshot: Snapshot, topic_id: str, extent: LogExtent
    ) -> None:
        """Raise where the saved state is of another topic of this name."""
        saved_id = snapshot.header.topic_id
        if saved_id and topic_id and saved_id != topic_id:
            raise Fatal(
                f"the topic {self._config.kafka_topic} was created again (its id was {saved_id} "
                f"and is {topic_id}), but the counts of partition {partition} are of the old one. "
                f"{self._remedy}"
            )
        # A broker without topic ids says nothing of that. And a log may lose records.
        self._log_end.check(partition, snapshot.header.next_offset, extent.end)

    def _plan(self, partition: int, extent: LogExtent, committed: int | None) -> Rebuild:
        """Plan the replay without a saved state. Raises Retry."""
        config = self._config
        since = first_ms = None
        # Windows at event time say nothing of record times: then the whole log is read.
        if config.clock == "wall" and extent.start < extent.end:
            newest_ms = self._log.last_timestamp(partition)
            first_ms = self._log.first_timestamp(partition)
            if newest_ms is not None:
                longest_ms = config.longest_window_minutes * MINUTE_MS
                at_ms = rebuild_since(newest_ms, longest_ms, config.max_future_ms)
                since = at_ms, self._log.extent(partition, at_ms).since
        return plan_rebuild(
            start=extent.start,
            end=extent.end,
            committed=committed,
            since=since,
            first_ms=first_ms,
            max_future_ms=config.max_future_ms,
        )
