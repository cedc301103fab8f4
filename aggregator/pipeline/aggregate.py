"""The aggregator process: Kafka to windows to NATS, assembled and run here alone.

Every batch takes the same way: decode, put bad messages aside, claim, apply, and only then does
`next_offset` move. Offsets are committed behind it, on a timer; they tell the lag and carry the
epoch, they are not where a restart begins: that is the replay that `_acquire` chooses. A call that
fails for a passing reason is made again, with nothing polled meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, TypeVar

import msgspec
import structlog

from aggregator import metrics
from aggregator.config import Config
from aggregator.contracts.event import Swap
from aggregator.contracts.verdict import Verdict
from aggregator.errors import DeadLetter, Fenced, Retry, SwapsError
from aggregator.ingest.dead_letters import DeadLetters, PoisonGuard, Rejected
from aggregator.ingest.decode import decode_swap
from aggregator.ingest.log import Batch, LogRecord, SwapLog
from aggregator.ingest.topics import ensure_topics
from aggregator.pipeline.backoff import Backoff
from aggregator.pipeline.epochs import read_epoch, write_epoch
from aggregator.pipeline.owner import PartitionOwner
from aggregator.pubsub.publisher import Publisher
from aggregator.stores.redis.markers import Claim, Markers, NewIncarnation, RedisMarkers

log = structlog.get_logger(__name__)

_POLL_S: Final = 0.02
_SECOND_MS: Final = 1_000

T = TypeVar("T")


class Stopping(SwapsError):
    """The process was asked to end while a call was being retried."""


class Decoded(msgspec.Struct, gc=False):
    """A decoded record on its way to the windows."""

    owner: PartitionOwner
    swap: Swap
    offset: int
    late: bool


def wall_clock_ms() -> int:
    """ms since the epoch."""
    return time.time_ns() // 1_000_000


def run_aggregator(config: Config, stop: threading.Event) -> None:
    """Run until `stop` is set. Raises Fatal where going on would do harm."""
    publisher = Publisher(config.nats_url)
    markers = RedisMarkers(config.redis_url, config.marker_ttl_ms)
    dead_letters = DeadLetters(config.kafka_bootstrap, config.kafka_dlq_topic)
    publisher.start()
    try:
        Aggregator(
            config=config,
            markers=markers,
            dead_letters=dead_letters,
            publisher=publisher,
            stop=stop,
        ).run()
    finally:
        publisher.stop()
        markers.close()


class Aggregator:
    """The poll loop and the partitions that this process owns."""

    def __init__(
        self,
        *,
        config: Config,
        markers: Markers,
        dead_letters: DeadLetters,
        publisher: Publisher,
        stop: threading.Event,
        now_ms: Callable[[], int] = wall_clock_ms,
    ) -> None:
        self._config = config
        self._markers = markers
        self._dead_letters = dead_letters
        self._publisher = publisher
        self._stop = stop
        self._now_ms = now_ms
        self._guard = PoisonGuard()
        self._log = SwapLog(config, self)
        self._owners: dict[int, PartitionOwner] = {}
        self._pending: set[int] = set()
        self._held: list[Batch] = []
        self._degraded: dict[str, str] = {}
        self._partitions = config.kafka_partitions
        self._next_flush = self._next_heartbeat = self._next_commit = 0
        self._committed: dict[int, int] = {}
        self._totals: Counter[Verdict] = Counter()
        self._applied_at: list[float] = []

    def run(self) -> None:
        """Join the group and work until asked to stop; then drain, commit and leave."""
        try:
            for topic in self._patiently("kafka", lambda: ensure_topics(self._config)):
                log.info("topic_made", topic=topic)
            self._patiently("redis", self._markers.connect)
            self._partitions = self._patiently("kafka", self._log.partition_count)
            self._log.subscribe()
            while not self._stop.is_set():
                self._round()
        except Stopping:
            pass
        finally:
            self._finish()

    def _round(self) -> None:
        try:
            self._acquire_pending()
            batches = self._held or [self._log.poll(self._config.batch_size, _POLL_S)]
            self._held = []
            for batch in batches:
                self._ingest(batch)
        except NewIncarnation as error:
            self._start_over(str(error))
        self._tick()

    # --- the way of a batch ---

    def _ingest(self, batch: Batch) -> None:
        swaps, rejected = self._decode(batch.records)
        if rejected:
            self._patiently("kafka", lambda: self._dead_letters.send(rejected))
            for letter in rejected:
                metrics.INGEST_DEAD_LETTERS.labels(letter.error.reason).inc()
        claims = [
            Claim(s.swap.marker, s.owner.partition, s.offset, s.late, s.swap.removed) for s in swaps
        ]
        with metrics.STORE_CLAIM_SECONDS.time():
            verdicts = self._patiently("redis", lambda: self._markers.claim(claims))
        with metrics.WINDOW_APPLY_SECONDS.time():
            self._apply(swaps, verdicts)
        self._pass(batch)

    def _decode(self, records: Sequence[LogRecord]) -> tuple[list[Decoded], list[Rejected]]:
        swaps: list[Decoded] = []
        rejected: list[Rejected] = []
        max_future_ms = self._config.max_future_ms
        for record in records:
            owner = self._owners.get(record.partition)
            if owner is None or record.offset < owner.next_offset:
                continue
            try:
                swap = decode_swap(record.value, record.timestamp, max_future_ms)
            except DeadLetter as error:
                if record.offset >= owner.committed_offset:
                    self._guard.bad(error)
                    rejected.append(Rejected(self._config.kafka_topic, record, error))
                continue
            late = owner.observe(swap.timestamp, record.timestamp)
            swaps.append(Decoded(owner, swap, record.offset, late))
        self._guard.good(len(swaps))
        return swaps, rejected

    def _apply(self, swaps: Sequence[Decoded], verdicts: Sequence[Verdict]) -> None:
        if not swaps:
            return
        for decoded, verdict in zip(swaps, verdicts, strict=True):
            if decoded.owner.active:
                decoded.owner.windows.apply(decoded.swap, decoded.offset, verdict)
        self._totals.update(verdicts)
        self._applied_at = [*self._applied_at[:1], time.time()]

    def _pass(self, batch: Batch) -> None:
        """The batch is applied: `next_offset` moves past it."""
        counted: Counter[int] = Counter()
        for record in batch.records:
            counted[record.partition] += 1
            owner = self._owners.get(record.partition)
            if owner is not None:
                owner.next_offset = max(owner.next_offset, record.offset + 1)
        for partition, count in counted.items():
            metrics.INGEST_EVENTS.labels(partition).inc(count)
        for partition, end in batch.ends.items():
            if partition in self._owners:
                owner = self._owners[partition]
                owner.next_offset = max(owner.next_offset, end)
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
        self._flush(self._now_ms(), partitions)
        self._commit(partitions)
        for partition in partitions:
            self._release(partition, reason="revoked")

    def on_lost(self, partitions: Sequence[int]) -> None:
        """See `Listener`."""
        log.warning("partitions_lost", partitions=list(partitions))
        for partition in partitions:
            self._release(partition, reason="lost")

    def _release(self, partition: int, reason: str) -> None:
        self._pending.discard(partition)
        owner = self._owners.pop(partition, None)
        if owner is not None:
            owner.active = False
            self._publisher.drop(partition)
            log.info("partition_released", partition=partition, epoch=owner.epoch, reason=reason)

    def _acquire_pending(self) -> None:
        """Take epochs for what was assigned, then start reading it.

        All questions come first: on a connection where a fetch waits, an answer waits behind it.
        """
        try:
            taken = [self._take(partition) for partition in sorted(self._pending)]
            for owner in taken:
                self._log.begin(owner.partition, owner.next_offset)
        except Retry as error:
            # The group may be settling still; the next round tries again.
            self._degraded["kafka"] = str(error)
            log.warning("acquire_retried", partitions=sorted(self._pending), error=str(error))
        except Fenced as error:
            log.warning("acquire_fenced", partitions=sorted(self._pending), error=str(error))
        else:
            for owner in taken:
                self._own(owner)

    def _take(self, partition: int) -> PartitionOwner:
        """Commit a higher epoch, and choose a replay from as far back as the windows reach."""
        now_ms = self._now_ms()
        committed, metadata = self._log.committed(partition)
        epoch = read_epoch(metadata) + 1
        history_from, since = self._replay_from(now_ms)
        extent = self._log.extent(partition, since)
        committed_offset = max(committed or 0, extent.start)
        self._log.commit({partition: (committed_offset, write_epoch(epoch))})
        return PartitionOwner(
            config=self._config,
            partition=partition,
            epoch=epoch,
            extent=extent,
            committed_offset=committed_offset,
            now_ms=now_ms if self._config.clock == "wall" else 0,
            history_from=history_from if extent.since > extent.start else None,
        )

    def _own(self, owner: PartitionOwner) -> None:
        partition = owner.partition
        self._pending.discard(partition)
        self._owners[partition] = owner
        self._committed[partition] = owner.committed_offset
        self._publisher.take(partition, owner.epoch)
        log.info(
            "partition_acquired",
            partition=partition,
            epoch=owner.epoch,
            replay_from=owner.next_offset,
            replay_to=owner.target_offset,
        )

    def _replay_from(self, now_ms: int) -> tuple[int, int | None]:
        """(the instant that the windows reach back to, the record time to replay from).

        A record may be older than its event by MAX_FUTURE. Windows at event time have no place in
        the record times, so the whole log is replayed.
        """
        reach_ms = self._config.longest_window_minutes * 60_000 + self._config.grace_ms
        history_from = now_ms - reach_ms
        if self._config.clock == "event":
            return history_from, None
        return history_from, history_from - self._config.max_future_ms

    def _start_over(self, reason: str) -> None:
        """Redis may have forgotten claims: discard memory and replay every partition."""
        log.warning("redis_new_incarnation", reason=reason, partitions=sorted(self._owners))
        self._held.clear()
        self._patiently("redis", self._markers.connect)
        owned = list(self._owners)
        self._log.pause(owned)
        for partition in owned:
            self._release(partition, reason="redis has restarted")
        self._pending.update(owned)

    # --- what happens by the clock ---

    def _tick(self) -> None:
        self._publisher.check()
        now_ms = self._now_ms()
        for owner in self._owners.values():
            if not owner.live and owner.caught_up():
                self._go_live(owner, now_ms)
        if now_ms >= self._next_flush:
            self._flush(now_ms, list(self._owners))
            self._next_flush = now_ms + self._config.coalesce_ms
        if now_ms >= self._next_heartbeat:
            self._heartbeat(now_ms)
            self._next_heartbeat = now_ms + _SECOND_MS
        if now_ms >= self._next_commit:
            self._commit(list(self._owners))
            self._next_commit = now_ms + self._config.commit_interval_ms

    def _advance(self, owner: PartitionOwner, now_ms: int) -> None:
        watermark = owner.windows.watermark
        if self._config.clock == "wall":
            owner.windows.advance(now_ms)
        elif watermark is not None:
            owner.windows.advance(watermark)

    def _go_live(self, owner: PartitionOwner, now_ms: int) -> None:
        self._advance(owner, now_ms)
        rows = owner.go_live()
        self._publisher.load(owner.partition, rows, owner.seq, owner.next_offset)
        self._next_heartbeat = 0
        log.info(
            "partition_live",
            partition=owner.partition,
            epoch=owner.epoch,
            tokens=len(rows),
            next_offset=owner.next_offset,
        )

    def _flush(self, now_ms: int, partitions: Sequence[int]) -> None:
        for partition in partitions:
            owner = self._owners.get(partition)
            if owner is None:
                continue
            self._advance(owner, now_ms)
            if owner.live and (patches := owner.take_patches()):
                self._publisher.publish(partition, patches, owner.next_offset)

    def _heartbeat(self, now_ms: int) -> None:
        self._watch_kafka()
        degraded = [f"{engine}: {why}" for engine, why in sorted(self._degraded.items())]
        for partition, owner in self._owners.items():
            end = self._log.newest_end(partition)
            heartbeat = owner.heartbeat(
                partitions=self._partitions,
                now_ms=now_ms,
                end=end,
                degraded=degraded,
                stalled=bool(self._degraded),
            )
            self._publisher.heartbeat(heartbeat)
            _gauge(partition, owner, heartbeat.lag)

    def _watch_kafka(self) -> None:
        if self._log.unreachable and not self._log.still_reachable():
            self._degraded["kafka"] = self._log.unreachable
            metrics.DEPENDENCY_UP.labels("kafka").set(0)
        elif "kafka" in self._degraded and not self._pending:
            del self._degraded["kafka"]
            metrics.DEPENDENCY_UP.labels("kafka").set(1)

    def _commit(self, partitions: Sequence[int]) -> None:
        if self._log.unreachable:
            return
        positions = {
            partition: (owner.next_offset, write_epoch(owner.epoch))
            for partition in partitions
            if (owner := self._owners.get(partition)) is not None
            and owner.next_offset > self._committed[partition]
        }
        try:
            self._log.commit(positions)
        except (Retry, Fenced) as error:
            # The next commit covers this one; a lost partition is told by `on_lost`.
            log.warning("commit_failed", error=str(error))
            return
        for partition, (offset, _) in positions.items():
            self._committed[partition] = offset

    # --- retries and the end ---

    def _patiently(self, engine: str, call: Callable[[], T]) -> T:
        """The answer of `call`, made again for as long as it raises Retry."""
        backoff = Backoff()
        while True:
            try:
                answer = call()
            except NewIncarnation:
                raise
            except Retry as error:
                metrics.DEPENDENCY_UP.labels(engine).set(0)
                metrics.DEPENDENCY_RETRIES.labels(engine).inc()
                self._degraded[engine] = str(error)
                pause_s = backoff.pause_s()
                log.warning("retrying", engine=engine, error=str(error), pause_s=round(pause_s, 2))
                self._wait(pause_s)
            else:
                metrics.DEPENDENCY_UP.labels(engine).set(1)
                if self._degraded.pop(engine, None) is not None:
                    log.info("recovered", engine=engine)
                    self._log.resume(list(self._owners))
                return answer

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
            if (now_ms := self._now_ms()) >= self._next_heartbeat:
                self._heartbeat(now_ms)
                self._next_heartbeat = now_ms + _SECOND_MS

    def _finish(self) -> None:
        self._flush(self._now_ms(), list(self._owners))
        self._commit(list(self._owners))
        self._log.close()
        self._dead_letters.close()
        log.info(
            "stopped",
            first_applied_at=self._applied_at[0] if self._applied_at else None,
            last_applied_at=self._applied_at[-1] if self._applied_at else None,
            **{verdict.name.lower(): self._totals[verdict] for verdict in Verdict},
        )


def _gauge(partition: int, owner: PartitionOwner, lag: int | None) -> None:
    windows = owner.windows
    if lag is not None:
        metrics.INGEST_LAG.labels(partition).set(lag)
    if windows.watermark is not None:
        metrics.INGEST_WATERMARK.labels(partition).set(windows.watermark / 1000)
    for counter, verdict in (
        (metrics.INGEST_DUPLICATES, Verdict.DUPLICATE),
        (metrics.INGEST_LATE, Verdict.LATE),
    ):
        counter.labels(partition).inc(windows.counts[verdict] - owner.reported[verdict])
    owner.reported = dict(windows.counts)
    metrics.WINDOW_TOKENS.labels(partition).set(windows.token_count)
    metrics.WINDOW_BUCKETS.labels(partition).set(windows.bucket_count)
