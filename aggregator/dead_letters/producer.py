"""Sends messages that cannot be counted to the dead-letter topic: their bytes and the reason.

Nothing here waits: letters are given to the client, and `poll` takes its answers. The caller saves
and commits a position only if no letter below it is outstanding. A letter that is too large for the
dead-letter topic is cut, because repeating the same size would fail again; after any other failure
it is sent again until the broker acknowledges it. Letters therefore arrive at least once.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from aggregator.contracts.records import Header, LogRecord
from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.errors import BadMessage, Retry

BAD_RUN_WINDOW: Final = 1_000
"""The number of last messages of a partition that `BadRun` looks at."""
KEPT_BYTES: Final = 65_536
"""The bytes of the value that a cut letter keeps."""
_KEPT_KEY_BYTES: Final = 1_024
_LONGEST_REASON: Final = 300
# Above any usual max.message.bytes; the client refuses larger letters, which are then cut.
_MOST_BYTES: Final = 10_000_000
_TIMEOUT_S: Final = 10.0
# What a letter needs besides the record's bytes: its headers and the client's own objects.
_OVERHEAD_BYTES: Final = 1_000
_POLL_S: Final = 0.05
TOO_LARGE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}
"""The answers to a record, or a batch of records, above the topic's `max.message.bytes`."""

log = structlog.get_logger(__name__)


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A record as it was read, its topic, and why it is refused."""

    topic: str
    record: LogRecord
    error: BadMessage


class BadRun:
    """Detects that over half of a partition's last BAD_RUN_WINDOW messages, in log order, are bad.

    Then the producer or the topic is wrong rather than single messages. The detector stops nothing:
    the bad messages are in the dead-letter topic, and the good ones among them count.
    """

    def __init__(self, window: int = BAD_RUN_WINDOW) -> None:
        self._window = window
        self._seen = 0
        self._bad: deque[int] = deque()
        self._newest = ""

    def note(self, count: int, bad: Iterable[tuple[int, BadMessage]]) -> None:
        """Note `count` more messages; `bad` has (index among them, error), ascending."""
        for place, error in bad:
            self._bad.append(self._seen + place)
            self._newest = str(error)[:_LONGEST_REASON]
        self._seen += count
        while self._bad and self._bad[0] < self._seen - self._window:
            self._bad.popleft()

    @property
    def share(self) -> float:
        """Return the bad messages among the last ones as a share of the window, 0 to 1."""
        return len(self._bad) / self._window

    @property
    def reason(self) -> str:
        """Return a sentence for operators; empty while there is no run."""
        if len(self._bad) * 2 <= self._window:
            return ""
        return (
            f"{len(self._bad):,} of the last {self._window:,} messages were refused and are in the "
            f"dead-letter topic, the newest: {self._newest}"
        )


class ProducerPort(Protocol):
    """As much of a Kafka client's producer as the senders here use."""

    def produce(
        self,
        topic: str,
        value: bytes | None,
        key: bytes | None,
        partition: int = -1,
        *,
        on_delivery: Callable[[KafkaError | None, Any], None],
        timestamp: int = 0,
        headers: list[Header],
    ) -> None:
        """Queue a record. Raises KafkaException, and BufferError where the queue is full."""

    def poll(self, timeout: float) -> int:
        """Call `on_delivery` of what was answered; raises a fatal error as KafkaException."""

    def purge(self) -> None:
        """Drop what is queued or in flight."""


NewProducer = Callable[[Mapping[str, Any]], ProducerPort]


def new_producer(settings: Mapping[str, Any]) -> ProducerPort:
    """Return a producer of the Kafka client."""
    return Producer(dict(settings))


def abandon(producer: ProducerPort) -> None:
    """Drop what a producer holds, and have it release the callbacks of it."""
    producer.purge()
    for _ in range(2):
        with suppress(KafkaException):
            producer.poll(0.0)


class _Letter:
    """A letter that the broker has not acknowledged yet, and how much of it is sent next."""

    def __init__(self, rejected: Rejected) -> None:
        record = rejected.record
        self.rejected = rejected
        self.size = len(record.value or b"") + len(record.key or b"") + _OVERHEAD_BYTES
        self.done = False
        self.via = 0  # the number of the producer that has it; 0: none
        # The broker measures whole batches, so a refused letter is first sent again in a batch
        # that holds nothing else.
        self.alone = False
        self.kept: int | None = None  # bytes of the value to send; None is all of them

    def shrink(self) -> bool:
        """Reduce what is sent next; return False where nothing is left to reduce."""
        if not self.alone:
            self.alone = True
        elif self.kept is None:
            self.kept = min(KEPT_BYTES, len(self.rejected.record.value or b""))
        elif self.kept:
            self.kept = 0
        else:
            return False
        return True


