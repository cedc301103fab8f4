"""The aggregator process: Kafka to windows to NATS, assembled and run here alone.

Every batch takes the same way: decode, send bad messages to the dead-letter topic, claim, apply,
and only then does `next_offset` move. While Redis decides one batch the next is decoded. How
partitions are taken, what is saved and committed, and what is told stand in `takeover`,
`checkpoint` and `telling`. A call that fails for a passing reason is made again, with nothing
polled meanwhile.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import structlog

from aggregator.archiving.in_process import ArchiverThread
from aggregator.contracts.units import SECOND_MS
from aggregator.contracts.verdict import Verdict
from aggregator.counting.announcer import Telling
from aggregator.counting.board_cache import Rows, RowSaver
from aggregator.counting.checkpoint import Checkpoint
from aggregator.counting.flush_schedule import Pace
from aggregator.counting.partition import PartitionOwner, Placed
from aggregator.counting.takeover import Takeover
from aggregator.dead_letters.producer import BadRun, DeadLetters, Rejected
from aggregator.decoding.decoder import BatchDecoder, compile_decoder
from aggregator.member.kafka import Polled, Records, SwapLog
from aggregator.member.topics import ensure_topics
from aggregator.nats.publisher import Publisher
from aggregator.redis.board_rows import RedisBoardRows
from aggregator.redis.checkins import Checkins
from aggregator.redis.markers import Markers, RedisMarkers, kinds_of
from aggregator.redis.session import NewIncarnation, NotCheckedIn, RedisSession
from aggregator.redis.snapshots import RedisSnapshots, Snapshots
from aggregator.runtime import faults, metrics, tracing
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import TrustedClock, monotonic_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import BadMessage, Fenced, Retry, SwapsError
from aggregator.runtime.health import Health
from aggregator.windows.engine import warm_up

log = structlog.get_logger(__name__)

_POLL_S: Final = 0.02
_CHECKIN_PAUSE_S: Final = 0.2

T = TypeVar("T")


class Stopping(SwapsError):
    """The process was asked to end while a call was being retried."""


def run_aggregator(
    config: Config, stop: threading.Event, health: Health, *, archive: bool = True
) -> None:
    """Run until `stop` is set. Raises Fatal where going on would do harm.

    `archive` runs an archiver beside it where the deployment has a ClickHouse. `health` is told
    every second how it goes.
    """
    began = time.perf_counter()
    warm_up()
    compile_decoder()
    log.info("engine_compiled", seconds=round(time.perf_counter() - began, 2))
    session = RedisSession(config.redis_url)
    publisher = Publisher(config.nats_url)
    publisher.start()
    rows = RowSaver(RedisBoardRows(config.redis_url, config.kafka_topic))
    rows.start()
    # Where there is an archive, nothing is claimed in a new run of Redis before it has checked in.
    archive_topic = config.kafka_topic if config.clickhouse_url else ""
    archiver = None
    if archive and archive_topic:
        archiver = ArchiverThread(config, stop, publisher.archive_status)
        archiver.start()
    try:
        Aggregator(
            config=config,
            markers=RedisMarkers(session, config.marker_ttl_ms, archive_topic=archive_topic),
            checkins=(
                Checkins(session, archive_topic, config.marker_ttl_ms) if archive_topic else None
            ),
            archiver=archiver,
            snapshots=RedisSnapshots(session, config.kafka_topic),
            dead_letters=DeadLetters(config.kafka_bootstrap, config.kafka_dlq_topic),
            publisher=publisher,
            rows=rows,
            health=health,
            stop=stop,
        ).run()
    finally:
        if archiver is not None:
            stop.set()
            archiver.join()
        publisher.stop()
        rows.stop()
        session.close()


class Aggregator:
    """The poll loop and the partitions that this process owns."""

    def __init__(
        self,
        *,
        config: Config,
        markers: Markers,
        snapshots: Snapshots,
        dead_letters: DeadLetters,
        publisher: Publisher,
        rows: Rows,
        health: Health,
        checkins: Checkins | None = None,
        archiver: ArchiverThread | None = None,
        stop: threading.Event,
        clock: TrustedClock | None = None,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """`clock` is the time that windows end at; what is due goes by `monotonic_ms`."""
        self._config = config
        self._markers = markers
        self._dead_letters = dead_letters
        self._checkins = checkins
        self._archiver = archiver
        self._stop = stop
        self._clock = TrustedClock() if clock is None else clock
        self._monotonic_ms = monotonic_ms
        self._decoder = BatchDecoder(config.max_future_ms)
        self._bad_runs: dict[int, BadRun] = {}
        self._log = SwapLog(config, self)
        self._takeover = Takeover(config, self._log, snapshots, self._clock.now_ms)
        self._checkpoint = Checkpoint(self._log, snapshots)
        self._telling = Telling(publisher, rows, health, config.kafka_partitions)
        self._owners: dict[int, PartitionOwner] = {}
        self._pending: set[int] = set()
        self._in_flight: tuple[PartitionOwner, Placed] | None = None
        self._held: list[Polled] = []
        # What `_patiently` waits for, engine and why: set and cleared there alone.
        self._waiting: dict[str, str] = {}
        self._degraded: dict[str, str] = {}
        self._notes: list[str] = []
        self._late: list[str] = []
        self._pace = Pace(config.coalesce_ms)
        self._next_heartbeat = self._next_save = 0
        self._totals: Counter[str] = Counter()
        self._applied_at: list[float] = []

    def run(self) -> None:
        """Join the group and work until asked to stop; then drain, save, commit and leave."""
        try:
            for topic in self._patiently("kafka", lambda: ensure_topics(self._config)):
                log.info("topic_made", topic=topic)
            self._patiently("redis", self._markers.connect)
            self._telling.partitions = self._patiently("kafka", self._log.partition_count)
            self._log.subscribe()
            while not self._stop.is_set():
                self._round()
            self._drain()
        except Stopping:
            pass
        finally:
            self._finish()

    def _round(self) -> None:
        try:
            self._acquire_pending()
            batches = self._held or [self._log.poll(self._config.batch_size, self._poll_s())]
            self._held = []
            for batch in batches:
                self._ingest(batch)
            self._tick()
        except NewIncarnation as error:
            self._start_over(str(error))

    def _poll_s(self) -> float:
        """How long a poll may wait for its batch to fill: not past the next flush."""
        return max(0.0, min(_POLL_S, (self._pace.next_at - self._monotonic_ms()) / 1000))

    # --- the way of a batch ---

    def _ingest(self, batch: Polled) -> None:
        taken = 0
        for records in batch.records:
            taken += len(records.offsets)
            owner = self._owners.get(records.partition)
            if owner is not None:
                self._claim(owner, self._decode(owner, records))
        if taken < self._config.batch_size:
            # Nothing more is waiting: the answer is worth more than the overlap.
            self._settle()
        self._note_ends(batch)

    def _decode(self, owner: PartitionOwner, records: Records) -> Placed:
        known = bisect_left(records.offsets, owner.read_offset)
        decoded = self._decoder.decode(
            records.values[known:], records.timestamps[known:], records.offsets[known:]
        )
        rejected = [
            Rejected(self._config.kafka_topic, records.record(known + place), error)
            for place, error in decoded.rejected
            if records.offsets[known + place] >= owner.committed_offset
        ]
        if rejected:
            self._put_aside(rejected)
            owner.dead_letters += len(rejected)
        if owner.active:  # it may have been revoked while the broker was waited for
            self._judge(owner.partition, len(records.offsets) - known, decoded.rejected)
        metrics.INGEST_EVENTS.labels(owner.partition).inc(len(records.offsets))
        return owner.place(decoded.batch, decoded.record_timestamps, records.offsets[-1] + 1)

    def _put_aside(self, rejected: list[Rejected]) -> None:
        self._patiently("kafka", self._dead_letters.delivery(rejected).send)
        for letter in rejected:
            metrics.INGEST_DEAD_LETTERS.labels(letter.error.reason).inc()

    def _judge(
        self, partition: int, count: int, rejected: Sequence[tuple[int, BadMessage]]
    ) -> None:
        """Take note of how many of a partition's last messages were bad, sent on or not."""
        run = self._bad_runs.setdefault(partition, BadRun())
        before = bool(run.reason)
        run.note(count, rejected)
        metrics.INGEST_BAD_RATIO.labels(partition).set(run.share)
        if run.reason and not before:
            log.error("bad_run", partition=partition, reason=run.reason)
        elif before and not run.reason:
            log.info("bad_run_over", partition=partition)

    def _claim(self, owner: PartitionOwner, placed: Placed) -> None:
        """Ask the markers; while Redis decides, apply the batch that it was asked about before."""
        before, verdicts = self._in_flight, self._verdicts()
        batch = placed.batch
        kinds = kinds_of(batch.removed.tolist(), placed.late)
        self._markers.send(owner.partition, batch.offsets, batch.markers, kinds)
        self._in_flight = owner, placed
        if before is not None and verdicts is not None:
            self._apply(*before, verdicts)

    def _settle(self) -> None:
        """Apply the batch that Redis was asked about, if there is one."""
        asked, verdicts = self._in_flight, self._verdicts()
        if asked is not None and verdicts is not None:
            self._in_flight = None
            self._apply(*asked, verdicts)

    def _verdicts(self) -> str | None:
        """The answer, waited for; None where nothing was asked, or it was applied meanwhile."""
        asked = self._in_flight
        if asked is None:
            return None
        with metrics.STORE_CLAIM_SECONDS.time():
            verdicts = self._patiently("redis", self._markers.receive)
        # A partition that was revoked meanwhile had its batch applied.
        return verdicts if self._in_flight is asked else None

    def _apply(self, owner: PartitionOwner, placed: Placed, verdicts: str) -> None:
        faults.point("after_claim")
        if not owner.active:
            return
        with (
            tracing.span("batch apply", partition=owner.partition, events=len(placed.batch)),
            metrics.WINDOW_APPLY_SECONDS.time(),
        ):
            owner.apply(placed, verdicts)
        faults.point("after_apply")
        self._totals.update(Counter(verdicts))
        self._applied_at = [*self._applied_at[:1], time.time()]

    def _note_ends(self, batch: Polled) -> None:
        """Transactions leave offsets without a record; the log's end tells that they passed."""
        if batch.ends:
            self._settle()
        for partition, end in batch.ends.items():
            if (owner := self._owners.get(partition)) is not None:
                owner.next_offset = max(owner.next_offset, end)
                owner.read_offset = max(owner.read_offset, end)
        for partition in batch.out_of_range:
            if partition in self._owners:
                self._release(partition, reason="its next offset is no longer in the log")
                self._pending.add(partition)

    # --- partitions come and go ---

    def on_assign(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.info("partitions_assigned", partitions=list(partitions))
        self._pending.update(partitions)

    def on_revoke(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.info("partitions_revoked", partitions=list(partitions))
        try:
            self._settle_once()
            self._flush(self._clock.now_ms(), partitions)
            self._save_once(partitions)
        except (Retry, Fenced) as error:
            # The next owner replays from the snapshot before.
            log.warning("revoked_unsaved", partitions=list(partitions), error=str(error))
        for partition in partitions:
            self._release(partition, reason="revoked")

    def on_lost(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.warning("partitions_lost", partitions=list(partitions))
        for partition in partitions:
            self._release(partition, reason="lost")

    def _settle_once(self) -> None:
        """`_settle` without patience: inside a callback of the group nothing may wait long."""
        if (asked := self._in_flight) is not None:
            verdicts = self._markers.receive()
            self._in_flight = None
            self._apply(*asked, verdicts)

    def _release(self, partition: int, reason: str) -> None:
        self._pending.discard(partition)
        for batch in self._held:
            # The next owner, be it this process, reads them again from where it begins.
            batch.records = [each for each in batch.records if each.partition != partition]
            batch.ends.pop(partition, None)
        owner = self._owners.pop(partition, None)
        if self._bad_runs.pop(partition, None) is not None:
            metrics.INGEST_BAD_RATIO.remove(partition)
        if owner is not None:
            owner.active = False
            self._telling.released(partition)
            log.info("partition_released", partition=partition, epoch=owner.epoch, reason=reason)

    def _acquire_pending(self) -> None:
        """Take epochs for what was assigned, then start reading it.

        All questions come first: on a connection where a fetch waits, an answer waits behind it.
        """
        if not self._pending:
            return
        try:
            taken = self._takeover.take(self._pending)
            for owner in taken:
                self._log.begin(owner.partition, owner.next_offset)
        except NewIncarnation:
            raise
        except Retry as error:
            # The group may be settling still; the next round tries again.
            self._degraded["assignment"] = str(error)
            log.warning("acquire_retried", partitions=sorted(self._pending), error=str(error))
        except Fenced as error:
            log.warning("acquire_fenced", partitions=sorted(self._pending), error=str(error))
        else:
            self._degraded.pop("assignment", None)
            for owner in taken:
                self._own(owner)

    def _own(self, owner: PartitionOwner) -> None:
        partition = owner.partition
        self._pending.discard(partition)
        self._owners[partition] = owner
        self._telling.taken(owner)
        log.info(
            "partition_acquired",
            partition=partition,
            epoch=owner.epoch,
            restored=owner.restored,
            replay_from=owner.next_offset,
            replay_to=owner.target_offset,
        )
        if owner.gap is not None:
            log.error("gap", partition=partition, first=owner.gap[0], behind=owner.gap[1])

    def _start_over(self, reason: str) -> None:
        """Redis may have forgotten claims: discard memory, load what it has and replay."""
        log.warning("redis_new_incarnation", reason=reason, partitions=sorted(self._owners))
        self._in_flight = None
        self._patiently("redis", self._markers.connect)
        self._held = []
        self._acquire_again(list(self._owners), "redis may have lost claims")

    def _acquire_again(self, partitions: Sequence[int], reason: str) -> None:
        self._log.pause(partitions)
        for partition in partitions:
            self._release(partition, reason=reason)
        self._pending.update(partitions)

    # --- what happens by the clock ---

    def _tick(self) -> None:
        self._telling.check()
        now_ms, due_ms = self._read_clock(), self._monotonic_ms()
        for owner in list(self._owners.values()):
            if not owner.live and owner.caught_up():
                self._go_live(owner, now_ms)
        if due_ms >= self._pace.next_at:
            self._pace.published(self._flush(now_ms, list(self._owners)), due_ms)
        self._telling.histories(self._owners)
        self._beat_if_due(due_ms)
        if due_ms >= self._next_save:
            self._save_next(due_ms)

    def _read_clock(self) -> int:
        """The time of day; the records read since the last call confirm or contradict it."""
        now_ms, stepped_back = self._clock.now_ms(), self._clock.take_step_back()
        if self._config.clock != "wall":
            return now_ms
        for owner in self._owners.values():
            if (record_ms := owner.take_newest_record()) is not None:
                self._clock.witness(record_ms)
        if stepped_back:
            # Minutes that have left a window cannot come back: load them from the snapshots.
            self._acquire_again(list(self._owners), "the clock was set back")
        return now_ms

    def _beat_if_due(self, due_ms: int) -> None:
        if due_ms < self._next_heartbeat:
            return
        late_ms = due_ms - self._next_heartbeat if self._next_heartbeat else 0
        self._next_heartbeat = due_ms + SECOND_MS
        metrics.INGEST_LOOP_LATE.set(late_ms / 1000)
        self._late = (
            [f"loop: its heartbeat is {late_ms / 1000:.1f} s late, so numbers come late too"]
            if late_ms > SECOND_MS
            else []
        )
        self._heartbeat(self._clock.now_ms())

    def _save_next(self, due_ms: int) -> None:
        """Save and commit the partition whose turn it is: one at a time, the pauses stay short."""
        began = time.perf_counter()
        self._patiently("redis", self._markers.ping)
        owner = min(self._owners.values(), key=lambda each: each.saved_at_ms, default=None)
        if owner is not None:
            owner.saved_at_ms = due_ms
            if self._save(owner):
                self._checkpoint.commit([owner], wait=False)
        if self._log.commit_fault:
            # The next commit covers this one; a lost partition is told by `on_lost`.
            log.warning("commit_failed", error=self._log.commit_fault)
            self._log.commit_fault = ""
        self._next_save = due_ms + self._config.snapshot_interval_ms // max(1, len(self._owners))
        log.debug("saved", seconds=time.perf_counter() - began)

    def _advance(self, owner: PartitionOwner, now_ms: int) -> None:
        if self._config.clock == "wall":
            owner.advance(now_ms)
        elif owner.watermark is not None:
            owner.advance(owner.watermark)

    def _go_live(self, owner: PartitionOwner, now_ms: int) -> None:
        """The replay is done: save the epoch's first snapshot, then let its state be asked for."""
        self._advance(owner, now_ms)
        if not self._save(owner):
            return
        tokens = self._telling.live(owner)
        self._next_heartbeat = 0
        log.info(
            "partition_live",
            partition=owner.partition,
            epoch=owner.epoch,
            tokens=tokens,
            next_offset=owner.next_offset,
        )

    def _flush(self, now_ms: int, partitions: Sequence[int]) -> int:
        """Publish what changed; how many patches it took."""
        owners = [self._owners[partition] for partition in partitions if partition in self._owners]
        for owner in owners:
            self._advance(owner, now_ms)
        return self._telling.changes(owners)

    def _save(self, owner: PartitionOwner) -> bool:
        """Save what changed, however long it takes; false where the partition is ours no longer."""
        began = time.perf_counter()
        try:
            self._patiently("redis", lambda: self._checkpoint.save(owner))
        except Fenced as error:
            # Whether it is ours still is for Kafka to say: `_take` commits, and is refused if not.
            log.warning("fenced", partition=owner.partition, error=str(error))
            self._acquire_again([owner.partition], "fenced")
        metrics.SNAPSHOT_SECONDS.observe(time.perf_counter() - began)
        return owner.active

    def _save_once(self, partitions: Sequence[int]) -> None:
        """Save and commit without patience. Raises Retry and Fenced."""
        owners = [self._owners[partition] for partition in partitions if partition in self._owners]
        for owner in owners:
            self._checkpoint.save(owner)
        self._checkpoint.commit(owners)

    def _heartbeat(self, now_ms: int) -> None:
        self._watch_kafka()
        self._watch_archiver()
        stalling = self._degraded | self._waiting
        degraded = [f"{engine}: {why}" for engine, why in sorted(stalling.items())]
        degraded += [*self._notes, *self._late]
        if (fault := self._clock.fault) is not None:
            degraded.append(fault)
        self._telling.heartbeats(
            self._owners,
            self._log,
            now_ms=now_ms,
            monotonic_ms=self._monotonic_ms(),
            degraded=degraded,
            stalled=bool(stalling),
            bad_runs={each: run.reason for each, run in self._bad_runs.items() if run.reason},
        )

    def _watch_archiver(self) -> None:
        """Its faults and a check-in that was skipped are shown; they stop nothing here."""
        notes = [self._archiver.fault] if self._archiver is not None else []
        if self._checkins is not None and "redis" not in self._waiting:
            try:
                if self._checkins.skipped():
                    notes.append("the check-in was skipped: repeats from before may count again")
            except Retry as error:
                notes.append(str(error))
        self._notes = [f"archive: {note}" for note in notes if note]

    def _watch_kafka(self) -> None:
        """Note whether the consumer reaches the broker; that says nothing of `_waiting`."""
        if self._log.unreachable and not self._log.still_reachable():
            self._degraded["kafka"] = self._log.unreachable
            metrics.DEPENDENCY_UP.labels("kafka").set(0)
        elif "kafka" in self._degraded and not self._pending:
            del self._degraded["kafka"]
            metrics.DEPENDENCY_UP.labels("kafka").set("kafka" not in self._waiting)

    # --- retries and the end ---

    def _patiently(self, engine: str, call: Callable[[], T]) -> T:
        """The answer of `call`, made again for as long as it raises Retry.

        Until this very call has worked the heartbeats say stalled: that the engine answers another
        question proves nothing.
        """
        backoff = Backoff()
        while True:
            try:
                answer = call()
            except NewIncarnation:
                raise
            except NotCheckedIn as error:
                self._waiting["archive"] = self._missing_checkins(error)
                self._wait(_CHECKIN_PAUSE_S)
            except Retry as error:
                metrics.DEPENDENCY_UP.labels(engine).set(0)
                metrics.DEPENDENCY_RETRIES.labels(engine).inc()
                self._waiting[engine] = str(error)
                pause_s = backoff.pause_s()
                log.warning("retrying", engine=engine, error=str(error), pause_s=round(pause_s, 2))
                self._wait(pause_s)
            else:
                metrics.DEPENDENCY_UP.labels(engine).set(1)
                if self._waiting:
                    log.info("recovered", engine=", ".join(sorted(self._waiting)))
                    self._waiting = {}
                    self._log.resume(list(self._owners))
                return answer

    def _missing_checkins(self, error: NotCheckedIn) -> str:
        """What the operator is told while nothing may be claimed."""
        assert self._checkins is not None
        try:
            missing = self._checkins.missing(self._telling.partitions)
        except Retry:
            return str(error)
        why = (
            f"{error}; partitions {', '.join(map(str, missing))} are missing: see that an archiver "
            "runs (manage.py run_archiver), or go on without it (manage.py checkin --skip)"
        )
        if self._waiting.get("archive") != why:
            log.warning("waiting_for_checkin", missing=missing)
        return why

    def _wait(self, pause_s: float) -> None:
        """Let time pass as a member of the group that reads nothing. Raises Stopping."""
        self._log.pause(list(self._owners))
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            if self._stop.is_set():
                raise Stopping
            if self._owners or self._pending:
                batch = self._log.poll(1, _POLL_S)
                if batch.records or batch.ends or batch.out_of_range:
                    self._held.append(batch)
            else:
                self._stop.wait(_POLL_S)
            self._beat_if_due(self._monotonic_ms())

    def _drain(self) -> None:
        """Apply what was asked about, publish and save it, as far as the engines answer at once."""
        try:
            self._settle_once()
            self._flush(self._clock.now_ms(), list(self._owners))
            self._save_once(list(self._owners))
        except (Retry, Fenced) as error:
            log.warning("stopped_unsaved", error=str(error))

    def _finish(self) -> None:
        self._log.close()
        self._dead_letters.close()
        log.info(
            "stopped",
            first_applied_at=self._applied_at[0] if self._applied_at else None,
            last_applied_at=self._applied_at[-1] if self._applied_at else None,
            **{verdict.name.lower(): self._totals[verdict.value] for verdict in Verdict},
        )
