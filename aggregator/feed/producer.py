"""The feed's way to Kafka: an idempotent producer, and the loop that sends a stream through it.

Every record is sent exactly as it comes. A full local queue is waited out; what the broker does not
take is counted. Knows nothing of what the records mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from aggregator.feed.progress import FeedProgress
from aggregator.feed.stream import Record
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

_CONNECT_S: Final = 5.0
_POLL_S: Final = 0.1
_FLUSH_S: Final = 30.0
# A pause shorter than this costs more than it evens out.
_LEAST_WAIT_S: Final = 0.002


class SwapProducer:
    """Sends records to the topic of `config`.

    `failed` counts messages that were not delivered, `first_failure` says why the first was not.
    """

    def __init__(self, config: Config) -> None:
        self._bootstrap = config.kafka_bootstrap
        self._topic = config.kafka_topic
        self._producer = Producer(
            {
                "bootstrap.servers": config.kafka_bootstrap,
                # What goes wrong is told by this program, once, and not by the library's own log.
                "log_level": 0,
                "enable.idempotence": True,
                "acks": "all",
                # The partitioner of Kafka's own clients, so that other producers agree.
                "partitioner": "murmur2_random",
                "linger.ms": 5,
                "queue.buffering.max.kbytes": 65_536,
                "message.timeout.ms": 120_000,
                "delivery.report.only.error": True,
                "on_delivery": self._delivered,
            }
        )
        self.failed = 0
        self.first_failure = ""

    def topic_exists(self) -> bool:
        """Whether the topic is there. Raises Fatal where the broker cannot be reached."""
        try:
            # All topics: a question about one would make a broker with auto-creation create it.
            return self._topic in self._producer.list_topics(timeout=_CONNECT_S).topics
        except KafkaException as error:
            raise Fatal(
                f"no Kafka broker answers at {self._bootstrap} (KAFKA_BOOTSTRAP): {_why(error)}"
            ) from error

    def send(self, record: Record) -> bool:
        """Hand one record to the local queue; False where the queue is full, True otherwise.

        Raises Fatal when the producer can go on no more.
        """
        try:
            self._producer.produce(self._topic, record.value, record.key)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].fatal():
                raise Fatal(f"the Kafka producer failed: {_why(error)}") from error
            self._fail(_why(error))
        return True

    def poll(self, seconds: float) -> None:
        """Take delivery reports for up to `seconds`."""
        self._producer.poll(seconds)

    def queued(self) -> int:
        """Messages that wait for the broker."""
        return len(self._producer)

    def abandon(self) -> None:
        """Drop what is still in the queue; every message of it counts as failed."""
        self._producer.purge()
        self._producer.flush(_CONNECT_S)

    def _delivered(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._fail(error.str())

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or why


def _why(error: KafkaException) -> str:
    cause = error.args[0]
    return str(cause.str()) if isinstance(cause, KafkaError) else str(cause)


class Feeder:
    """The loop: takes records, sends them, reports progress, and ends when told to.

    It is the `Pacer` of its own streams, because waiting is when delivery reports are taken.
    """

    def __init__(self, publisher: SwapProducer, progress: FeedProgress) -> None:
        self._publisher = publisher
        self._progress = progress
        self._stopping = False

    def stop(self) -> None:
        """End after the present record. May be called from a signal handler."""
        self._stopping = True

    def now(self) -> float:
        """Seconds on the machine's steady clock."""
        return time.monotonic()

    def until(self, instant: float) -> bool:
        """Wait for `instant`, serving the producer meanwhile; False when told to stop."""
        while not self._stopping and (left := instant - self.now()) > _LEAST_WAIT_S:
            self._publisher.poll(min(left, _POLL_S))
            self._progress.tick()
        return not self._stopping

    def settle(self) -> None:
        """Wait until the broker has taken, or refused, all that was sent; or until told to stop."""
        while not self._stopping and self._publisher.queued():
            self._publisher.poll(_POLL_S)
            self._progress.tick()

    def run(self, records: Iterable[Record]) -> None:
        """Send everything, or until told to stop; ends with the local queue empty, also where the
        records end in an error.

        What the broker has not taken within 30 s of the last record is given up as failed.
        """
        try:
            for record in records:
                if self._stopping or not self._send(record):
                    break
                self._progress.events += 1
                self._progress.repeats += record.repeat
                self._progress.unreadable += record.key is None
                self._progress.tick()
        finally:
            self._drain()

    def _send(self, record: Record) -> bool:
        while not self._publisher.send(record):
            if self._stopping:
                return False
            self._publisher.poll(_POLL_S)
            self._progress.tick()
        return True

    def _drain(self) -> None:
        deadline = self.now() + _FLUSH_S
        while self._publisher.queued() and self.now() < deadline:
            self._publisher.poll(_POLL_S)
            self._progress.tick()
        if self._publisher.queued():
            self._publisher.abandon()
