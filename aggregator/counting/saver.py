"""Saves the states of partitions to Redis on a thread of its own, so that nothing waits for Redis.

The loop hands over what was taken from a partition and gets the outcome back. A save that fails is
repeated with growing pauses until Redis has it, a newer owner has the partition, or the loop drops
it; meanwhile the loop counts on. A repeated save is the same call, so it changes nothing twice.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec
import structlog

from aggregator.counting.save_job import SaveJob
from aggregator.redis.snapshots import Snapshots
from aggregator.runtime import faults, metrics
from aggregator.runtime.backoff import Backoff, CircuitBreaker
from aggregator.runtime.clock import monotonic_ms
from aggregator.runtime.errors import Fenced, Retry, SwapsError

log = structlog.get_logger(__name__)

_PAUSE_S: Final = 0.05
_LOOK_MS: Final = 2_000
_STOP_S: Final = 3.0


class Outcome(Enum):
    """What became of a job."""

    SAVED = "saved"
    WHOLE = "whole"
    """Redis does not hold the save before it, or misses a block: save the whole state."""
    FENCED = "fenced"
    """A newer owner has the partition."""
    FAILED = "failed"
    """To go on would do harm: stop the process."""


class Saved(msgspec.Struct, frozen=True, gc=False):
    """A job that ended, how, and the error if there was one."""

    job: SaveJob
    outcome: Outcome
    error: SwapsError | None = None


class SnapshotSaver:
    """At most one save of each partition under way. `monotonic_ms` is a clock that never jumps."""

    def __init__(
        self, snapshots: Snapshots, monotonic_ms: Callable[[], int] = monotonic_ms
    ) -> None:
        self._snapshots = snapshots
        self._monotonic_ms = monotonic_ms
        self._breaker = CircuitBreaker("redis", Backoff(clock=lambda: monotonic_ms() / 1000))
        self._changed = threading.Condition()
        # Both are guarded by the condition.
        self._jobs: dict[int, SaveJob] = {}
        self._ended: deque[Saved] = deque()
        self._watched: dict[int, int] = {}
        self._lost: set[int] = set()
        self._answered_at = self._looked_at = monotonic_ms()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="saver", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; jobs that are not saved by then are dropped."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(_STOP_S)

    @property
    def fault(self) -> str:
        """Why Redis takes no save now; "" while it does."""
        return self._breaker.fault

    @property
    def silent_ms(self) -> int:
        """Return for how long Redis has not answered; 0 while it does."""
        return self._monotonic_ms() - self._answered_at if self._breaker.fault else 0

    def watch(self, partition: int, epoch: int) -> None:
        """Look every few seconds whether Redis still has what was saved under this epoch."""
        with self._changed:
            self._watched[partition] = epoch

    def take_lost(self) -> set[int]:
        """Return the partitions of which Redis has lost everything since the last call."""
        with self._changed:
            lost, self._lost = self._lost, set()
        return lost

    def submit(self, job: SaveJob) -> None:
        """Save a partition; none of its saves may be under way."""
        with self._changed:
            assert job.partition not in self._jobs
            self._jobs[job.partition] = job
            self._changed.notify_all()

    def busy(self, partition: int) -> bool:
        """Whether a save of the partition is under way, or its outcome was not taken yet."""
        with self._changed:
            return partition in self._jobs or any(
                each.job.partition == partition for each in self._ended
            )

    def drop(self, partition: int) -> None:
        """Give up what is under way for a partition that this process no longer owns."""
        with self._changed:
            self._jobs.pop(partition, None)
            self._watched.pop(partition, None)
            self._lost.discard(partition)
            self._ended = deque(each for each in self._ended if each.job.partition != partition)

    def take_ended(self) -> list[Saved]:
        """Return the jobs that ended since the last call."""
        with self._changed:
            ended, self._ended = list(self._ended), deque()
        return ended

    def wait(self, partition: int, within_s: float) -> None:
        """Wait until no save of the partition is under way, at most `within_s`."""
        if not self._thread.is_alive():
            self.step()
            return
        with self._changed:
            self._changed.wait_for(lambda: partition not in self._jobs, within_s)

    def step(self) -> None:
        """Try every save that is due once. Only the thread may call it while it runs."""
        if self._breaker.open_for_s:
            return
        with self._changed:
            jobs = list(self._jobs.values())
        try:
            for job in jobs:
                self._end(job, self._try(job))
            if self._monotonic_ms() - self._looked_at >= _LOOK_MS:
                self._look()
        except Retry as error:
            self._breaker.failed(str(error))
        else:
            self._breaker.worked()

    def _look(self) -> None:
        """Find partitions of which Redis has lost everything. Raises Retry.

        A partition that gets no records is not saved, so it would not notice.
        """
        self._snapshots.ping()
        with self._changed:
            watched = dict(self._watched)
        lost = {each for each, epoch in watched.items() if self._snapshots.last_epoch(each) < epoch}
        self._answered_at = self._looked_at = self._monotonic_ms()
        with self._changed:
            self._lost |= lost & self._watched.keys()

    def _run(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                # While Redis is away the jobs stay, so waiting for a job would not wait at all.
                pause_s = self._breaker.open_for_s or _PAUSE_S
                self._changed.wait_for(
                    lambda: bool(self._stop.is_set() or (self._jobs and not self._breaker.fault)),
                    pause_s,
                )
            if not self._stop.is_set():
                self.step()

    def _try(self, job: SaveJob) -> Saved:
        """Save a job once. Raises Retry."""
        began = time.perf_counter()
        faults.point("mid_snapshot")
        try:
            held = self._save(job)
        except Fenced as error:
            return Saved(job, Outcome.FENCED, error)
        except Retry:
            raise
        except SwapsError as error:
            return Saved(job, Outcome.FAILED, error)
        seconds = time.perf_counter() - began
        size = sum(map(len, job.changed.values())) + sum(map(len, job.blocks.values()))
        metrics.SNAPSHOT_SAVE_SECONDS.observe(seconds)
        metrics.SNAPSHOT_BYTES.labels(job.partition).inc(size)
        log.debug(
            "snapshot_saved" if held else "snapshot_refused",
            partition=job.partition,
            next_offset=job.header.next_offset,
            whole=job.before is None,
            sections=len(job.changed),
            bytes=size,
            seconds=seconds,
        )
        faults.point("after_snapshot")
        return Saved(job, Outcome.SAVED if held else Outcome.WHOLE)

    def _save(self, job: SaveJob) -> bool:
        if job.before is None:
            return self._snapshots.save_whole(job.partition, job.header, job.changed, job.blocks)
        return self._snapshots.save(
            job.partition,
            job.header,
            job.changed,
            job.dropped,
            job.blocks,
            job.forgotten,
            before=job.before,
        )

    def _end(self, job: SaveJob, saved: Saved) -> None:
        with self._changed:
            self._answered_at = self._monotonic_ms()
            # A job that was dropped meanwhile has no owner who wants to know.
            if self._jobs.get(job.partition) is job:
                del self._jobs[job.partition]
                self._ended.append(saved)
            self._changed.notify_all()
