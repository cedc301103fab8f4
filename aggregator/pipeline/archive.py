"""The archiver: Kafka to ClickHouse, every swap exactly once, assembled and run here alone.

A batch takes one way: decode, claim, cut, commit its intent, insert under its token, and only then
does `next_offset` move; the next intent, or the next idle second, commits it. While ClickHouse
inserts one batch the next is read and claimed. An engine that fails is asked again with growing
pauses; meanwhile the loop stays a member of its group, reads up to a bound and then pauses.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeVar

import structlog

from aggregator import metrics
from aggregator.config import Config
from aggregator.contracts.stats import ArchiveStatus
from aggregator.errors import DeadLetter, Fatal, Fenced, Retry
from aggregator.ingest.fast_decode import SwapDecoder
from aggregator.ingest.log import Batch as Polled
from aggregator.ingest.log import LogExtent, Records, SwapLog
from aggregator.ingest.topics import ensure_topics
from aggregator.pipeline.archive_jobs import ArchiveJobs
from aggregator.pipeline.archive_owner import ArchivePartition, Flight
from aggregator.pipeline.backoff import Gate
from aggregator.pipeline.intents import Intent, pack, unpack
from aggregator.stores.clickhouse.connection import ClickHouse, Unavailable
from aggregator.stores.clickhouse.writer import ArchiveWriter
from aggregator.stores.redis.checkins import Checkins, Seed
from aggregator.stores.redis.connection import NewIncarnation, NotCheckedIn, RedisSession
from aggregator.stores.redis.markers import MAX_CLAIMS, RedisMarkers, kinds_of

log = structlog.get_logger(__name__)

Publish = Callable[[ArchiveStatus], None]
T = TypeVar("T")

_POLL_LIMIT: Final = 5_000
_POLL_S: Final = 0.05
_TICK_S: Final = 1.0
_SHORT_LOG_S: Final = 30.0
_DRAIN_S: Final = 5.0
# Bytes of records as they came; decoded they take some two and a half times as much.
_MAX_BYTES: Final = 40 * 1024 * 1024
# While ClickHouse works on one batch, the next is encoded and sent.
_WRITERS: Final = 2
_LOOK_UP_AT_ONCE: Final = 20_000
_HOUR_MS: Final = 3_600_000


def wall_clock_ms() -> int:
    """ms since the epoch."""
    return time.time_ns() // 1_000_000


def run_archiver(config: Config, stop: threading.Event, publish: Publish) -> None:
    """Archive until `stop` is set. Raises Fatal where going on would do harm."""
    session = RedisSession(config.redis_url)
    try:
        Archiver(config=config, session=session, publish=publish, stop=stop).run()
    finally:
        session.close()


class _Writer:
    """A thread with a connection to ClickHouse of its own."""

    def __init__(self, jobs: ArchiveJobs) -> None:
        self.jobs = jobs
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="archive-writer")


class Archiver:
    """The poll loop and the partitions that this archiver owns."""

    def __init__(
        self,
        *,
        config: Config,
        session: RedisSession,
        publish: Publish,
        stop: threading.Event,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._config = config
        self._publish = publish
        self._stop = stop
        self._now_ms = now_ms
        self._session = session
        self._markers = RedisMarkers(
            session, config.marker_ttl_ms, archive_topic=config.kafka_topic, archives=True
        )
        self._checkins = Checkins(session, config.kafka_topic, config.marker_ttl_ms)
        # A partition keeps to its writer, so that what is tried again comes after what is running.
        self._writers = [_Writer(ArchiveJobs(config, self._checkins)) for _ in range(_WRITERS)]
        # Asked from the loop itself, about old swaps before they are claimed.
        self._archive = ArchiveWriter(
            ClickHouse(config.clickhouse_url, receive_s=20), config.kafka_topic
        )
        self._log = SwapLog(
            replace(config, kafka_group=config.archiver_group), self, queued_kb=16_384
        )
        self._decoder = SwapDecoder(config.max_future_ms)
        self._redis, self._clickhouse = Gate("redis"), Gate("clickhouse")
        self._kafka = Gate("kafka")
        self._partitions = config.kafka_partitions
        self._owners: dict[int, ArchivePartition] = {}
        self._pending: set[int] = set()
        self._running: dict[int, tuple[Future[Any], Callable[[Any], None]]] = {}
        self._paused: set[int] = set()
        self._short_since: dict[int, float] = {}
        self._next_tick = 0.0
        self._bound = False

    def run(self) -> None:
        """Join the group and work until asked to stop; then finish what is on its way."""
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
        if self._kafka.closed_for_s:
            return False
        try:
            ensure_topics(self._config)
            self._partitions = self._log.partition_count()
        except Retry as error:
            self._kafka.failed(str(error))
            return False
        self._kafka.worked()
        return True

    def _round(self) -> None:
        try:
            self._reap()
            if self._bind():
                self._acquire_pending()
                self._settle_all()
                self._claim_all()
            self._dispatch()
            self._throttle()
            self._take(self._log.poll(_POLL_LIMIT, self._poll_s()))
            self._tick()
        except NewIncarnation as error:
            log.warning("redis_new_incarnation", reason=str(error), partitions=sorted(self._owners))
            self._bound = False
            self._acquire_again(list(self._owners))
        except Fenced as error:
            # Whether they are ours still is for Kafka to say: acquiring commits first.
            log.warning("fenced", partitions=sorted(self._owners), error=str(error))
            self._kafka.failed(str(error))
            self._acquire_again(list(self._owners))

    def _poll_s(self) -> float:
        """Do not wait for more while something can be done."""
        return 0.0 if any(owner.waiting.offsets for owner in self._owners.values()) else _POLL_S

    def _bind(self) -> bool:
        """Whether Redis may be asked now; connects to its run where none is bound."""
        if self._redis.closed_for_s:
            return False
        if not self._bound:
            try:
                self._session.connect()
            except Retry as error:
                self._redis.failed(str(error))
                return False
            self._bound = True
            self._redis.worked()
        return True

    # --- partitions come and go ---

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
        """Wait a little for what is on its way, commit what has arrived, and let go.

        What has not arrived is found as an intent by the next owner.
        """
        running = [self._running[each][0] for each in partitions if each in self._running]
        wait_for(running, _DRAIN_S if not self._clickhouse.fault else 0)
        try:
            self._reap()
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
        self._paused.discard(partition)
        self._running.pop(partition, None)
        owner = self._owners.pop(partition, None)
        if owner is not None:
            owner.active = False

    def _acquire_pending(self) -> None:
        if self._kafka.closed_for_s or not self._pending:
            return
        try:
            for partition in sorted(self._pending):
                if self._acquire(partition):
                    self._pending.discard(partition)
        except Unavailable as error:
            self._clickhouse.failed(str(error))
        except Retry as error:
            # The group may be settling still.
            self._kafka.failed(str(error))
        else:
            self._kafka.worked()

    def _acquire(self, partition: int) -> bool:
        """Read where the owner before had got to, and have the group confirm that it is ours.

        False where ClickHouse is to be asked and is left alone now.
        """
        committed, metadata = self._log.committed(partition)
        position = unpack(metadata)
        extent = self._log.extent(partition, None)
        if committed is None:
            # The group is new, or Kafka has forgotten it: the archive knows what it has.
            if self._clickhouse.closed_for_s:
                return False
            committed = max(extent.start, self._ask(lambda: self._archive.next_offset(partition)))
        self._check_end(partition, committed, extent)
        owner = ArchivePartition(self._config, partition, committed, position, extent)
        if owner.redo is None and committed < extent.start:
            self._report_gap(partition, committed, extent.start)
            owner.skip_to(extent.start)
        self._log.commit({partition: (owner.next_offset, pack(owner.position))})
        owner.uncommitted = False
        self._owners[partition] = owner
        log.info(
            "archive_acquired",
            partition=partition,
            next_offset=owner.next_offset,
            intent=None if owner.redo is None else [owner.redo.first, owner.redo.last],
        )
        if owner.redo is not None and not owner.redo_is_lost:
            self._log.begin(partition, owner.redo.first)
        return True

    def _check_end(self, partition: int, next_offset: int, extent: LogExtent) -> None:
        """Raise where the log ends before what is archived of it.

        A broker that has just started may tell an old end, so it is asked again for a while.
        """
        if next_offset <= extent.end:
            self._short_since.pop(partition, None)
            return
        since = self._short_since.setdefault(partition, time.monotonic())
        fault = (
            f"partition {partition} of {self._config.kafka_topic} ends at {extent.end}, but the "
            f"offsets below {next_offset} are archived"
        )
        if time.monotonic() - since < _SHORT_LOG_S:
            raise Retry(fault)
        raise Fatal(
            f"{fault}: the topic was made anew or has lost records. Give CLICKHOUSE_URL another "
            "database and ARCHIVER_GROUP another name to begin a new archive"
        )

    def _report_gap(self, partition: int, first: int, behind: int) -> None:
        log.error("archive_gap", partition=partition, first=first, behind=behind)
        metrics.ARCHIVE_GAP_OFFSETS.labels(partition).inc(behind - first)

    # --- what comes before the first claim ---

    def _settle_all(self) -> None:
        for owner in self._owners.values():
            if owner.stage == "archiving":
                continue
            try:
                self._settle(owner)
            except NewIncarnation:
                raise
            except Retry as error:
                self._redis.failed(str(error))
                return

    def _settle(self, owner: ArchivePartition) -> None:
        """Bring the intent that was found to its end, and check in with this run of Redis."""
        if owner.redo is not None:
            self._settle_intent(owner, owner.redo)
        if not owner.checked_in:
            self._check_in(owner)
        if owner.redo is None and owner.checked_in:
            self._log.begin(owner.partition, owner.next_offset)
            owner.begin()

    def _settle_intent(self, owner: ArchivePartition, intent: Intent) -> None:
        if owner.redo_is_lost:
            self._start(
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
            self._report_gap(owner.partition, first, behind)
            owner.add_gap(first, behind)
        owner.forget_intent(intent)

    def _check_in(self, owner: ArchivePartition) -> None:
        """See that Redis has every claim that the archive has, or will have.

        Where it has, ClickHouse is not needed for it.
        """
        partition, frontier = owner.partition, owner.position.claimed_to
        lost_from = self._checkins.look(partition, self._partitions, frontier)
        if lost_from is None:
            owner.checked_in = True
            return
        if owner.redo is not None:
            return
        owner.stage = "checking_in"
        if partition in self._running or self._kafka.closed_for_s:
            return
        try:
            extent = self._log.extent(partition, self._markers_from())
        except Retry as error:
            self._kafka.failed(str(error))
            return
        # Where the log begins later than markers live, all of them may be asked for.
        needed_from = extent.since if extent.since > extent.start else 0
        self._start(
            owner,
            lambda jobs: jobs.reseed(
                partition,
                self._partitions,
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

    # --- the way of a batch ---

    def _take(self, polled: Polled) -> None:
        for records in polled.records:
            owner = self._owners.get(records.partition)
            if owner is not None and owner.reading:
                self._decode(owner, records)
        for partition, end in polled.ends.items():
            owner = self._owners.get(partition)
            if owner is not None and owner.reading:
                owner.read((), (), (), (), end)
        for partition in polled.out_of_range:
            if partition in self._owners:
                self._acquire_again([partition])

    def _decode(self, owner: ArchivePartition, records: Records) -> None:
        """What cannot be decoded is passed over: the aggregator puts it aside."""
        decode, behind = self._decoder.decode, owner.reads_to
        swaps, offsets, recorded, sizes = [], [], [], []
        columns = zip(records.offsets, records.timestamps, records.values, strict=True)
        for offset, timestamp, value in columns:
            if not owner.read_offset <= offset < behind:
                continue
            try:
                swaps.append(decode(value, timestamp))
            except DeadLetter:
                continue
            offsets.append(offset)
            recorded.append(timestamp)
            sizes.append(len(value or b""))
        owner.read(offsets, swaps, recorded, sizes, records.offsets[-1] + 1)

    def _claim_all(self) -> None:
        for owner in self._owners.values():
            if owner.stage != "archiving" or self._redis.closed_for_s:
                continue
            try:
                while owner.waiting.offsets and self._look_up_old(owner):
                    self._claim(owner)
                    self._redis.worked()
            except NotCheckedIn as error:
                missing = self._checkins.missing(self._partitions)
                self._redis.waits(f"{error}: missing are those of the partitions {missing}")
            except NewIncarnation:
                raise
            except Unavailable as error:
                self._clickhouse.failed(str(error))
            except Retry as error:
                self._redis.failed(str(error))

    def _claim(self, owner: ArchivePartition) -> None:
        waiting = owner.waiting
        count = min(bisect_left(waiting.offsets, owner.looked_up_to), MAX_CLAIMS)
        late, watermarks = owner.lateness(count)
        swaps = waiting.swaps[:count]
        # "r": what is late is archived, so its retraction is, too.
        kinds = kinds_of([swap.removed for swap in swaps], late, "r")
        verdicts = self._markers.claim(
            owner.partition, waiting.offsets[:count], [swap.marker for swap in swaps], kinds
        )
        owner.decide(verdicts, watermarks, time.monotonic())

    def _look_up_old(self, owner: ArchivePartition) -> bool:
        """Make the markers of swaps so old that Redis may have forgotten them (MARKER_TTL).

        False where that needs ClickHouse, and it is left alone now.
        """
        waiting = owner.waiting
        if waiting.offsets[0] < owner.looked_up_to:
            return True
        count = min(len(waiting), _LOOK_UP_AT_ONCE)
        margin_ms = min(_HOUR_MS, self._config.marker_ttl_ms // 4) + self._config.max_future_ms
        kept_from = self._now_ms() - self._config.marker_ttl_ms + margin_ms
        old = [swap for swap in waiting.swaps[:count] if swap.timestamp < kept_from]
        if old:
            if self._clickhouse.closed_for_s:
                return False
            rows = self._ask(lambda: self._archive.rows_of(old))
            self._checkins.seed([Seed(*row) for row in rows])
        owner.looked_up_to = waiting.offsets[count - 1] + 1
        return True

    def _dispatch(self) -> None:
        """Promise and start the inserts that can be started now."""
        ready = []
        pressed = self._size() > _MAX_BYTES // 2
        for owner in self._owners.values():
            self._fill(owner, pressed)
            if owner.flight is not None and owner.partition not in self._running:
                ready.append((owner, owner.flight))
        if not ready or self._kafka.closed_for_s or self._clickhouse.closed_for_s:
            return
        if self._clickhouse.fault:
            del ready[1:]  # one is enough to find out
        try:
            self._log.commit(
                {
                    owner.partition: (flight.batch.intent.first, pack(flight.batch.promised))
                    for owner, flight in ready
                }
            )
        except Retry as error:
            self._kafka.failed(str(error))
            return
        for owner, flight in ready:
            flight.promised_at = time.monotonic()
            self._start(
                owner,
                partial(ArchiveJobs.insert, owner=owner, flight=flight),
                partial(self._inserted, owner, flight),
            )

    def _fill(self, owner: ArchivePartition, pressed: bool) -> None:
        while owner.flight is None and owner.decided.offsets:
            full = pressed or len(owner.decided) >= self._config.archive_batch_rows
            waited_ms = (time.monotonic() - owner.filling_since) * 1000
            if not full and waited_ms < self._config.archive_linger_ms:
                return
            batch = owner.cut(self._now_ms())
            if batch.blocks:
                owner.flight = Flight(batch, 0.0)
            else:
                owner.passed(batch)

    def _inserted(self, owner: ArchivePartition, flight: Flight, seconds: float) -> None:
        owner.passed(flight.batch)
        metrics.ARCHIVE_INSERT_SECONDS.observe(seconds)
        metrics.ARCHIVE_BATCHES.labels(owner.partition).inc()
        metrics.ARCHIVE_ROWS.labels(owner.partition).inc(flight.batch.rows)

    def _throttle(self) -> None:
        """Stop reading where enough is held; go on where there is room again."""
        held = self._size()
        for partition, owner in self._owners.items():
            if owner.stage != "archiving":
                continue
            waits = len(owner.waiting) + len(owner.decided)
            full = held > _MAX_BYTES or waits > self._config.archive_batch_rows
            if full and partition not in self._paused:
                self._log.pause([partition])
                self._paused.add(partition)
            elif not full and partition in self._paused:
                self._log.resume([partition])
                self._paused.discard(partition)

    def _size(self) -> int:
        return sum(owner.size for owner in self._owners.values())

    # --- jobs on the writer's thread ---

    def _start(
        self,
        owner: ArchivePartition,
        job: Callable[[ArchiveJobs], Any],
        done: Callable[[Any], None],
    ) -> None:
        """Start a job of a partition, unless one is running or ClickHouse is left alone."""
        if owner.partition not in self._running and not self._clickhouse.closed_for_s:
            writer = self._writers[owner.partition % _WRITERS]
            self._running[owner.partition] = writer.thread.submit(job, writer.jobs), done

    def _reap(self) -> None:
        """Take note of the jobs that have ended."""
        for partition, (future, done) in list(self._running.items()):
            if not future.done():
                continue
            del self._running[partition]
            try:
                result = future.result()
            except NewIncarnation:
                raise
            except Unavailable as error:
                self._clickhouse.failed(str(error))
                flight = self._owners[partition].flight
                if flight is not None:
                    flight.again = True
            except Retry as error:
                self._redis.failed(str(error))
            else:
                self._clickhouse.worked()
                done(result)

    def _ask(self, question: Callable[[], T]) -> T:
        """Ask the archive from the loop itself; the tables must be there by then."""
        writer = self._writers[0]
        if not writer.jobs.prepared:
            writer.thread.submit(writer.jobs.prepare).result()
        return question()

    # --- what happens by the clock ---

    def _tick(self) -> None:
        if time.monotonic() < self._next_tick:
            return
        self._next_tick = time.monotonic() + _TICK_S
        self._watch()
        for owner in self._owners.values():
            owner.settle_reading()
        if not self._kafka.closed_for_s:
            try:
                self._commit(list(self._owners.values()))
            except Retry as error:
                self._kafka.failed(str(error))
        self._report()

    def _watch(self) -> None:
        """Notice a restart of Redis, and a Kafka that is gone, with nothing to do, too."""
        if self._bound and not self._redis.closed_for_s:
            try:
                self._session.ping()
            except NewIncarnation:
                raise
            except Retry as error:
                self._redis.failed(str(error))
            else:
                if not any(owner.waiting.offsets for owner in self._owners.values()):
                    self._redis.worked()
        if self._log.unreachable and not self._log.still_reachable():
            self._kafka.failed(self._log.unreachable)
        elif self._kafka.fault and not self._pending:
            self._kafka.worked()

    def _commit(self, owners: Sequence[ArchivePartition]) -> None:
        """Commit what is archived, where no later intent has done so."""
        behind = [owner for owner in owners if owner.uncommitted and owner.flight is None]
        self._log.commit(
            {owner.partition: (owner.next_offset, pack(owner.position)) for owner in behind}
        )
        for owner in behind:
            owner.uncommitted = False

    def _report(self) -> None:
        faults = [gate.fault for gate in (self._kafka, self._redis, self._clickhouse) if gate.fault]
        metrics.ARCHIVE_BUFFERED_BYTES.set(self._size())
        for partition, owner in self._owners.items():
            status = owner.status(
                now_ms=self._now_ms(),
                end=self._log.newest_end(partition),
                fault="; ".join(faults),
            )
            metrics.ARCHIVE_LAG.labels(partition).set(status.lag)
            if status.age_ms is not None:
                metrics.ARCHIVE_AGE.labels(partition).set(status.age_ms / 1000)
            self._publish(status)

    def _finish(self) -> None:
        self._log.close()
        self._archive.close()
        for writer in self._writers:
            writer.jobs.close()
            writer.thread.shutdown(wait=True, cancel_futures=True)
        log.info("archiver_stopped")