class DeadLetters:
    """Writes to the dead-letter topic. Use it from one thread.

    `fault` says why letters are not delivered; "" while they are.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        *,
        producers: NewProducer = new_producer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fault = ""
        self._topic = topic
        self._producers = producers
        self._clock = clock
        self._settings = {
            "bootstrap.servers": bootstrap,
            "enable.idempotence": True,
            "acks": "all",
            "message.timeout.ms": int(_TIMEOUT_S * 1000),
            "message.max.bytes": _MOST_BYTES,
            "log_level": 0,
        }
        # By whether each batch holds one letter, with a number; made when first used.
        self._open: dict[bool, tuple[int, ProducerPort]] = {}
        self._opened = 0
        self._letters: dict[int, dict[int, _Letter]] = {}
        self._bytes: Counter[int] = Counter()
        self._unsent: deque[_Letter] = deque()
        self._backoff = Backoff(0.2, 5.0, clock=clock)

    def send(self, rejected: Iterable[Rejected]) -> None:
        """Give letters to the client; one that is outstanding already is not sent twice."""
        for each in rejected:
            letters = self._letters.setdefault(each.record.partition, {})
            if each.record.offset not in letters:
                letter = letters[each.record.offset] = _Letter(each)
                self._bytes[each.record.partition] += letter.size
                self._unsent.append(letter)
        self._send_unsent()

    def poll(self) -> None:
        """Take the broker's answers, and send what is due again. Never waits."""
        self._serve(0.0)

    def flush(self, timeout_s: float) -> None:
        """Wait until every letter is acknowledged. Raises Retry where some are not in time."""
        deadline = self._clock() + timeout_s
        while any(self._letters.values()):
            if self._clock() >= deadline:
                left = sum(map(len, self._letters.values()))
                raise Retry(f"dead letters: {self.fault or f'{left} not yet acknowledged'}")
            self._serve(_POLL_S)

    def lowest(self, partition: int) -> int | None:
        """Return the lowest source offset of a partition whose letter is outstanding."""
        return min(self._letters.get(partition, ()), default=None)

    def outstanding(self, partition: int) -> int:
        """Return how many letters of a partition are outstanding."""
        return len(self._letters.get(partition, ()))

    def outstanding_bytes(self, partition: int) -> int:
        """Return how many bytes the outstanding letters of a partition hold."""
        return self._bytes[partition]

    def drop(self, partition: int) -> None:
        """Forget the letters of a partition; its next owner sends them again."""
        self._bytes.pop(partition, None)
        for letter in self._letters.pop(partition, {}).values():
            letter.done = True

    def close(self) -> None:
        """Drop what is outstanding and end the connections."""
        for partition in list(self._letters):
            self.drop(partition)
        for _, producer in self._open.values():
            abandon(producer)
        self._open.clear()

    def _serve(self, timeout_s: float) -> None:
        for alone, (number, producer) in list(self._open.items()):
            try:
                producer.poll(timeout_s)
            except KafkaException as error:
                # A fatal error: the client delivers nothing any more.
                del self._open[alone]
                self._note_fault(error.args[0])
                abandon(producer)
                self._take_back(number)
        self._send_unsent()

    def _take_back(self, number: int) -> None:
        for letters in self._letters.values():
            for letter in letters.values():
                if letter.via == number:
                    letter.via = 0
                    self._unsent.append(letter)

    def _send_unsent(self) -> None:
        while self._unsent and not self._backoff.left_s:
            letter = self._unsent.popleft()
            if not letter.done and not self._produce(letter):
                self._unsent.appendleft(letter)
                return

    def _produce(self, letter: _Letter) -> bool:
        """Give one letter to a client; False where it must be tried again."""
        number, producer = self._producer(letter.alone)

        def on_delivery(error: KafkaError | None, _message: object) -> None:
            if letter.done:
                return
            if error is None:
                self._note_acknowledged(letter)
            elif letter.via == number:
                letter.via = 0
                self._note_failed(letter, error)
                self._unsent.append(letter)

        record, kept = letter.rejected.record, letter.kept
        try:
            producer.produce(
                self._topic,
                record.value if kept is None else (record.value or b"")[:kept],
                record.key if kept is None else (record.key or b"")[:_KEPT_KEY_BYTES],
                on_delivery=on_delivery,
                headers=_headers(letter.rejected, cut=kept is not None),
            )
        except BufferError:
            # The client's queue is full: the next poll makes room.
            return False
        except KafkaException as error:
            self._note_failed(letter, error.args[0])
            return False
        letter.via = number
        return True

    def _producer(self, alone: bool) -> tuple[int, ProducerPort]:
        if alone not in self._open:
            single = {"batch.num.messages": 1} if alone else {}
            self._opened += 1
            self._open[alone] = self._opened, self._producers(self._settings | single)
        return self._open[alone]

    def _note_acknowledged(self, letter: _Letter) -> None:
        record = letter.rejected.record
        letter.done = True
        del self._letters[record.partition][record.offset]
        self._bytes[record.partition] -= letter.size
        self.fault = ""
        self._backoff.reset()
        metrics.INGEST_DEAD_LETTERS.labels(letter.rejected.error.reason).inc()
        if letter.kept is not None:
            metrics.INGEST_DEAD_LETTERS_CUT.inc()
            log.warning(
                "dead_letter_cut",
                partition=record.partition,
                offset=record.offset,
                bytes=len(record.value or b""),
                kept=letter.kept,
            )

    def _note_failed(self, letter: _Letter, error: KafkaError) -> None:
        if error.code() not in TOO_LARGE:
            self._note_fault(error)
        elif not letter.shrink():
            self._note_fault(
                error,
                f"the topic {self._topic} refuses even a letter without its bytes "
                f"({error.str()}): raise its max.message.bytes",
            )

    def _note_fault(self, error: KafkaError, text: str = "") -> None:
        if not self.fault:
            log.warning("dead_letters_fail", error=text or error.str())
        self.fault = text or error.str()
        if not self._backoff.left_s:
            # The letters of one batch fail together: that is one failure.
            self._backoff.start()


def _headers(letter: Rejected, *, cut: bool) -> list[Header]:
    record = letter.record
    values: dict[str, Any] = {
        "reason": letter.error.reason,
        "field": letter.error.field,
        "detail": letter.error.detail,
        "source-topic": letter.topic,
        "source-partition": record.partition,
        "source-offset": record.offset,
        "at": wall_ms(),
    }
    if cut:
        value = record.value or b""
        values |= {"cut-from-bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return [(name, str(value).encode("utf-8", "replace")) for name, value in values.items()]
