"""Sends records to the swap topic: an idempotent producer with the settings that all senders share.

A record goes to the partition that KAFKA_PARTITIONER makes of its key, which is the home of its
token, so that no aggregator has to forward it. The broker acknowledges it once every in-sync
replica has it, and the client's own retries neither repeat nor reorder records.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from aggregator.contracts.records import Header
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

_CONNECT_S: Final = 5.0
_PARTITIONERS: Final = {
    "murmur2": "murmur2_random",
    "crc32": "consistent_random",
    "fnv1a": "fnv1a_random",
}
"""librdkafka's names of the values of KAFKA_PARTITIONER; a record without a key goes anywhere."""
# Well below the usual max.message.bytes of a topic (1 MB): the broker refuses a whole batch.
_BATCH_BYTES: Final = 500_000
_QUEUED_KB: Final = 65_536
_STATISTICS_MS: Final = 500
_REFUSED: Final = {
    KafkaError.MSG_SIZE_TOO_LARGE,
    KafkaError.RECORD_LIST_TOO_LARGE,
    KafkaError.INVALID_RECORD,
    KafkaError.INVALID_TIMESTAMP,
    KafkaError._BAD_MSG,
}

Delivered = Callable[[KafkaError | None, Message | None], None]
"""Receives the answer to one record: no error where the broker has acknowledged it.

The message is None where the client refused the record before it was sent."""


class Undelivered(NamedTuple):
    """Why a record was not delivered.

    `refused` says that the broker refuses this record as it is (its size, its timestamp), so that
    sending it again is useless.
    """

    reason: str
    refused: bool


def undelivered(error: KafkaError) -> Undelivered:
    """Return what an error of a delivery report means for the record."""
    return Undelivered(error.str(), error.code() in _REFUSED)


def reason_of(error: KafkaException) -> str:
    """Return the client's sentence for an exception that it raised."""
    cause = error.args[0]
    return str(cause.str()) if isinstance(cause, KafkaError) else str(cause)


class _Idempotence(msgspec.Struct):
    idemp_state: str


class _Statistics(msgspec.Struct):
    # github.com/confluentinc/librdkafka, STATISTICS.md
    eos: _Idempotence


class SwapProducer:
    """Sends records to the topic of `config`, for a caller that polls in its own loop.

    `failed` counts the records sent without an `on_delivery` of their own that were not delivered;
    `first_failure` is the reason of the first. `fault` says why no broker can be reached, "" while
    one can.
    """

    def __init__(
        self,
        config: Config,
        *,
        linger_ms: float = 1,
        timeout_ms: int = 120_000,
        compression: str = "lz4",
        errors_only: bool = False,
        on_ready: Callable[[], None] | None = None,
    ) -> None:
        """Make the client; it connects in the background.

        `linger_ms` is how long a record waits for others to share its batch, `timeout_ms` how long
        the client tries to deliver it. With `errors_only`, `on_delivery` is called for failures
        alone, which costs less. `on_ready` is called in a poll, once, when the client has the
        producer id that it needs for the first record; that takes up to a second.
        """
        self._bootstrap = config.kafka_bootstrap
        self._topic = config.kafka_topic
        self.failed = 0
        self.first_failure = ""
        self.fault = ""
        settings: dict[str, Any] = {
            "bootstrap.servers": config.kafka_bootstrap,
            # The caller reports failures; the library's log would repeat them.
            "log_level": 0,
            "enable.idempotence": True,
            "acks": "all",
            "partitioner": _PARTITIONERS[config.kafka_partitioner],
            "compression.type": compression,
            "linger.ms": linger_ms,
            "batch.size": _BATCH_BYTES,
            "queue.buffering.max.kbytes": _QUEUED_KB,
            "message.timeout.ms": timeout_ms,
            "reconnect.backoff.max.ms": 1_000,
            "delivery.report.only.error": errors_only,
            "on_delivery": self._delivered,
            "error_cb": self._on_error,
        }
        self._on_ready = on_ready
        if on_ready is not None:
            settings |= {"statistics.interval.ms": _STATISTICS_MS, "stats_cb": self._on_statistics}
        self._producer = Producer(settings)

    def topic_exists(self) -> bool:
        """Return whether the topic exists. Raises Fatal where the broker cannot be reached."""
        try:
            # List all topics: a request for one would create it on a broker with auto-creation.
            return self._topic in self._producer.list_topics(timeout=_CONNECT_S).topics
        except KafkaException as error:
            raise Fatal(
                f"no Kafka broker answers at {self._bootstrap} (KAFKA_BOOTSTRAP): "
                f"{reason_of(error)}"
            ) from error

    def send(
        self,
        key: bytes | None,
        value: bytes,
        *,
        timestamp_ms: int = 0,
        headers: Sequence[Header] = (),
        on_delivery: Delivered | None = None,
    ) -> bool:
        """Put one record into the local queue; return False where the queue is full.

        The timestamp is the time of sending where `timestamp_ms` is 0. A record that the client
        refuses is reported like one that the broker refuses. Raises Fatal where the client can send
        nothing any more.
        """
        try:
            self._producer.produce(
                self._topic,
                value,
                key,
                timestamp=timestamp_ms,
                headers=list(headers) if headers else None,
                on_delivery=on_delivery,
            )
        except BufferError:
            return False
        except KafkaException as error:
            if error.args[0].fatal():
                raise Fatal(f"the Kafka producer failed: {reason_of(error)}") from error
            if on_delivery is None:
                self._fail(reason_of(error))
            else:
                on_delivery(error.args[0], None)
        return True

    def poll(self, seconds: float) -> None:
        """Process delivery reports for up to `seconds`; return after the first ones."""
        self._producer.poll(seconds)

    def queued(self) -> int:
        """Return the number of records that wait for the broker."""
        return len(self._producer)

    def flush(self, seconds: float) -> None:
        """Send what is queued and process its reports for up to `seconds`."""
        self._producer.flush(seconds)

    def abandon(self) -> None:
        """Drop the records that are still queued; each is reported as not delivered."""
        self._producer.purge()
        self._producer.flush(_CONNECT_S)

    def note_reached(self) -> None:
        """Note that a broker answered."""
        self.fault = ""

    def _delivered(self, error: KafkaError | None, _message: Message | None) -> None:
        if error is not None:
            self._fail(error.str())

    def _fail(self, why: str) -> None:
        self.failed += 1
        self.first_failure = self.first_failure or why

    def _on_statistics(self, text: str) -> None:
        if self._on_ready is None:
            return
        if msgspec.json.decode(text, type=_Statistics).eos.idemp_state == "Assigned":
            self._on_ready()
            self._on_ready = None

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.fault = error.str()
