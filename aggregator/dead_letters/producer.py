"""Sends messages that cannot be counted to the dead-letter topic: their bytes and the reason.

The pipeline advances past a message only after the broker has acknowledged its dead letter. A
letter that is too large for the dead-letter topic is sent cut, because no repetition changes its
size; every other failure is a Retry, and a repetition sends only what the broker does not have.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Producer

from aggregator.contracts.records import LogRecord
from aggregator.runtime import metrics
from aggregator.runtime.errors import BadMessage, Retry

BAD_RUN_WINDOW: Final = 1_000
"""Messages of a partition that are judged together."""
KEPT_BYTES: Final = 65_536
"""Bytes of the value that a cut letter keeps."""
_KEPT_KEY_BYTES: Final = 1_024
_LONGEST_REASON: Final = 300
# Above any max.message.bytes in use; what is larger is cut without asking the broker.
_MOST_BYTES: Final = 10_000_000
_TIMEOUT_S: Final = 10.0
_TOO_LARGE: Final = {KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE}

log = structlog.get_logger(__name__)


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A record as it came, the topic it came from, and why it is refused."""

    topic: str
    record: LogRecord
    error: BadMessage


class BadRun:
    """Whether over half of the last BAD_RUN_WINDOW messages of a partition, in log order, are bad.

    Then the producer or the topic is wrong rather than a message. It stops nothing: the messages
    are in the dead-letter topic, and good ones among them count.
    """

    def __init__(self, window: int = BAD_RUN_WINDOW) -> None:
        self._window = window
        self._seen = 0
        self._bad: deque[int] = deque()
        self._newest = ""

    def note(self, count: int, bad: Iterable[tuple[int, BadMessage]]) -> None:
        """`count` more messages were read; `bad` are places among them, ascending, and why."""
        for place, error in bad:
            self._bad.append(self._seen + place)
            self._newest = str(error)[:_LONGEST_REASON]
        self._seen += count
        while self._bad and self._bad[0] < self._seen - self._window:
            self._bad.popleft()

    @property
    def share(self) -> float:
        """Bad messages among the last ones, 0 to 1, as a share of the whole window."""
        return len(self._bad) / self._window

    @property
    def reason(self) -> str:
        """A sentence for operators; empty while there is no run."""
        if len(self._bad) * 2 <= self._window:
            return ""
        return (
            f"{len(self._bad):,} of the last {self._window:,} messages were refused and are in the "
            f"dead-letter topic, the newest: {self._newest}"
        )


class _Outgoing:
    """One letter that the broker does not have yet, and how much of it is sent next."""

    def __init__(self, rejected: Rejected) -> None:
        self.rejected = rejected
        self.acknowledged = False
        self.in_flight = False
        # A broker measures batches, so a letter that was refused is sent once more by itself.
        self.alone = False
        self.kept: int | None = None  # bytes of the value; None is all of them

    def shrink(self) -> bool:
        """Send less next time; false where there is nothing left to leave out."""
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
    """Letters on their way to the broker.

    `send` may be called again after Retry: it sends again only what was not acknowledged.
    """

    def __init__(self, producer: Producer, topic: str, rejected: Sequence[Rejected]) -> None:
        self._producer = producer
        self._topic = topic
        self._waiting = [_Outgoing(each) for each in rejected]
        self._fault = ""

    def send(self) -> None:
        """Return when the broker has every letter, whole or cut. Raises Retry where it has not.

        A letter whose acknowledgement was lost can come twice, never not at all.
        """
        self._fault = ""
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
    """The dead-letter topic, to be written to."""

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
        """The letters of these messages, to be sent by `Delivery.send`."""
        return Delivery(self._producer, self._topic, rejected)

    def send(self, rejected: Sequence[Rejected]) -> None:
        """See `Delivery.send`."""
        self.delivery(rejected).send()

    def close(self) -> None:
        """Nothing is pending after `send`; give the connections back."""
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
        "at": int(time.time() * 1000),
    }
    if cut:
        value = record.value or b""
        values |= {"cut-from-bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}
    return [(name, str(value).encode("utf-8", "replace")) for name, value in values.items()]
