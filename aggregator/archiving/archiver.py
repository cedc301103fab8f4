"""The archiver: copies swaps from Kafka to ClickHouse, each exactly once.

This module assembles the parts and runs the poll loop. A batch is decoded, claimed and cut; its
intent is committed, then it is inserted under its token, and only then does `next_offset` advance.
The next intent, or the next idle second, commits the new offset. While ClickHouse inserts one
batch, the next is read and claimed (`batches`). `takeover` describes how partitions are acquired. A
failed engine is retried with growing pauses; meanwhile the loop stays a member of its group, reads
up to a bound and then pauses.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import structlog

from aggregator.archiving.batches import ArchiveBatches
from aggregator.archiving.intents import pack
from aggregator.archiving.partition import ArchivePartition
from aggregator.archiving.takeover import ArchiveTakeover
from aggregator.archiving.writers import CircuitBreakers, Writers
from aggregator.clickhouse.connection import Unavailable
from aggregator.clickhouse.native import compile_encoders
from aggregator.contracts.stats import ArchiveStatus
from aggregator.decoding.rows import compile_rows
from aggregator.member.kafka import SwapLog
from aggregator.member.topics import ensure_topics
from aggregator.redis.checkins import Checkins
from aggregator.redis.markers import RedisMarkers
from aggregator.redis.session import NewIncarnation, RedisSession
from aggregator.runtime import metrics
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Fenced, Retry
from aggregator.runtime.health import Health

log = structlog.get_logger(__name__)

Publish = Callable[[ArchiveStatus], None]

_POLL_LIMIT: Final = 5_000
_POLL_S: Final = 0.05
_TICK_S: Final = 1.0
_DRAIN_S: Final = 5.0


def run_archiver(
    config: Config, stop: threading.Event, publish: Publish, health: Health | None = None
) -> None:
    """Archive until `stop` is set. Raises Fatal if continuing would do harm.

    `health` receives a heartbeat every second.
    """
    compile_archiver()
    session = RedisSession(config.redis_url)
    try:
        Archiver(
            config=config,
            session=session,
            publish=publish,
            health=health or Health(),
            stop=stop,
        ).run()
    finally:
        session.close()


def compile_archiver() -> None:
    """Compile the decoders and encoders, or load them from numba's cache."""
    compile_rows()
    compile_encoders()


