"""The threads on which an archiver talks to ClickHouse, away from its poll loop.

A partition keeps to its thread, so that what is tried again comes after what is running. What a job
came to is taken note of by the loop, in `reap`. Knows nothing of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, Final, TypeVar

from aggregator.archiving.jobs import ArchiveJobs
from aggregator.archiving.partition import ArchivePartition
from aggregator.clickhouse.connection import Unavailable
from aggregator.clickhouse.writer import ArchiveWriter
from aggregator.redis.session import NewIncarnation
from aggregator.runtime import metrics
from aggregator.runtime.backoff import CircuitBreaker
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry

T = TypeVar("T")

# While ClickHouse works on one batch, the next is encoded and sent.
_WRITERS: Final = 2


class CircuitBreakers:
    """Whether the engines of an archiver may be asked now."""

    def __init__(self) -> None:
        self.kafka, self.redis, self.clickhouse = (
            CircuitBreaker("kafka"),
            CircuitBreaker("redis"),
            CircuitBreaker("clickhouse"),
        )

    @property
    def faults(self) -> str:
        """Why those that are left alone are, as one text; "" where all work."""
        return "; ".join(self.by_engine.values())

    @property
    def by_engine(self) -> dict[str, str]:
        """The same by the engine's name."""
        breakers = {"kafka": self.kafka, "redis": self.redis, "clickhouse": self.clickhouse}
        return {engine: breaker.fault for engine, breaker in breakers.items() if breaker.fault}


class _Writer:
    """A thread with a connection to ClickHouse of its own."""

    def __init__(self, config: Config) -> None:
        self.jobs = ArchiveJobs(config)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="archive-writer")


class _Running:
    """A job of a partition, and what is to be done with its result."""

    def __init__(
        self, owner: ArchivePartition, future: Future[Any], done: Callable[[Any], None]
    ) -> None:
        self.owner = owner
        self.future = future
        self.done = done


class Writers:
    """At most one job a partition at a time."""

    def __init__(self, config: Config, breakers: CircuitBreakers) -> None:
        self._breakers = breakers
        self._writers = [_Writer(config) for _ in range(_WRITERS)]
        # Asked from the loop itself, about old swaps before they are claimed.
        self._archive = ArchiveWriter(
            ClickHouseClient(config.clickhouse_url, receive_s=20), config.kafka_topic
        )
        self._running: dict[int, _Running] = {}

    def start(
        self,
        owner: ArchivePartition,
        job: Callable[[ArchiveJobs], Any],
        done: Callable[[Any], None],
    ) -> None:
        """Start a job of a partition, unless one is running or ClickHouse is left alone."""
        if not self.busy(owner.partition) and not self._breakers.clickhouse.closed_for_s:
            writer = self._writers[self.thread_of(owner.partition)]
            future = writer.thread.submit(job, writer.jobs)
            self._running[owner.partition] = _Running(owner, future, done)

    def thread_of(self, partition: int) -> int:
        """The number of the thread that the partition keeps to."""
        return partition % _WRITERS

    def busy(self, partition: int) -> bool:
        """Whether a job of the partition is running, or was not taken note of."""
        return partition in self._running

    def wait(self, partitions: Iterable[int], within_s: float) -> None:
        """Wait a little for the jobs of these partitions."""
        wait_for(
            [self._running[each].future for each in partitions if each in self._running], within_s
        )

    def forget(self, partition: int) -> None:
        """Nobody wants the result of a partition's job any more."""
        self._running.pop(partition, None)

    def reap(self) -> None:
        """Take note of the jobs that have ended. Raises NewIncarnation, and Fatal."""
        for partition, running in list(self._running.items()):
            if not running.future.done():
                continue
            del self._running[partition]
            try:
                result = running.future.result()
            except NewIncarnation:
                raise
            except Unavailable as error:
                self._breakers.clickhouse.failed(str(error))
                if running.owner.flight is not None:
                    running.owner.flight.may_exist = True
                    metrics.ARCHIVE_RETRIES.labels(partition).inc()
            except Retry as error:
                self._breakers.redis.failed(str(error))
            else:
                self._breakers.clickhouse.worked()
                running.done(result)

    def ask(self, question: Callable[[ArchiveWriter], T]) -> T:
        """Ask the archive from the loop itself; the tables must be there by then."""
        writer = self._writers[0]
        if not writer.jobs.prepared:
            writer.thread.submit(writer.jobs.prepare).result()
        return question(self._archive)

    def close(self) -> None:
        """Close the connections; a job that waits for an answer ends."""
        self._archive.close()
        for writer in self._writers:
            writer.jobs.close()
            writer.thread.shutdown(wait=True, cancel_futures=True)
