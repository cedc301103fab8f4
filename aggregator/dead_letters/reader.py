"""Reads the dead-letter topic, and replays letters into their source topic.

Used by the command `dead_letters` and by the admin's page. Joins no group and commits nothing, so
reading changes nothing. A replayed letter stays in the topic; deduplication ensures that its swap
counts once, however often the letter is replayed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import msgspec
from confluent_kafka import (
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)

from aggregator.runtime.errors import Fatal, Retry

REPLAYED_FROM: Final = "replayed-from"
_TIMEOUT_S: Final = 5.0
_BATCH: Final = 500


class LetterPosition(NamedTuple):
    """The position of a letter in the dead-letter topic, written as `12` or `0:12`."""

    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.partition}:{self.offset}"

    @classmethod
    def parse(cls, text: str) -> LetterPosition:
        """Parse `offset` or `partition:offset`. Raises ValueError, which says what to give."""
        partition, separator, offset = text.rpartition(":")
        partition = partition if separator else "0"
        # `int` would also accept signs, white space and digits of other scripts.
        if not (partition + offset).isascii() or not (partition.isdigit() and offset.isdigit()):
            raise ValueError(f"{text!r} is not a position; give an offset, or partition:offset")
        if len(partition) > 9 or int(offset) > 2**63 - 1:
            raise ValueError(f"{text!r} is not a position; the number is too large")
        return cls(int(partition), int(offset))


class Letter(msgspec.Struct, frozen=True):
    """One dead letter.

    `at` is the time of sending, ms since the epoch. A missing header is "", or -1 where it should
    be a number. A letter that was too large for the topic is cut: `value` is the beginning of the
    message's value, `cut_from_bytes` the full size and `sha256` (hex) the hash of the full value.
    They are -1 and "" where `value` is complete.
    """

    position: LetterPosition
    at: int
    reason: str
    field: str
    detail: str
    source_topic: str
    source_partition: int
    source_offset: int
    key: bytes | None
    value: bytes | None
    cut_from_bytes: int = -1
    sha256: str = ""

    @property
    def cut(self) -> bool:
        """Return whether `value` lacks bytes of the message."""
        return self.cut_from_bytes >= 0

    @property
    def source(self) -> str:
        """Return the source topic, partition and offset as text."""
        return f"{self.source_topic} {self.source_partition}:{self.source_offset}"


class Extent(msgspec.Struct, frozen=True):
    """A partition and the offsets [start, end) that it holds."""

    partition: int
    start: int
    end: int


def assigned_consumer(bootstrap: str, settings: dict[str, Any]) -> Consumer:
    """Return a consumer whose partitions the caller assigns; `settings` are added to its own."""
    return Consumer(
        {
            "bootstrap.servers": bootstrap,
            # Required, but the group is never joined: partitions are assigned.
            "group.id": "dead-letters",
            "enable.auto.commit": False,
            "fetch.wait.max.ms": 100,
            "log_level": 0,
        }
        | settings
    )


class DeadLetterLog:
    """Reads the dead-letter topic; a context manager that closes the connection."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        self._consumer = assigned_consumer(bootstrap, {"enable.partition.eof": True})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._consumer.close()

    def extents(self) -> list[Extent]:
        """Return the extent of each partition; empty where the topic is missing. Raises Retry."""
        try:
            topic = self._consumer.list_topics(self._topic, timeout=_TIMEOUT_S).topics[self._topic]
            if topic.error is not None:
                if topic.error.code() == KafkaError.UNKNOWN_TOPIC_OR_PART:
                    return []
                raise Retry(f"kafka at {self._bootstrap}: {topic.error.str()}")
            return [self._extent(partition) for partition in sorted(topic.partitions)]
        except KafkaException as error:
            raise self._retry(error) from error

    def newest(
        self,
        limit: int,
        *,
        before: LetterPosition | None = None,
        reason: str | None = None,
        look_at: int = 5_000,
    ) -> list[Letter]:
        """Return up to `limit` letters, newest first.

        With `reason`, only the last `look_at` letters of a partition are searched. `before`
        restricts the result to lower offsets of its partition. Raises Retry.
        """
        found: list[Letter] = []
        for extent in self.extents():
            if before is not None and extent.partition != before.partition:
                continue
            end = extent.end if before is None else min(extent.end, before.offset)
            start = max(extent.start, end - (look_at if reason is not None else limit))
            found += [
                each
                for each in self._read(extent.partition, start, end)
                if reason is None or each.reason == reason
            ]
        found.sort(key=lambda each: (each.at, each.position), reverse=True)
        return found[:limit]

    def all(self, *, reason: str | None = None) -> Iterator[Letter]:
        """Yield every letter that the topic holds now, in log order per partition. Raises Retry."""
        for extent in self.extents():
            for letter in self._read(extent.partition, extent.start, extent.end):
                if reason is None or letter.reason == reason:
                    yield letter

    def get(self, position: LetterPosition) -> Letter | None:
        """Return one letter; None where the topic does not hold it. Raises Retry."""
        for extent in self.extents():
            if extent.partition == position.partition and position.offset < extent.end:
                first = max(extent.start, position.offset)
                for letter in self._read(extent.partition, first, position.offset + 1):
                    return letter
        return None

    def _extent(self, partition: int) -> Extent:
        place = TopicPartition(self._topic, partition)
        start, end = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
        return Extent(partition, start, end)

    def _read(self, partition: int, start: int, end: int) -> Iterator[Letter]:
        """Yield the letters with start <= offset < end that the topic holds."""
        if start >= end:
            return
        try:
            self._consumer.assign([TopicPartition(self._topic, partition, start)])
            deadline = time.monotonic() + _TIMEOUT_S
            while True:
                messages = self._consumer.consume(_BATCH, 0.2)
                for message in messages:
                    error = message.error()
                    if error is not None and error.code() == KafkaError._PARTITION_EOF:
                        return
                    if error is not None:
                        raise Retry(f"kafka at {self._bootstrap}: {error.str()}")
                    if _offset(message) >= end:
                        return
                    yield _letter(message)
                    if _offset(message) == end - 1:
                        return
                if messages:
                    deadline = time.monotonic() + _TIMEOUT_S
                elif time.monotonic() > deadline:
                    raise Retry(f"kafka at {self._bootstrap} does not deliver {self._topic}")
        except KafkaException as error:
            raise self._retry(error) from error

    def _retry(self, error: KafkaException) -> Retry:
        return Retry(f"kafka at {self._bootstrap}: {error.args[0].str()}")


