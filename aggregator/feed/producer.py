"""Sends a feed to Kafka: an idempotent producer, and the loop that sends records through it.

Records are sent byte for byte, with the time of their event as their timestamp (`record_time`). A
full local queue pauses the loop (backpressure); records that the
broker does not accept are counted. Knows nothing of what the records mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Final

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from aggregator.feed.progress import FeedProgress
from aggregator.feed.stream import Record, record_time
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

_CONNECT_S: Final = 5.0
_POLL_S: Final = 0.1
_FLUSH_S: Final = 30.0
# A shorter pause costs more CPU than it improves the pace.
_LEAST_WAIT_S: Final = 0.002


class SwapProducer:
    """Sends records to the topic of `config`.

    `failed` counts the messages that were not delivered; `first_failure` is the reason of the
    first.
    """

    def __init__(self, config: Config) -> None:
        self._bootstrap = config.kafka_bootstrap
        self._topic = config.kafka_topic
        # Half the retention, so that readers have days to read what is sent now.
        self._kept_ms = config.kafka_retention_ms // 2
        self._producer = Producer(
            {
                "bootstrap.servers": config.kafka_bootstrap,
                # This program reports failures once; the library's log would repeat them.
                "log_level": 0,
                "enable.idempotence": True,
                "acks": "all",
                # The partitioner of Kafka's Java clients, so that other producers agree.
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
        """Return whether the topic exists. Raises Fatal where the broker cannot be reached."""
        try:
            # List all topics: a request for one would create it on a broker with auto-creation.
            return self._topic in self._producer.list_topics(timeout=_CONNECT_S).topics
        except KafkaException as error:
            raise Fatal(
                f"no Kafka broker answers at {self._bootstrap} (KAFKA_BOOTSTRAP): {_why(error)}"
            ) from error

    def send(self, record: Record) -> bool:
        """Put one record into the local queue; return False where the queue is full.

        A record that the producer refuses is counted as failed. Raises Fatal where the producer
        cannot continue.
        """
        timestamp = record_time(record.timestamp, wall_ms(), self._kept_ms)
        try:
            self._producer.produce(self._topic, record.value, record.key, timestamp=timestamp)
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].fatal():
                raise Fatal(f"the Kafka producer failed: {_why(error)}") from error
            self._fail(_why(error))
        return True

    def poll(self, seconds: float) -> None:
        """Process delivery reports for up to `seconds`."""
        self._producer.poll(seconds)

    def queued(self) -> int:
        """Return the number of messages that wait for the broker."""
        return len(self._producer)

    def abandon(self) -> None:
        """Drop the messages that are still queued; each counts as failed."""
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
    """The loop: takes records, sends them, reports progress, and stops on request.

    It is also the `Pacer` of its streams, because it processes delivery reports while it waits.
    """

    def __init__(self, producer: SwapProducer, progress: FeedProgress) -> None:
        self._producer = producer
        self._progress = progress
        self._stopping = False

    def stop(self) -> None:
        """Stop after the current record. May be called from a signal handler."""
        self._stopping = True

    def now(self) -> float:
        """Return the seconds of the monotonic clock."""
        return time.monotonic()

    def until(self, instant: float) -> bool:
        """Wait until `instant` while polling the producer; return False after `stop`."""
        while not self._stopping and (left := instant - self.now()) > _LEAST_WAIT_S:
            self._producer.poll(min(left, _POLL_S))
            self._progress.tick()
        return not self._stopping

    def settle(self) -> None:
        """Wait until the broker has accepted or refused every sent record, or until `stop`."""
        while not self._stopping and self._producer.queued():
            self._producer.poll(_POLL_S)
            self._progress.tick()

    def run(self, records: Iterable[Record]) -> None:
        """Send all records, or until `stop`.

        Returns, or re-raises an error of `records`, with an empty local queue. Records that the
        broker has not accepted within 30 s after the last one count as failed.
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
        while not self._producer.send(record):
            if self._stopping:
                return False
            self._producer.poll(_POLL_S)
            self._progress.tick()
        return True

    def _drain(self) -> None:
        deadline = self.now() + _FLUSH_S
        while self._producer.queued() and self.now() < deadline:
            self._producer.poll(_POLL_S)
            self._progress.tick()
        if self._producer.queued():
            self._producer.abandon()
