"""Counting as a sink of the member loop: partitions come and go, records become numbers.

The records of a partition are decided and applied in memory (`ingest`), what changed is published
(`announcer`), and states are saved on another thread (`saver`); the Kafka commit follows the save.
A restart begins at the saved state, never at the committed offset, so nothing that happens between
two of these steps loses or repeats anything. Nothing in this module waits for an engine, except a
drain for some seconds.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from typing import Final

import structlog

from aggregator.contracts.units import SECOND_MS
from aggregator.contracts.verdict import Verdict
from aggregator.counting.announcer import Announcer, Beat
from aggregator.counting.flush_schedule import FlushSchedule
from aggregator.counting.ingest import PartitionIngest, Tools
from aggregator.counting.partition import PartitionOwner
from aggregator.counting.saver import Outcome, Saved, SnapshotSaver
from aggregator.counting.takeover import Takeover
from aggregator.decoding.decoder import BatchDecoder
from aggregator.member.log import Log, Records
from aggregator.member.outbox import Outbox
from aggregator.member.sink import Release
from aggregator.redis.snapshots import Snapshots
from aggregator.runtime import metrics
from aggregator.runtime.clock import TrustedClock, monotonic_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fenced, Retry

log = structlog.get_logger(__name__)

_POLL_S: Final = 0.02
_DRAIN_S: Final = 2.0
_LOOK_S: Final = 0.01


class CountingSink:
    """The partitions that this process counts. See `Sink`.

    `loop_faults` reports what the loop knows of the group and of Kafka.
    """

    def __init__(
        self,
        *,
        config: Config,
        member_log: Log,
        snapshots: Snapshots,
        saver: SnapshotSaver,
        outbox: Outbox,
        announcer: Announcer,
        executor: Executor,
        archive_fault: Callable[[], str] = str,
        clock: TrustedClock | None = None,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        """`clock` gives the time that windows end at; `monotonic_ms` decides what is due.

        `archive_fault` says what is wrong with the archiver of this process, "" where nothing is.
        """
        self.loop_faults: Callable[[], Mapping[str, str]] = dict
        self._config = config
        self._log = member_log
        self._saver = saver
        self._announcer = announcer
        self._archive_fault = archive_fault
        self._clock = TrustedClock() if clock is None else clock
        self._monotonic_ms = monotonic_ms
        self._outbox = outbox
        self._tools = Tools(
            config=config,
            log=member_log,
            outbox=outbox,
            decoder=BatchDecoder(config.max_future_ms),
            executor=executor,
            monotonic_ms=monotonic_ms,
        )
        self._takeover = Takeover(config, member_log, snapshots, self._clock.now_ms, executor)
        self._owned: dict[int, PartitionIngest] = {}
        self._releases: dict[int, str] = {}
        self._late: list[str] = []
        self._flush_schedule = FlushSchedule(config.coalesce_ms)
        self._next_heartbeat = self._next_save = 0
        self._now_ms = self._clock.now_ms()
        self._totals: Counter[Verdict] = Counter()
        self._applied_at: list[float] = []

    @property
    def owners(self) -> dict[int, PartitionOwner]:
        """The owners of the partitions that this process has taken."""
        return {partition: ingest.owner for partition, ingest in self._owned.items()}

    def acquire(self, partition: int) -> int | None:
        """See `Sink`."""
        taken = self._takeover.poll(partition)
        if taken is None:
            return None
        owner = taken.owner
        self._owned[partition] = PartitionIngest(self._tools, owner, taken.homes, taken.metadata)
        self._announcer.note_partitions(self._takeover.partitions)
        self._announcer.taken(owner)
        self._saver.watch(partition, owner.epoch)
        # `infra.embedded.proofs` reads these fields.
        log.info(
            "partition_acquired",
            partition=partition,
            epoch=owner.epoch,
            restored=owner.restored,
            cut=owner.cut,
            replay_from=owner.next_offset,
            replay_to=owner.target_offset,
        )
        if owner.gap is not None:
            first, end = owner.gap
            log.error("gap", partition=partition, first=first, end=end)
        return owner.next_offset

    def take(self, records: Records) -> None:
        """See `Sink`."""
        ingest = self._owned.get(records.partition)
        if ingest is not None:
            ingest.take(records, self._now_ms)
            self._applied_at = [*self._applied_at[:1], time.time()]

    def reached(self, partition: int, end: int) -> None:
        """See `Sink`."""
        ingest = self._owned.get(partition)
        if ingest is not None:
            ingest.reached(end, self._now_ms)

    def ready(self, partition: int) -> bool:
        """See `Sink`."""
        ingest = self._owned.get(partition)
        return ingest is None or ingest.ready

    def wait_s(self) -> float:
        """Return how long a poll may wait for its batch to fill: not past the next flush."""
        due_in_ms = self._flush_schedule.next_at - self._monotonic_ms()
        return max(0.0, min(_POLL_S, due_in_ms / 1000))

    def turn(self) -> None:
        """Do what the clock makes due: go live, flush, answer, send heartbeats, save."""
        self._announcer.check()
        self._outbox.poll()
        now_ms, due_ms = self._read_clock(), self._monotonic_ms()
        for ingest in self._owned.values():
            ingest.work(now_ms)
        self._note_saves(due_ms)
        self._go_live(now_ms)
        if due_ms >= self._flush_schedule.next_at:
            self._flush_schedule.flushed(self._flush(now_ms, self._owned.values()), due_ms)
        self._announcer.answer_histories(self.owners)
        if due_ms >= self._next_heartbeat:
            self._beat(now_ms, due_ms)
        if due_ms >= self._next_save:
            self._save_next(due_ms)
        if self._releases:
            self._release_and_retake()

    def release(self, partition: int, *, drain: bool) -> None:
        """See `Sink`."""
        self._takeover.cancel(partition)
        ingest = self._owned.get(partition)
        if ingest is None:
            return
        try:
            if drain:
                self._drain(ingest)
        finally:
            del self._owned[partition]
            self._releases.pop(partition, None)
            self._saver.drop(partition)
            self._outbox.drop(partition)
            self._announcer.released(partition)
            owner = ingest.owner
            self._totals.update(owner.windows.counts)
            log.info("partition_released", partition=partition, epoch=owner.epoch, drained=drain)

    def stop(self) -> None:
        """See `Sink`."""
        log.info(
            "stopped",
            first_applied_at=self._applied_at[0] if self._applied_at else None,
            last_applied_at=self._applied_at[-1] if self._applied_at else None,
            **{verdict.name.lower(): self._totals[verdict] for verdict in Verdict},
        )

    def _read_clock(self) -> int:
        """Return the time of day, which the records read since the last call confirm or contradict.

        Where the clock was set back, the partitions are taken over again: minutes that have left a
        window cannot come back to it.
        """
        now_ms, stepped_back = self._clock.now_ms(), self._clock.take_step_back()
        self._now_ms = now_ms
        if self._config.clock != "wall":
            return now_ms
        for ingest in self._owned.values():
            if (record_ms := ingest.owner.take_newest_record()) is not None:
                self._clock.witness(record_ms)
        if stepped_back:
            self._releases |= dict.fromkeys(self._owned, "the clock was set back")
        return now_ms

    def _release_and_retake(self) -> None:
        releases, self._releases = self._releases, {}
        raise Release(sorted(releases), "; ".join(sorted(set(releases.values()))))

    def _advance(self, owner: PartitionOwner, now_ms: int) -> None:
        if self._config.clock == "wall":
            owner.advance(now_ms)
        elif owner.seen.clock is not None:
            owner.advance(owner.seen.clock)

    def _flush(self, now_ms: int, ingests: Iterable[PartitionIngest]) -> int:
        """Publish what changed; return the number of patches."""
        owners = [ingest.owner for ingest in ingests]
        for owner in owners:
            self._advance(owner, now_ms)
        return self._announcer.publish_changes(owners)

    def _go_live(self, now_ms: int) -> None:
        """Offer the states to readers that are replayed to the end of the log and saved.

        In this order no reader sees a state that a restart would not have.
        """
        for partition, ingest in self._owned.items():
            owner = ingest.owner
            if owner.live or not owner.caught_up():
                continue
            if owner.saved_offset is None or owner.saved_offset < owner.target_offset:
                self._advance(owner, now_ms)
                self._save(ingest)
                continue
            self._advance(owner, now_ms)
            tokens = self._announcer.live(owner)
            self._next_heartbeat = 0
            log.info(
                "partition_live",
                partition=partition,
                epoch=owner.epoch,
                tokens=tokens,
                next_offset=owner.next_offset,
            )

    def _save_next(self, due_ms: int) -> None:
        """Begin to save the partition that waited longest; one at a time keeps pauses short."""
        candidates = sorted(self._owned.values(), key=lambda each: each.save_tried_at)
        for ingest in candidates:
            ingest.save_tried_at = due_ms
            if self._save(ingest):
                break
        self._next_save = due_ms + self._config.snapshot_interval_ms // max(1, len(self._owned))

    def _save(self, ingest: PartitionIngest) -> bool:
        """Begin to save what changed; return False where nothing did, or it is not possible now.

        A save covers only offsets whose dead letters and forwarded records are acknowledged.
        """
        owner = ingest.owner
        if not owner.needs_save() or not ingest.settled or self._saver.busy(owner.partition):
            return False
        with metrics.SNAPSHOT_SECONDS.time():
            job = owner.take_save()
        self._saver.submit(job)
        return True

    def _note_saves(self, due_ms: int) -> None:
        """Commit what was saved."""
        for saved in self._saver.take_ended():
            ingest = self._owned.get(saved.job.partition)
            if ingest is not None and ingest.owner.epoch == saved.job.header.epoch:
                self._note_save(ingest, saved, due_ms)
        for partition in self._saver.take_lost():
            if partition in self._owned:
                self._owned[partition].owner.save_whole()
        if self._log.commit_fault:
            # The next commit covers this one. The loop reports a partition that was lost.
            log.warning("commit_failed", error=self._log.commit_fault)
            self._log.commit_fault = ""
            for ingest in self._owned.values():
                ingest.uncommitted = ingest.owner.saved_offset

    def _note_save(self, ingest: PartitionIngest, saved: Saved, due_ms: int) -> None:
        owner = ingest.owner
        if saved.outcome is Outcome.SAVED:
            owner.saved(saved.job, due_ms)
            ingest.uncommitted = owner.saved_offset
            self._commit(ingest)
        elif saved.outcome is Outcome.WHOLE:
            log.warning("saving_whole", partition=owner.partition)
            owner.save_whole()
            self._save(ingest)
        elif saved.outcome is Outcome.FENCED:
            # Kafka decides whether the partition is still ours: a takeover commits its new epoch,
            # and is refused if not.
            log.warning("fenced", partition=owner.partition, error=str(saved.error))
            self._releases[owner.partition] = "fenced"
        elif saved.error is not None:
            raise saved.error

    def _commit(self, ingest: PartitionIngest, *, wait: bool = False) -> None:
        """Commit the offset that was saved last; one that fails is committed later."""
        if ingest.uncommitted is None:
            return
        position = ingest.uncommitted, ingest.metadata
        try:
            self._log.commit({ingest.owner.partition: position}, wait=wait)
        except (Retry, Fenced) as error:
            log.warning("commit_failed", partition=ingest.owner.partition, error=str(error))
        else:
            ingest.uncommitted = None

    def _drain(self, ingest: PartitionIngest) -> None:
        """Publish, save and commit, as far as the engines answer within some seconds.

        Nothing is lost otherwise: the next owner replays from the last save.
        """
        owner = ingest.owner
        ingest.work(self._now_ms)
        self._flush(self._clock.now_ms(), [ingest])
        until = time.monotonic() + _DRAIN_S
        while not ingest.settled and time.monotonic() < until:
            self._outbox.poll()
            ingest.work(self._now_ms)
            time.sleep(_LOOK_S)
        for _ in range(2):
            # First the save under way, then one of what came after it.
            if not self._saver.fault:
                self._saver.wait(owner.partition, max(0.0, until - time.monotonic()))
            self._note_saves(self._monotonic_ms())
            self._save(ingest)
        if not self._saver.fault:
            self._saver.wait(owner.partition, max(0.0, until - time.monotonic()))
        self._note_saves(self._monotonic_ms())
        if ingest.uncommitted is None:
            ingest.uncommitted = owner.saved_offset
        self._commit(ingest, wait=True)
        if owner.needs_save():
            reason = self._saver.fault or "there was no time"
            log.warning("released_unsaved", partition=owner.partition, reason=reason)

    def _beat(self, now_ms: int, due_ms: int) -> None:
        late_ms = due_ms - self._next_heartbeat if self._next_heartbeat else 0
        self._next_heartbeat = due_ms + SECOND_MS
        metrics.INGEST_LOOP_LATE.set(late_ms / 1000)
        self._late = (
            [f"loop: its heartbeat is {late_ms / 1000:.1f} s late, so numbers come late too"]
            if late_ms > SECOND_MS
            else []
        )
        for ingest in self._owned.values():
            self._commit(ingest)
        faults = dict(self.loop_faults())
        # Without Kafka nothing arrives. A partition that cannot be taken concerns only itself.
        stalled = [f"{key}: {why}" for key, why in faults.items() if key.startswith("kafka")]
        waiting = [f"{key}: {why}" for key, why in faults.items() if not key.startswith("kafka")]
        self._announcer.publish_heartbeats(
            [
                Beat(
                    ingest.owner,
                    end=self._log.newest_end(partition),
                    unreadable=self._log.unreadable.get(partition, ""),
                    fault=ingest.fault,
                    notes=ingest.notes(self._announcer.partitions),
                )
                for partition, ingest in self._owned.items()
            ],
            now_ms=now_ms,
            monotonic_ms=due_ms,
            stalled=stalled,
            waiting=waiting,
            degraded=self._degraded(),
        )

    def _degraded(self) -> Sequence[str]:
        """Return what is wrong without making a number old."""
        notes = list(self._late)
        if self._saver.fault:
            silent_s = self._saver.silent_ms // SECOND_MS
            notes.append(f"redis: nothing saved for {silent_s} s ({self._saver.fault})")
        if archive_fault := self._archive_fault():
            notes.append(f"archive: {archive_fault}")
        if (fault := self._clock.fault) is not None:
            notes.append(fault)
        return notes