class Archiver:
    """The poll loop, and the partitions that this archiver owns."""

    def __init__(
        self,
        *,
        config: Config,
        session: RedisSession,
        publish: Publish,
        health: Health,
        stop: threading.Event,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._config = config
        self._publish = publish
        self._health = health
        self._stop = stop
        self._now_ms = now_ms
        self._session = session
        markers = RedisMarkers(
            session, config.marker_ttl_ms, archive_topic=config.kafka_topic, archives=True
        )
        self._checkins = Checkins(session, config.kafka_topic, config.marker_ttl_ms)
        self._log = SwapLog(
            replace(config, kafka_group=config.archiver_group), self, queued_kb=8_192
        )
        self._breakers = CircuitBreakers()
        self._owners: dict[int, ArchivePartition] = {}
        self._pending: set[int] = set()
        self._writers = Writers(config, self._breakers)
        self._takeover = ArchiveTakeover(
            config=config,
            swap_log=self._log,
            checkins=self._checkins,
            writers=self._writers,
            breakers=self._breakers,
            now_ms=now_ms,
        )
        self._batches = ArchiveBatches(
            config=config,
            owners=self._owners,
            swap_log=self._log,
            markers=markers,
            checkins=self._checkins,
            writers=self._writers,
            breakers=self._breakers,
            now_ms=now_ms,
        )
        self._next_tick = 0.0
        self._bound = False

    def run(self) -> None:
        """Join the group and work until `stop` is set; then finish what is in flight."""
        try:
            joined = False
            while not self._stop.is_set():
                if joined:
                    self._round()
                elif joined := self._join():
                    self._log.subscribe()
                else:
                    self._stop.wait(_POLL_S)
            self._give_up(list(self._owners))
        finally:
            self._finish()

    def _join(self) -> bool:
        if self._breakers.kafka.open_for_s:
            self._health.beat([f"kafka: {self._breakers.kafka.fault}"])
            return False
        try:
            ensure_topics(self._config)
            self._takeover.partitions = self._log.partition_count()
        except Retry as error:
            self._breakers.kafka.failed(str(error))
            return False
        self._breakers.kafka.worked()
        return True

    def _round(self) -> None:
        try:
            self._writers.reap()
            if self._bind():
                self._acquire_pending()
                self._advance_takeovers()
                self._batches.claim(self._takeover.partitions)
            self._batches.dispatch()
            self._batches.throttle()
            self._poll()
            self._tick()
        except NewIncarnation as error:
            log.warning("redis_new_incarnation", reason=str(error), partitions=sorted(self._owners))
            self._bound = False
            self._acquire_again(list(self._owners))
        except Fenced as error:
            # Kafka decides whether the partitions are still ours: acquiring one begins with a
            # commit.
            log.warning("fenced", partitions=sorted(self._owners), error=str(error))
            self._breakers.kafka.failed(str(error))
            self._acquire_again(list(self._owners))

    def _poll(self) -> None:
        # Do not wait for more records while some are waiting to be claimed.
        polled = self._log.poll(_POLL_LIMIT, 0.0 if self._batches.waiting() else _POLL_S)
        self._batches.take(polled)
        self._acquire_again([each for each in polled.out_of_range if each in self._owners])

    def _bind(self) -> bool:
        """Return whether Redis may be called now; bind to its current run first if needed."""
        if self._breakers.redis.open_for_s:
            return False
        if not self._bound:
            try:
                self._session.connect()
            except Retry as error:
                self._breakers.redis.failed(str(error))
                return False
            self._bound = True
            self._breakers.redis.worked()
        return True

    def on_assign(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.info("archive_assigned", partitions=list(partitions))
        self._pending.update(partitions)

    def on_revoke(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.info("archive_revoked", partitions=list(partitions))
        self._give_up(partitions)

    def on_lost(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.warning("archive_lost", partitions=list(partitions))
        for partition in partitions:
            self._release(partition)

    def _give_up(self, partitions: Sequence[int]) -> None:
        """Wait a little for inserts in flight, commit what is archived, and release the partitions.

        The next owner finds an unfinished insert as an intent.
        """
        self._writers.wait(partitions, 0 if self._breakers.clickhouse.fault else _DRAIN_S)
        try:
            self._writers.reap()
            self._commit([self._owners[each] for each in partitions if each in self._owners])
        except (Retry, Fenced, Fatal) as error:
            log.warning("revoked_uncommitted", partitions=list(partitions), error=str(error))
        for partition in partitions:
            self._release(partition)

    def _acquire_again(self, partitions: Sequence[int]) -> None:
        self._log.pause(partitions)
        for partition in partitions:
            self._release(partition)
        self._pending.update(partitions)

    def _release(self, partition: int) -> None:
        self._pending.discard(partition)
        self._batches.forget(partition)
        self._writers.forget(partition)
        owner = self._owners.pop(partition, None)
        if owner is not None:
            owner.active = False
            for gauge in (metrics.ARCHIVE_LAG, metrics.ARCHIVE_AGE):
                gauge.remove(partition)

    def _acquire_pending(self) -> None:
        if self._breakers.kafka.open_for_s or not self._pending:
            return
        try:
            for partition in sorted(self._pending):
                if owner := self._takeover.acquire(partition):
                    self._owners[partition] = owner
                    self._pending.discard(partition)
        except Unavailable as error:
            self._breakers.clickhouse.failed(str(error))
        except Retry as error:
            # A rebalance may still be under way.
            self._breakers.kafka.failed(str(error))
        else:
            self._breakers.kafka.worked()

    def _advance_takeovers(self) -> None:
        for owner in self._owners.values():
            if owner.stage == "archiving":
                continue
            try:
                self._takeover.advance(owner)
            except NewIncarnation:
                raise
            except Retry as error:
                self._breakers.redis.failed(str(error))
                return

    def _tick(self) -> None:
        if time.monotonic() < self._next_tick:
            return
        self._next_tick = time.monotonic() + _TICK_S
        self._watch()
        for owner in self._owners.values():
            owner.advance_when_idle()
        if not self._breakers.kafka.open_for_s:
            try:
                self._commit(list(self._owners.values()))
            except Retry as error:
                self._breakers.kafka.failed(str(error))
        self._report()

    def _watch(self) -> None:
        """Notice a restart of Redis, and a Kafka that is away, even when there is nothing to do."""
        if self._bound and not self._breakers.redis.open_for_s:
            try:
                self._session.ping()
                self._check_in_again()
            except NewIncarnation:
                raise
            except Retry as error:
                self._breakers.redis.failed(str(error))
            else:
                if not self._batches.waiting():
                    self._breakers.redis.worked()
        if self._log.unreachable and not self._log.still_reachable():
            self._breakers.kafka.failed(self._log.unreachable)
        elif self._breakers.kafka.fault and not self._pending:
            self._breakers.kafka.worked()

    def _check_in_again(self) -> None:
        """Restore check-ins that Redis lost within one run; until then no claim is made."""
        if not self._checkins.complete():
            for owner in self._owners.values():
                if owner.stage == "archiving":
                    self._checkins.renew(
                        owner.partition, self._takeover.partitions, owner.position.claimed_to
                    )

    def _commit(self, owners: Sequence[ArchivePartition]) -> None:
        """Commit what is archived, unless a later intent has committed it."""
        uncommitted = [owner for owner in owners if owner.uncommitted and owner.in_flight is None]
        self._log.commit(
            {owner.partition: (owner.next_offset, pack(owner.position)) for owner in uncommitted}
        )
        for owner in uncommitted:
            owner.uncommitted = False

    def _report(self) -> None:
        metrics.ARCHIVE_BUFFERED_BYTES.set(self._batches.size)
        for partition, owner in self._owners.items():
            status = owner.status(
                now_ms=self._now_ms(),
                end=self._log.newest_end(partition),
                fault=self._breakers.faults or self._log.unreadable.get(partition, ""),
            )
            metrics.ARCHIVE_LAG.labels(partition).set(status.lag)
            if status.age_ms is not None:
                metrics.ARCHIVE_AGE.labels(partition).set(status.age_ms / 1000)
            self._publish(status)
        self._health.beat(
            [f"{engine}: {fault}" for engine, fault in self._breakers.by_engine.items()]
            + [
                f"partition {partition} is {owner.stage.replace('_', ' ')}"
                for partition, owner in self._owners.items()
                if owner.stage != "archiving"
            ]
            + [f"partition {partition} is being acquired" for partition in sorted(self._pending)]
            + [f"partition {each}: {why}" for each, why in self._log.unreadable.items()]
        )

    def _finish(self) -> None:
        self._log.close()
        self._writers.close()
        log.info("archiver_stopped")
