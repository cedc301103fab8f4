"""The threads on which an archiver talks to ClickHouse, away from its poll loop.

A partition keeps to its threads, one for inserts and one for questions, so a retry runs after the
job that is still running. The loop collects the results of finished jobs in `reap`. Knows nothing
of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, Final

from aggregator.archiving.jobs import ArchiveJobs, TopicId
from aggregator.archiving.partition import ArchivePartition
from aggregator.clickhouse.connection import Unavailable
from aggregator.runtime.backoff import CircuitBreaker
from aggregator.runtime.config import Config

INSERTS: Final = "insert"
QUESTIONS: Final = "ask"
# Two of each: while ClickHouse works on one batch, the other is encoded and sent.
_THREADS: Final = 2


class CircuitBreakers:
    """The circuit breakers of the engines that an archiver uses."""

    def __init__(self) -> None:
        self.kafka = CircuitBreaker("kafka")
        self.clickhouse = CircuitBreaker("clickhouse")

    @property
    def faults(self) -> str:
        """The faults of all open breakers as one text; "" if every engine works."""
        return "; ".join(self.by_engine.values())

    @property
    def by_engine(self) -> dict[str, str]:
        """The faults of all open breakers, by the engine's name."""
        breakers = {"kafka": self.kafka, "clickhouse": self.clickhouse}
        return {engine: breaker.fault for engine, breaker in breakers.items() if breaker.fault}


class _Writer:
    """A thread with its own connection to ClickHouse."""

    def __init__(self, config: Config, topic: TopicId, name: str) -> None:
        self.jobs = ArchiveJobs(config, topic)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix=f"archive-{name}")


class _Running:
    """A job of a partition, and the callbacks that take its result."""

    def __init__(
        self,
        future: Future[Any],
        done: Callable[[Any], None],
        failed: Callable[[], None],
    ) -> None:
        self.future = future
        self.done = done
        self.failed = failed


class Writers:
    """Runs at most one insert and one question per partition at a time."""

    def __init__(self, config: Config, topic: TopicId, breakers: CircuitBreakers) -> None:
        self._breakers = breakers
        self._writers = {
            lane: [_Writer(config, topic, lane) for _ in range(_THREADS)]
            for lane in (INSERTS, QUESTIONS)
        }
        self._running: dict[tuple[str, int], _Running] = {}

    def start(
        self,
        owner: ArchivePartition,
        lane: str,
        job: Callable[[ArchiveJobs], Any],
        done: Callable[[Any], None],
        failed: Callable[[], None] = lambda: None,
    ) -> bool:
        """Start a job of a partition; return whether it was started.

        It is not while one of the lane is running, or while ClickHouse's breaker is open. `failed`
        is called where the job ends without a result.
        """
        if self.busy(owner.partition, lane) or self._breakers.clickhouse.open_for_s:
            return False
        writer = self._writers[lane][self.thread_of(owner.partition)]
        future = writer.thread.submit(job, writer.jobs)
        self._running[lane, owner.partition] = _Running(future, done, failed)
        return True

    def thread_of(self, partition: int) -> int:
        """Return the number of the threads that the partition keeps to."""
        return partition % _THREADS

    def busy(self, partition: int, lane: str) -> bool:
        """Return whether a job is running, or its result is not collected yet."""
        return (lane, partition) in self._running

    def wait(self, partition: int, within_s: float) -> None:
        """Wait up to `within_s` for the insert of a partition."""
        running = self._running.get((INSERTS, partition))
        if running is not None:
            wait_for([running.future], within_s)

    def forget(self, partition: int) -> None:
        """Drop the results of a partition's jobs, which are no longer wanted."""
        for lane in (INSERTS, QUESTIONS):
            self._running.pop((lane, partition), None)

    def reap(self, partitions: Iterable[int] | None = None) -> None:
        """Collect the results of finished jobs, by default of all partitions. Raises Fatal."""
        wanted = None if partitions is None else set(partitions)
        for key, running in list(self._running.items()):
            if not running.future.done() or (wanted is not None and key[1] not in wanted):
                continue
            del self._running[key]
            try:
                result = running.future.result()
            except Unavailable as error:
                self._breakers.clickhouse.failed(str(error))
                running.failed()
            else:
                self._breakers.clickhouse.worked()
                running.done(result)

    def close(self) -> None:
        """End the jobs and their threads, and close the connections."""
        writers = [writer for lane in self._writers.values() for writer in lane]
        for writer in writers:
            writer.jobs.abort()
        for writer in writers:
            writer.thread.shutdown(wait=True, cancel_futures=True)
            writer.jobs.close()
