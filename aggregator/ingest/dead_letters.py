"""Puts messages that cannot be counted aside, with their bytes as they came and the reason.

A message is passed only after the broker has acknowledged its dead letter. When over half of the
last messages are bad, the producer or the topic is wrong, not the messages: then it is Fatal, so
that the topic is not drained into the dead letters.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
from confluent_kafka import KafkaException, Producer

from aggregator.errors import DeadLetter, Fatal, Retry
from aggregator.ingest.log import LogRecord

POISON_WINDOW: Final = 1_000
_TIMEOUT_S: Final = 10.0


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A record as it came, the topic it came from, and why it is put aside."""

    topic: str
    record: LogRecord
    error: DeadLetter


class PoisonGuard:
    """Stops the process when over half of the last POISON_WINDOW messages are bad."""

    def __init__(self, window: int = POISON_WINDOW) -> None:
        self._window = window
        self._seen = 0
        self._bad: deque[int] = deque()

    def good(self, count: int) -> None:
        """`count` messages were decoded."""
        self._seen += count

    def bad(self, error: DeadLetter) -> None:
        """One message was not. Raises Fatal when there are too many."""
        self._seen += 1
        self._bad.append(self._seen)
        while self._bad[0] <= self._seen - self._window:
            self._bad.popleft()
        if len(self._bad) > self._window // 2:
            raise Fatal(
                f"over half of the last {self._window} messages are bad, the newest: {error}. "
                "Mend the producer, or point KAFKA_TOPIC at the right topic, and start again; "
                "nothing was passed over"
            )


class DeadLetters:
    """Sends rejected messages to the dead-letter topic."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap,
                "enable.idempotence": True,
                "acks": "all",
                "message.timeout.ms": int(_TIMEOUT_S * 1000),
                "message.max.bytes": 2_000_000,
                "log_level": 0,
            }
        )

    def send(self, rejected: Sequence[Rejected]) -> None:
        """Return when the broker has every one of them. Raises Retry where it has not.

        After Retry some may be there already: a dead letter can come twice, never not at all.
        """
        failures: list[str] = []

        def on_delivery(error: object, _message: object) -> None:
            if error is not None:
                failures.append(str(error))

        try:
            for letter in rejected:
                self._producer.produce(
                    self._topic,
                    key=letter.record.key,
                    value=letter.record.value,
                    headers=_headers(letter),
                    on_delivery=on_delivery,
                )
        except (BufferError, KafkaException) as error:
            failures.append(str(error))
        unsent = self._producer.flush(_TIMEOUT_S)
        if failures or unsent:
            raise Retry(f"dead letters: {failures[0] if failures else f'{unsent} not yet sent'}")

    def close(self) -> None:
        """Nothing is pending after `send`; give the connections back."""
        self._producer.flush(0)


def _headers(letter: Rejected) -> list[tuple[str, str | bytes | None]]:
    values = {
        "reason": letter.error.reason,
        "field": letter.error.field,
        "detail": letter.error.detail,
        "source-topic": letter.topic,
        "source-partition": str(letter.record.partition),
        "source-offset": str(letter.record.offset),
        "at": str(int(time.time() * 1000)),
    }
    return [(name, value.encode("utf-8", "replace")) for name, value in values.items()]
