"""The threads on which an archiver talks to ClickHouse, away from its poll loop.

A partition keeps to its thread, so a retry runs after the job that is still running. The loop
collects the results of finished jobs in `reap`. Knows nothing of Kafka.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from typing import Any, Final, TypeVar

from aggregator.archiving.jobs import ArchiveJobs
from aggregator.archiving.partition import ArchivePartition
from aggregator.clickhouse.connection import ClickHouseClient, Unavailable
from aggregator.clickhouse.writer import ArchiveWriter
from aggregator.redis.session import NewIncarnation
from aggregator.runtime import metrics
from aggregator.runtime.backoff import CircuitBreaker
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry

T = TypeVar("T")

# Two writers: while ClickHouse works on one batch, the other is encoded and sent.
_WRITERS: Final = 2


class CircuitBreakers:
    """The circuit breakers of the engines that an archiver uses."""

    def __init__(self) -> None:
        self.kafka = CircuitBreaker("kafka")
        self.redis = CircuitBreaker("redis")
        self.clickhouse = CircuitBreaker("clickhouse")

    @property
    def faults(self) -> str:
        """The faults of all open breakers as one text; "" if every engine works."""
        return "; ".join(self.by_engine.values())

    @property
    def by_engine(self) -> dict[str, str]:
        """The faults of all open breakers, by the engine's name."""
        breakers = {"kafka": self.kafka, "redis": self.redis, "clickhouse": self.clickhouse}
        return {engine: breaker.fault for engine, breaker in breakers.items() if breaker.fault}


class _Writer:
    """A thread with its own connection to ClickHouse."""

    def __init__(self, config: Config) -> None:
        self.jobs = ArchiveJobs(config)
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="archive-writer")


class _Running:
    """A job of a partition, and the callback that takes its result."""

    def __init__(
        self, owner: ArchivePartition, future: Future[Any], done: Callable[[Any], None]
    ) -> None:
        self.owner = owner
        self.future = future
        self.done = done


class Writers:
    """Runs at most one job per partition at a time."""

    def __init__(self, config: Config, breakers: CircuitBreakers) -> None:
        self._breakers = breakers
        self._writers = [_Writer(config) for _ in range(_WRITERS)]
        # For queries from the loop itself, which looks up old swaps before it claims them.
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
        """Start a job of a partition, unless one is running or ClickHouse's breaker is open."""
        if not self.busy(owner.partition) and not self._breakers.clickhouse.open_for_s:
            writer = self._writers[self.thread_of(owner.partition)]
            future = writer.thread.submit(job, writer.jobs)
            self._running[owner.partition] = _Running(owner, future, done)

    def thread_of(self, partition: int) -> int:
        """Return the number of the thread that the partition keeps to."""
        return partition % _WRITERS

    def busy(self, partition: int) -> bool:
        """Return whether a job of the partition is running, or its result is not collected yet."""
        return partition in self._running

    def wait(self, partitions: Iterable[int], within_s: float) -> None:
        """Wait up to `within_s` for the jobs of these partitions."""
        wait_for(
            [self._running[each].future for each in partitions if each in self._running], within_s
        )

    def forget(self, partition: int) -> None:
        """Drop the result of a partition's job, which is no longer wanted."""
        self._running.pop(partition, None)

    def reap(self) -> None:
        """Collect the results of finished jobs. Raises NewIncarnation, and Fatal."""
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
                # Nothing is known of the outcome: the server may have taken the batch.
                if running.owner.in_flight is not None:
                    running.owner.in_flight.may_exist = True
                    metrics.ARCHIVE_RETRIES.labels(partition).inc()
            except Retry as error:
                self._breakers.redis.failed(str(error))
            else:
                self._breakers.clickhouse.worked()
                running.done(result)

    def ask(self, question: Callable[[ArchiveWriter], T]) -> T:
        """Query the archive from the loop itself; creates the tables first if they are missing."""
        writer = self._writers[0]
        if not writer.jobs.prepared:
            writer.thread.submit(writer.jobs.prepare).result()
        return question(self._archive)

    def close(self) -> None:
        """Close the connections, which ends a job that waits for an answer."""
        self._archive.close()
        for writer in self._writers:
            writer.jobs.close()
            writer.thread.shutdown(wait=True, cancel_futures=True)
