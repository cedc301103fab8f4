"""Sends messages that cannot be counted to the dead-letter topic: their bytes and the reason.

The pipeline advances past a message only after the broker has acknowledged its dead letter. A
letter that is too large for the dead-letter topic is cut, because repeating the same size would
fail again. Every other failure raises Retry, and a repeated call sends only the letters that the
broker has not acknowledged.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from aggregator.contracts.records import LogRecord
from aggregator.runtime import metrics
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
_TOO_LARGE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}

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


class _Outgoing:
    """A letter that the broker has not acknowledged yet, and how much of it is sent next."""

    def __init__(self, rejected: Rejected) -> None:
        self.rejected = rejected
        self.acknowledged = False
        self.in_flight = False
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


class Delivery:
    """A set of letters to deliver.

    `send` may be called again after Retry: it sends only the letters that are not acknowledged.
    """

    def __init__(self, producer: Producer, topic: str, rejected: Sequence[Rejected]) -> None:
        self._producer = producer
        self._topic = topic
        self._waiting = [_Outgoing(each) for each in rejected]
        self._fault = ""

    def send(self) -> None:
        """Send the letters; return when the broker has all of them, whole or cut. Raises Retry.

        Delivery is at least once: a letter whose acknowledgement was lost can arrive twice.
        """
        self._fault = ""
        # A letter that was refused for its size is still waiting after the flush, in a reduced
        # form; the loop sends it again until the broker takes it.
        while self._waiting:
            for outgoing in self._waiting:
                if outgoing.alone:
                    self._producer.flush(_TIMEOUT_S)
                if self._fault:
                    break
                if not outgoing.in_flight:
                    self._produce(outgoing)
                if outgoing.alone:
                    self._producer.flush(_TIMEOUT_S)
            unsent = self._producer.flush(_TIMEOUT_S)
            self._waiting = [each for each in self._waiting if not each.acknowledged]
            if self._fault or unsent:
                raise Retry(f"dead letters: {self._fault or f'{unsent} not yet sent'}")

    def _produce(self, outgoing: _Outgoing) -> None:
        def on_delivery(error: KafkaError | None, _message: object) -> None:
            outgoing.in_flight = False
            if error is None:
                self._note_acknowledged(outgoing)
            else:
                self._note_failed(outgoing, error)

        record, kept = outgoing.rejected.record, outgoing.kept
        outgoing.in_flight = True
        try:
            self._producer.produce(
                self._topic,
                key=record.key if kept is None else (record.key or b"")[:_KEPT_KEY_BYTES],
                value=record.value if kept is None else (record.value or b"")[:kept],
                headers=_headers(outgoing.rejected, cut=kept is not None),
                on_delivery=on_delivery,
            )
        except KafkaException as error:
            outgoing.in_flight = False
            self._note_failed(outgoing, error.args[0])
        except BufferError as error:
            outgoing.in_flight = False
            self._fault = str(error)

    def _note_acknowledged(self, outgoing: _Outgoing) -> None:
        outgoing.acknowledged = True
        if outgoing.kept is not None:
            record = outgoing.rejected.record
            metrics.INGEST_DEAD_LETTERS_CUT.inc()
            log.warning(
                "dead_letter_cut",
                partition=record.partition,
                offset=record.offset,
                bytes=len(record.value or b""),
                kept=outgoing.kept,
            )

    def _note_failed(self, outgoing: _Outgoing, error: KafkaError) -> None:
        if error.code() not in _TOO_LARGE:
            self._fault = error.str()
        elif not outgoing.shrink():
            self._fault = (
                f"the topic {self._topic} refuses even a letter without its bytes "
                f"({error.str()}): raise its max.message.bytes"
            )


class DeadLetters:
    """Writes to the dead-letter topic."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": int(_TIMEOUT_S * 1000),
                "message.max.bytes": _MOST_BYTES,
                "log_level": 0,
            }
        )

    def delivery(self, rejected: Sequence[Rejected]) -> Delivery:
        """Return the delivery of these messages; call its `send`."""
        return Delivery(self._producer, self._topic, rejected)

    def send(self, rejected: Sequence[Rejected]) -> None:
        """Deliver these messages; see `Delivery.send`."""
        self.delivery(rejected).send()

    def close(self) -> None:
        """Release the connections; nothing is pending after a successful `send`."""
        self._producer.flush(0)


def _headers(letter: Rejected, *, cut: bool) -> list[tuple[str, str | bytes | None]]:
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