def replay(
    letters: Sequence[Letter],
    *,
    bootstrap: str,
    source_topic: str,
    partitions: int,
    progress: Callable[[int], object] = lambda _count: None,
) -> None:
    """Send the letters to `source_topic` with their original bytes; wait for acknowledgement.

    Each letter goes to its original partition, so that a token stays on one partition. Raises Fatal
    for a letter of another topic or a cut letter, before any is sent. Raises Retry where the broker
    did not acknowledge all: some may have arrived, and replaying them again counts none twice.
    """
    for letter in letters:
        if letter.cut:
            raise Fatal(f"{letter.position} is cut; the original is {letter.source}")
        if letter.source_topic != source_topic:
            raise Fatal(
                f"{letter.position} came from the topic {letter.source_topic!r}, not "
                f"{source_topic!r}; set KAFKA_TOPIC and KAFKA_DLQ_TOPIC of the deployment that it "
                "belongs to"
            )
    failures: list[str] = []

    def on_delivery(error: Any, _message: Any) -> None:
        if error is not None:
            failures.append(str(error))

    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": int(_TIMEOUT_S * 1000),
            # A message that the topic once accepted compressed may be too large without.
            "compression.type": "zstd",
            "message.max.bytes": 100_000_000,
            "log_level": 0,
        }
    )
    for begin in range(0, len(letters), _BATCH):
        for letter in letters[begin : begin + _BATCH]:
            known = 0 <= letter.source_partition < partitions
            try:
                producer.produce(
                    source_topic,
                    value=letter.value,
                    key=letter.key,
                    partition=letter.source_partition if known else -1,
                    headers=[(REPLAYED_FROM, str(letter.position).encode())],
                    on_delivery=on_delivery,
                )
            except (BufferError, KafkaException) as error:
                failures.append(f"{letter.position}: {error}")
        unsent = producer.flush(2 * _TIMEOUT_S)
        if failures or unsent:
            raise Retry(f"kafka: {failures[0] if failures else f'{unsent} not yet sent'}")
        progress(min(begin + _BATCH, len(letters)))


def _letter(message: Message) -> Letter:
    given: Any = message.headers() or []
    headers = {name: value for name, value in given if isinstance(value, bytes)}

    def text(name: str) -> str:
        return headers.get(name, b"").decode("utf-8", "replace")

    def number(name: str) -> int:
        digits = text(name)
        return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 20 else -1

    partition = message.partition()
    assert partition is not None
    at = number("at")
    return Letter(
        position=LetterPosition(partition, _offset(message)),
        at=at if at >= 0 else message.timestamp()[1],
        reason=text("reason"),
        field=text("field"),
        detail=text("detail"),
        source_topic=text("source-topic"),
        source_partition=number("source-partition"),
        source_offset=number("source-offset"),
        key=_bytes(message.key()),
        value=_bytes(message.value()),
        cut_from_bytes=number("cut-from-bytes"),
        sha256=text("sha256"),
    )


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _bytes(data: str | bytes | None) -> bytes | None:
    return data.encode() if isinstance(data, str) else data
