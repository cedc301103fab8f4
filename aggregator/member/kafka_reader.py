"""Questions about a topic that need no membership: records at given offsets, timestamps, its id.

A consumer of its own reads them, so that the positions of the member stay where they are. All
methods may be called from any thread; one call runs at a time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator, Iterator, Sequence
from typing import Any, Final

from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient

from aggregator.contracts.records import LogRecord
from aggregator.member.log import LogExtent
from aggregator.runtime.errors import Retry

_TIMEOUT_S: Final = 5.0
# Reading some records between two wanted ones costs less than another seek, which is a round trip.
_NEAR: Final = 256
_POLL: Final = 1_000
_NO_ID: Final = "AAAAAAAAAAAAAAAAAAAAAA"
_OUT_OF_RANGE: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class KafkaReader:
    """Reads single records of a topic. Connects at the first question."""

    def __init__(self, bootstrap: str, topic: str, group: str) -> None:
        """`group` is only named to the broker, for its access rules; it is not joined."""
        self._topic = topic
        self._bootstrap = bootstrap
        self._group = group
        self._lock = threading.Lock()
        self._consumer: Consumer | None = None
        self._admin: Any = None

    def topic_id(self) -> str:
        """See `Log`."""
        with self._lock:
            if self._admin is None:
                self._admin = AdminClient({"bootstrap.servers": self._bootstrap, "log_level": 0})
            wanted = TopicCollection([self._topic])
            try:
                [future] = self._admin.describe_topics(wanted, request_timeout=_TIMEOUT_S).values()
                found = str(future.result(timeout=_TIMEOUT_S + 1).topic_id)
            except KafkaException as error:
                if error.args[0].code() == KafkaError._UNSUPPORTED_FEATURE:
                    return ""
                raise Retry(f"kafka: describing the topic: {error.args[0].str()}") from error
            except TimeoutError as error:
                raise Retry("kafka: describing the topic: no answer") from error
        return "" if found == _NO_ID else found

    def partition_count(self, timeout_s: float) -> int:
        """Return the number of partitions, 0 where the broker does not know yet. Raises Retry."""
        with self._lock:
            try:
                metadata = self._connected().list_topics(self._topic, timeout=timeout_s)
            except KafkaException as error:
                raise Retry(f"kafka: {error.args[0].str()}") from error
        return len(metadata.topics[self._topic].partitions)

    def committed(self, partition: int) -> tuple[int | None, str]:
        """See `Log`."""
        place = TopicPartition(self._topic, partition)
        with self._lock:
            try:
                (found,) = self._connected().committed([place], timeout=_TIMEOUT_S)
            except KafkaException as error:
                fault = error.args[0].str()
                raise Retry(f"kafka: reading the committed offset: {fault}") from error
        if found.error is not None:
            raise Retry(f"kafka: reading the committed offset: {found.error.str()}")
        return (found.offset if found.offset >= 0 else None), found.metadata or ""

    def extent(self, partition: int, since_ms: int | None) -> LogExtent:
        """See `Log`."""
        with self._lock:
            start, end = self._extent(partition)
            if since_ms is None:
                return LogExtent(start, end, start)
            place = TopicPartition(self._topic, partition, since_ms)
            try:
                (found,) = self._connected().offsets_for_times([place], timeout=_TIMEOUT_S)
            except KafkaException as error:
                raise Retry(f"kafka: requesting offsets: {error.args[0].str()}") from error
        if found.error is not None:
            raise Retry(f"kafka: requesting offsets: {found.error.str()}")
        return LogExtent(start, end, found.offset if found.offset >= 0 else end)

    def read_at(self, partition: int, offsets: Sequence[int]) -> dict[int, LogRecord]:
        """See `Log`."""
        with self._lock:
            return self._read_at(partition, offsets) if offsets else {}

    def last_timestamp(self, partition: int) -> int | None:
        """See `Log`."""
        with self._lock:
            start, end = self._extent(partition)
            step = 1
            # The last offsets may be transaction markers: look further back for a record.
            while True:
                first = max(start, end - step)
                if first >= end:
                    return None
                last = None
                for record in self._read(partition, first, end):
                    last = record.timestamp
                if last is not None or first == start:
                    return last
                step *= 8

    def first_timestamp(self, partition: int) -> int | None:
        """See `Log`."""
        with self._lock:
            start, end = self._extent(partition)
            if start >= end:
                return None
            records = self._read(partition, start, end)
            first = next(records, None)
            records.close()
            return None if first is None else first.timestamp

    def close(self) -> None:
        """End the connections."""
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None

    def _read_at(self, partition: int, offsets: Sequence[int]) -> dict[int, LogRecord]:
        start, end = self._extent(partition)
        wanted = sorted({offset for offset in offsets if start <= offset < end})
        found = {}
        for first, last in _runs(wanted):
            for record in self._read(partition, first, last + 1):
                found[record.offset] = record
        return {offset: found[offset] for offset in wanted if offset in found}

    def _extent(self, partition: int) -> tuple[int, int]:
        try:
            found = self._connected().get_watermark_offsets(
                TopicPartition(self._topic, partition), timeout=_TIMEOUT_S, cached=False
            )
        except KafkaException as error:
            raise Retry(f"kafka: requesting offsets: {error.args[0].str()}") from error
        if found is None:
            raise Retry("kafka: requesting offsets: no answer")
        return found

    def _read(self, partition: int, first: int, end: int) -> Generator[LogRecord, None, None]:
        """Yield the records of [first, end) that the log holds."""
        consumer = self._connected()
        deadline = time.monotonic() + _TIMEOUT_S
        try:
            consumer.assign([TopicPartition(self._topic, partition, first)])
            while time.monotonic() < deadline:
                for message in consumer.consume(min(_POLL, end - first), 0.1):
                    error = message.error()
                    if error is None:
                        offset = message.offset()
                        if offset is None or offset >= end:
                            return
                        yield record_of(message)
                        if offset == end - 1:
                            return
                        deadline = time.monotonic() + _TIMEOUT_S
                    elif error.code() == KafkaError._PARTITION_EOF:
                        return
                    elif error.code() in _OUT_OF_RANGE:
                        # The log was trimmed meanwhile.
                        start, _ = self._extent(partition)
                        if start >= end or start <= first:
                            return
                        first = start
                        consumer.assign([TopicPartition(self._topic, partition, first)])
            raise Retry(f"kafka: reading partition {partition} from offset {first}: no answer")
        except KafkaException as error:
            raise Retry(f"kafka: reading records: {error.args[0].str()}") from error
        finally:
            consumer.unassign()

    def _connected(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    "bootstrap.servers": self._bootstrap,
                    "group.id": self._group,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "auto.offset.reset": "error",
                    "fetch.wait.max.ms": 100,
                    # Single records are wanted: do not fetch megabytes ahead for each.
                    "fetch.message.max.bytes": 262_144,
                    "queued.max.messages.kbytes": 1_024,
                    "reconnect.backoff.max.ms": 1_000,
                    "log_level": 0,
                }
            )
        return self._consumer


def _runs(offsets: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Group ascending offsets that lie near one another into (first, last)."""
    first = last = None
    for offset in offsets:
        if first is None or last is None:
            first = last = offset
        elif offset - last <= _NEAR:
            last = offset
        else:
            yield first, last
            first = last = offset
    if first is not None and last is not None:
        yield first, last


def record_of(message: Message) -> LogRecord:
    """Return a message of the client, with its headers."""
    # The client's type stubs allow None where a consumed message always has a number.
    return LogRecord(
        message.partition(),  # type: ignore[arg-type]
        message.offset(),  # type: ignore[arg-type]
        message.timestamp()[1],
        message.key(),
        message.value(),
        message.headers() or (),  # type: ignore[arg-type]
    )
