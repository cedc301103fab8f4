"""The aggregator process, from Kafka through the windows to NATS: assembled and run here.

Every batch takes the same steps: decode, send bad messages to the dead-letter topic, claim, apply;
only then does `next_offset` move. While Redis decides one batch, the next is decoded. `takeover`
takes partitions over, `checkpoint` saves and commits, `announcer` publishes. A call that fails for
a passing reason is repeated, and no batch is taken up meanwhile.
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
from aggregator.counting.announcer import Announcer
from aggregator.counting.board_cache import BoardCache, RowStore
from aggregator.counting.checkpoint import Checkpoint
from aggregator.counting.flush_schedule import FlushSchedule
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
    """Run until `stop` is set. Raises Fatal where to continue would do harm.

    `archive` runs an archiver on a thread where the deployment has a ClickHouse. `health` receives
    the state of the process every second.
    """
    began = time.perf_counter()
    warm_up()
    compile_decoder()
    log.info("engine_compiled", seconds=round(time.perf_counter() - began, 2))
    session = RedisSession(config.redis_url)
    publisher = Publisher(config.nats_url)
    publisher.start()
    rows = BoardCache(RedisBoardRows(config.redis_url, config.kafka_topic))
    rows.start()
    # With an archive, no swap is claimed in a new run of Redis until the archivers have checked in.
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
        rows: RowStore,
        health: Health,
        checkins: Checkins | None = None,
        archiver: ArchiverThread | None = None,
        stop: threading.Event,
        clock: TrustedClock | None = None,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """`clock` gives the time that windows end at; `monotonic_ms` decides what is due."""
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
        self._announcer = Announcer(publisher, rows, health, config.kafka_partitions)
        self._owners: dict[int, PartitionOwner] = {}
        self._pending: set[int] = set()
        # The batch that Redis is deciding.
        self._in_flight: tuple[PartitionOwner, Placed] | None = None
        # Batches that a poll brought while a call was repeated; the next round takes them up.
        self._held: list[Polled] = []
        # The engines that `_patiently` waits for, and why; only `_patiently` sets and clears it.
        self._waiting: dict[str, str] = {}
        self._degraded: dict[str, str] = {}
        self._notes: list[str] = []
        self._late: list[str] = []
        self._flush_schedule = FlushSchedule(config.coalesce_ms)
        self._next_heartbeat = self._next_save = 0
        self._totals: Counter[str] = Counter()
        self._applied_at: list[float] = []

    def run(self) -> None:
        """Join the group and work until `stop` is set; then drain, save, commit and leave."""
        try:
            for topic in self._patiently("kafka", lambda: ensure_topics(self._config)):
                log.info("topic_made", topic=topic)
            self._patiently("redis", self._markers.connect)
            self._announcer.partitions = self._patiently("kafka", self._log.partition_count)
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
        """Return how long a poll may wait for its batch to fill: not past the next flush."""
        due_in_ms = self._flush_schedule.next_at - self._monotonic_ms()
        return max(0.0, min(_POLL_S, due_in_ms / 1000))

    def _ingest(self, batch: Polled) -> None:
        taken = 0
        for records in batch.records:
            taken += len(records.offsets)
            owner = self._owners.get(records.partition)
            if owner is not None:
                self._claim(owner, self._decode(owner, records))
        if taken < self._config.batch_size:
            # No more records are waiting, so nothing can be decoded meanwhile: take the answer now.
            self._settle()
        self._note_ends(batch)

    def _decode(self, owner: PartitionOwner, records: Records) -> Placed:
        # Records below `read_offset` were decoded already.
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
            self._send_dead_letters(rejected)
            owner.dead_letters += len(rejected)
        # The partition may have been revoked while the call to the broker was repeated.
        if owner.active:
            self._note_bad_share(owner.partition, len(records.offsets) - known, decoded.rejected)
        metrics.INGEST_EVENTS.labels(owner.partition).inc(len(records.offsets))
        return owner.place(decoded.batch, decoded.record_timestamps, records.offsets[-1] + 1)

    def _send_dead_letters(self, rejected: list[Rejected]) -> None:
        """Send messages to the dead-letter topic; return when the broker has acknowledged them."""
        self._patiently("kafka", self._dead_letters.delivery(rejected).send)
        for letter in rejected:
            metrics.INGEST_DEAD_LETTERS.labels(letter.error.reason).inc()

    def _note_bad_share(
        self, partition: int, count: int, rejected: Sequence[tuple[int, BadMessage]]
    ) -> None:
        """Note how many of the partition's newest messages were bad, sent before or now."""
        run = self._bad_runs.setdefault(partition, BadRun())
        before = bool(run.reason)
        run.note(count, rejected)
        metrics.INGEST_BAD_RATIO.labels(partition).set(run.share)
        if run.reason and not before:
            log.error("bad_run", partition=partition, reason=run.reason)
        elif before and not run.reason:
            log.info("bad_run_over", partition=partition)

    def _claim(self, owner: PartitionOwner, placed: Placed) -> None:
        """Ask the markers about a batch; while Redis decides, apply the batch before."""
        before, verdicts = self._in_flight, self._verdicts()
        batch = placed.batch
        kinds = kinds_of(batch.removed.tolist(), placed.late)
        self._markers.send(owner.partition, batch.offsets, batch.markers, kinds)
        self._in_flight = owner, placed
        if before is not None and verdicts is not None:
            self._apply(*before, verdicts)

    def _settle(self) -> None:
        """Apply the batch that Redis is deciding, if there is one."""
        asked, verdicts = self._in_flight, self._verdicts()
        if asked is not None and verdicts is not None:
            self._in_flight = None
            self._apply(*asked, verdicts)

    def _verdicts(self) -> str | None:
        """Wait for the answer; None where nothing was asked, or the batch was applied meanwhile."""
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
        """Move past offsets without a record, which transactions leave, by the log's end."""
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
            # Nothing is lost: the next owner replays from the snapshot before this one.
            log.warning("revoked_unsaved", partitions=list(partitions), error=str(error))
        for partition in partitions:
            self._release(partition, reason="revoked")

    def on_lost(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.warning("partitions_lost", partitions=list(partitions))
        for partition in partitions:
            self._release(partition, reason="lost")

    def _settle_once(self) -> None:
        """Settle without repeating: a callback of the group must not wait long."""
        if (asked := self._in_flight) is not None:
            verdicts = self._markers.receive()
            self._in_flight = None
            self._apply(*asked, verdicts)

    def _release(self, partition: int, reason: str) -> None:
        self._pending.discard(partition)
        for batch in self._held:
            # The next owner, which may be this process, reads these records again.
            batch.records = [each for each in batch.records if each.partition != partition]
            batch.ends.pop(partition, None)
        owner = self._owners.pop(partition, None)
        if self._bad_runs.pop(partition, None) is not None:
            metrics.INGEST_BAD_RATIO.remove(partition)
        if owner is not None:
            owner.active = False
            self._announcer.released(partition)
            log.info("partition_released", partition=partition, epoch=owner.epoch, reason=reason)

    def _acquire_pending(self) -> None:
        """Take over what was assigned, then start to read it.

        All questions to the broker come before the first fetch: on one connection, an answer has to
        wait until a waiting fetch returns.
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
            # The group may still be rebalancing; the next round tries again.
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
        self._announcer.taken(owner)
        log.info(
            "partition_acquired",
            partition=partition,
            epoch=owner.epoch,
            restored=owner.restored,
            replay_from=owner.next_offset,
            replay_to=owner.target_offset,
        )
        if owner.gap is not None:
            first, end = owner.gap
            log.error("gap", partition=partition, first=first, behind=end)

    def _start_over(self, reason: str) -> None:
        """Discard the state in memory, load what Redis has and replay: Redis may lack claims."""
        log.warning("redis_new_incarnation", reason=reason, partitions=sorted(self._owners))
        self._in_flight = None
        self._patiently("redis", self._markers.connect)
        self._held = []
        self._retake(list(self._owners), "redis may have lost claims")

    def _retake(self, partitions: Sequence[int], reason: str) -> None:
        """Release partitions and take them over again, with a new epoch and the stored state."""
        self._log.pause(partitions)
        for partition in partitions:
            self._release(partition, reason=reason)
        self._pending.update(partitions)

    def _tick(self) -> None:
        """Do what the clock makes due: go live, flush, answer, send heartbeats, save."""
        self._announcer.check()
        now_ms, due_ms = self._read_clock(), self._monotonic_ms()
        for owner in list(self._owners.values()):
            if not owner.live and owner.caught_up():
                self._go_live(owner, now_ms)
        if due_ms >= self._flush_schedule.next_at:
            self._flush_schedule.flushed(self._flush(now_ms, list(self._owners)), due_ms)
        self._announcer.answer_histories(self._owners)
        self._beat_if_due(due_ms)
        if due_ms >= self._next_save:
            self._save_next(due_ms)

    def _read_clock(self) -> int:
        """Return the time of day, which the records read since the last call confirm or contradict.

        Where the clock was set back, the partitions are taken over again.
        """
        now_ms, stepped_back = self._clock.now_ms(), self._clock.take_step_back()
        if self._config.clock != "wall":
            return now_ms
        for owner in self._owners.values():
            if (record_ms := owner.take_newest_record()) is not None:
                self._clock.witness(record_ms)
        if stepped_back:
            # Minutes that have left a window cannot come back to it: load them from the snapshots.
            self._retake(list(self._owners), "the clock was set back")
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
        """Save and commit the partition that waited longest; one at a time keeps pauses short."""
        began = time.perf_counter()
        self._patiently("redis", self._markers.ping)
        owner = min(self._owners.values(), key=lambda each: each.saved_at_ms, default=None)
        if owner is not None:
            owner.saved_at_ms = due_ms
            if self._save(owner):
                self._checkpoint.commit([owner], wait=False)
        if self._log.commit_fault:
            # The next commit covers this one. A partition that was lost is reported to `on_lost`.
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
        """Save the first snapshot of the epoch after its replay, then offer the state to readers.

        In this order no reader sees a state that a restart would not have.
        """
        self._advance(owner, now_ms)
        if not self._save(owner):
            return
        tokens = self._announcer.live(owner)
        self._next_heartbeat = 0
        log.info(
            "partition_live",
            partition=owner.partition,
            epoch=owner.epoch,
            tokens=tokens,
            next_offset=owner.next_offset,
        )

    def _flush(self, now_ms: int, partitions: Sequence[int]) -> int:
        """Publish what changed; return the number of patches."""
        owners = [self._owners[partition] for partition in partitions if partition in self._owners]
        for owner in owners:
            self._advance(owner, now_ms)
        return self._announcer.publish_changes(owners)

    def _save(self, owner: PartitionOwner) -> bool:
        """Save what changed, however long it takes; False where the partition was lost."""
        began = time.perf_counter()
        try:
            self._patiently("redis", lambda: self._checkpoint.save(owner))
        except Fenced as error:
            # Kafka decides whether the partition is still ours: a takeover commits its new epoch,
            # and is refused if not.
            log.warning("fenced", partition=owner.partition, error=str(error))
            self._retake([owner.partition], "fenced")
        metrics.SNAPSHOT_SECONDS.observe(time.perf_counter() - began)
        return owner.active

    def _save_once(self, partitions: Sequence[int]) -> None:
        """Save and commit without repeating. Raises Retry and Fenced."""
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
        self._announcer.publish_heartbeats(
            self._owners,
            self._log,
            now_ms=now_ms,
            monotonic_ms=self._monotonic_ms(),
            degraded=degraded,
            stalled=bool(stalling),
            bad_runs={each: run.reason for each, run in self._bad_runs.items() if run.reason},
        )

    def _watch_archiver(self) -> None:
        """Note the archiver's faults and a skipped check-in; neither stops the counting."""
        notes = [self._archiver.fault] if self._archiver is not None else []
        if self._checkins is not None and "redis" not in self._waiting:
            try:
                if self._checkins.skipped():
                    notes.append("the check-in was skipped: repeats from before may count again")
            except Retry as error:
                notes.append(str(error))
        self._notes = [f"archive: {note}" for note in notes if note]

    def _watch_kafka(self) -> None:
        """Note whether the consumer reaches the broker, whatever `_patiently` waits for."""
        if self._log.unreachable and not self._log.still_reachable():
            self._degraded["kafka"] = self._log.unreachable
            metrics.DEPENDENCY_UP.labels("kafka").set(0)
        elif "kafka" in self._degraded and not self._pending:
            del self._degraded["kafka"]
            metrics.DEPENDENCY_UP.labels("kafka").set("kafka" not in self._waiting)

    def _patiently(self, engine: str, call: Callable[[], T]) -> T:
        """Return the answer of `call`, repeated with backoff for as long as it raises Retry.

        The heartbeats say "stalled" until this very call has worked: that the engine answers
        another question proves nothing. Raises Stopping.
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
        """Return the text that operators see while nothing may be claimed."""
        assert self._checkins is not None
        try:
            missing = self._checkins.missing(self._announcer.partitions)
        except Retry:
            return str(error)
        why = (
            f"{error}; partitions {', '.join(map(str, missing))} are missing: check that an "
            "archiver runs (manage.py run_archiver), or continue without it "
            "(manage.py checkin --skip)"
        )
        if self._waiting.get("archive") != why:
            log.warning("waiting_for_checkin", missing=missing)
        return why

    def _wait(self, pause_s: float) -> None:
        """Wait as a member of the group that reads nothing. Raises Stopping.

        The group drops a member that does not poll, so the partitions are paused and polled.
        """
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
        """Apply the batch in flight, publish and save, as far as the engines answer immediately."""
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
