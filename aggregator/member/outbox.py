"""What a member sends to Kafka: dead letters, and records that belong on another partition.

Nothing here waits. The caller saves and commits a position only if nothing below it is outstanding
(`lowest`), so a crash sends again whatever the broker did not acknowledge.

Forwards must reach their home in the order of the log they come from, without a hole: the home
drops a forward that is not above the highest origin offset it has seen, so an earlier record that
arrives after a later one is lost. Hence one idempotent producer that stops at the first record it
cannot deliver, instead of going on with the next. It is then replaced, and everything that is not
acknowledged is sent again in order, from the first. What arrives twice is dropped at home.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException

from aggregator.contracts.records import LogRecord, origin_header
from aggregator.dead_letters.producer import (
    TOO_LARGE,
    DeadLetters,
    NewProducer,
    ProducerPort,
    Rejected,
    abandon,
    new_producer,
)
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import BadMessage, Retry

log = structlog.get_logger(__name__)

MOST_OUTSTANDING: Final = 20_000
"""Outstanding records of a partition above which `has_room` is False."""
MOST_BYTES: Final = 16_000_000
"""Outstanding bytes of a partition above which `has_room` is False."""
SLOW_S: Final = 10.0
"""A forward that is not acknowledged for longer is a fault."""
_OVERHEAD_BYTES: Final = 500
_LARGEST_BYTES: Final = 100_000_000
_FLUSH_POLL_S: Final = 0.01


class _Outgoing:
    def __init__(self, record: LogRecord, home: int, given_at: float) -> None:
        self.record = record
        self.home = home
        self.given_at = given_at
        self.size = len(record.value or b"") + len(record.key or b"") + _OVERHEAD_BYTES
        self.done = False


class Forwards:
    """Sends records to their homes in the order of their log. Use it from one thread.

    `refuse` receives a record that the topic refuses for its size, with the broker's answer. Such a
    record is not outstanding here any more, and needs no place in the order.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        refuse: Callable[[LogRecord, str], None],
        *,
        producers: NewProducer = new_producer,
        now_ms: Callable[[], int] = wall_ms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = topic
        self._refuse = refuse
        self._producers = producers
        self._now_ms = now_ms
        self._clock = clock
        self._settings: dict[str, Any] = {
            "bootstrap.servers": bootstrap,
            "acks": "all",
            "enable.idempotence": True,
            "enable.gapless.guarantee": True,
            # A record that times out would be skipped in spite of the guarantee: never give up.
            "message.timeout.ms": 0,
            "message.max.bytes": _LARGEST_BYTES,
            # A record that its producer had compressed may be above the topic's limit without.
            "compression.type": "lz4",
            "log_level": 0,
        }
        self._producer: ProducerPort | None = None
        self._generation = 0
        # Outstanding forwards by source partition and offset, in the order of the log.
        self._outstanding: dict[int, dict[int, _Outgoing]] = {}
        self._bytes: Counter[int] = Counter()
        self._unsent: deque[_Outgoing] = deque()
        self._backoff = Backoff(0.1, 5.0, clock=clock)
        self._broken = ""
        # Records that this producer was refused for the size of their batch.
        self._refused: list[_Outgoing] = []
        # While set, each batch holds one record, until this one was sent: then the broker's answer
        # says which record is too large.
        self._alone_until: _Outgoing | None = None
        self._in_flight = 0

    def send(self, records: Sequence[LogRecord], homes: Sequence[int]) -> None:
        """Give records to the client. Those of a source partition must come in log order."""
        now = self._clock()
        for record, home in zip(records, homes, strict=True):
            outstanding = self._outstanding.setdefault(record.partition, {})
            if record.offset not in outstanding:
                outgoing = outstanding[record.offset] = _Outgoing(record, home, now)
                self._bytes[record.partition] += outgoing.size
                self._unsent.append(outgoing)
        self._send_unsent()

    def poll(self) -> None:
        """Take the broker's answers, and start over after a failure when it is due. Never waits."""
        self._serve()
        # A refusal for its size is no failure of the broker: there is nothing to wait for.
        if self._broken and (self._refused or not self._backoff.left_s):
            self._start_over()
        self._send_unsent()

    @property
    def fault(self) -> str:
        """Say why records do not reach their homes; "" while they do."""
        if self._broken:
            return self._broken
        oldest = min(
            (next(iter(each.values())) for each in self._outstanding.values() if each),
            key=lambda each: each.given_at,
            default=None,
        )
        if oldest is None or (waited_s := self._clock() - oldest.given_at) < SLOW_S:
            return ""
        return (
            f"a record of partition {oldest.record.partition} for partition {oldest.home} is not "
            f"acknowledged for {waited_s:.0f} s"
        )

    def lowest(self, partition: int) -> int | None:
        """Return the lowest offset of a source partition that is outstanding."""
        return next(iter(self._outstanding.get(partition, ())), None)

    def outstanding(self, partition: int) -> int:
        """Return how many records of a source partition are outstanding."""
        return len(self._outstanding.get(partition, ()))

    def outstanding_bytes(self, partition: int) -> int:
        """Return how many bytes the outstanding records of a source partition hold."""
        return self._bytes[partition]

    def drop(self, partition: int) -> None:
        """Forget a source partition; its next owner forwards from the committed offset on.

        What the client holds may still be sent. It is in order, and dropped at home if it is late.
        """
        self._bytes.pop(partition, None)
        for outgoing in self._outstanding.pop(partition, {}).values():
            outgoing.done = True

    def close(self) -> None:
        """Drop what is outstanding and end the connections."""
        for partition in list(self._outstanding):
            self.drop(partition)
        self._unsent.clear()
        self._dispose()

    def _serve(self) -> None:
        if self._producer is None:
            return
        try:
            self._producer.poll(0.0)
        except KafkaException as error:
            self._break(error.args[0])

    def _send_unsent(self) -> None:
        if self._broken or (self._alone_is_over() and not self._leave_alone()):
            return
        while self._unsent:
            outgoing = self._unsent[0]
            if not outgoing.done and not self._produce(outgoing):
                return
            self._unsent.popleft()

    def _alone_is_over(self) -> bool:
        return self._alone_until is not None and self._alone_until.done

    def _leave_alone(self) -> bool:
        """Return to batches of many records, with another producer once this one is idle."""
        if self._in_flight:
            return False
        self._alone_until = None
        self._dispose()
        return True

    def _produce(self, outgoing: _Outgoing) -> bool:
        """Give one record to the client; False where nothing may follow it now."""
        producer, generation = self._connected(), self._generation

        def on_delivery(error: KafkaError | None, _message: object) -> None:
            # The answers of a producer that was replaced say nothing of the current one.
            if generation == self._generation:
                self._in_flight -= 1
                if error is None:
                    self._note_acknowledged(outgoing)
                else:
                    self._note_failed(outgoing, error)

        record = outgoing.record
        try:
            producer.produce(
                self._topic,
                record.value,
                record.key,
                outgoing.home,
                on_delivery=on_delivery,
                # Keep the stamps of the home's log in order, as far as its records are.
                timestamp=max(record.timestamp, self._now_ms()),
                headers=[*record.headers, origin_header(record)],
            )
        except BufferError:
            return False
        except KafkaException as error:
            fault = error.args[0]
            if fault.code() in TOO_LARGE:
                # Not even the client takes it, so it is not part of the series that must be whole.
                self._give_up(outgoing, fault.str())
                return True
            self._break(fault)
            return False
        self._in_flight += 1
        return True

    def _connected(self) -> ProducerPort:
        if self._producer is None:
            single = {"batch.num.messages": 1} if self._alone_until is not None else {}
            self._producer = self._producers(self._settings | single)
        return self._producer

    def _note_acknowledged(self, outgoing: _Outgoing) -> None:
        self._backoff.reset()
        self._remove(outgoing)

    def _note_failed(self, outgoing: _Outgoing, error: KafkaError) -> None:
        if error.code() in TOO_LARGE and not outgoing.done:
            self._refused.append(outgoing)
        self._break(error)

    def _break(self, error: KafkaError) -> None:
        """Stop sending after the first failure; `poll` starts over after a pause.

        Until then the producer is still polled: its answers say which record was refused.
        """
        if not self._broken:
            self._broken = error.str()
            self._backoff.start()
            log.warning("forwards_fail", error=self._broken)

    def _start_over(self) -> None:
        self._dispose()
        self._broken = ""
        if self._refused:
            self._backoff.reset()
        if self._refused and self._alone_until is not None:
            for outgoing in self._refused:
                self._give_up(outgoing, f"the topic {self._topic} refuses it for its size")
        left = [each for found in self._outstanding.values() for each in found.values()]
        self._unsent = deque(left)
        if self._refused and left:
            # Batches of many are refused for what they are together.
            self._alone_until = left[-1]
        self._refused = []

    def _give_up(self, outgoing: _Outgoing, why: str) -> None:
        if not outgoing.done:
            self._remove(outgoing)
            self._refuse(outgoing.record, why)

    def _remove(self, outgoing: _Outgoing) -> None:
        if not outgoing.done:
            outgoing.done = True
            source = outgoing.record.partition
            del self._outstanding[source][outgoing.record.offset]
            self._bytes[source] -= outgoing.size

    def _dispose(self) -> None:
        producer, self._producer = self._producer, None
        self._generation += 1
        self._in_flight = 0
        if producer is not None:
            # What is in flight may still arrive, in order and without a hole.
            abandon(producer)


class Outbox:
    """The dead letters and forwards of all partitions of a process. Use it from one thread."""

    def __init__(
        self,
        config: Config,
        *,
        producers: NewProducer = new_producer,
        now_ms: Callable[[], int] = wall_ms,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._topic = config.kafka_topic
        self._clock = clock
        bootstrap = config.kafka_bootstrap
        self._letters = DeadLetters(
            bootstrap, config.kafka_dlq_topic, producers=producers, clock=clock
        )
        self._forwards = Forwards(
            bootstrap,
            config.kafka_topic,
            self._refuse,
            producers=producers,
            now_ms=now_ms,
            clock=clock,
        )

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """Send records to the dead-letter topic."""
        self._letters.send(rejected)

    def forward(self, records: Sequence[LogRecord], homes: Sequence[int]) -> None:
        """Send each record to the partition in `homes`; those of a partition come in log order.

        The record that is written has the same key, value and headers, a header `origin`, and a
        timestamp of now or its own if that is later. One that the topic refuses for its size
        becomes a dead letter with the reason `too_large`.
        """
        self._forwards.send(records, homes)

    def poll(self) -> None:
        """Take the broker's answers, and send again what is due; call it every round."""
        self._letters.poll()
        self._forwards.poll()

    def lowest(self, partition: int) -> int | None:
        """Return the lowest source offset that is outstanding; None where none is.

        A position at or below it may be saved and committed.
        """
        found = self._letters.lowest(partition), self._forwards.lowest(partition)
        return min((each for each in found if each is not None), default=None)

    def outstanding(self, partition: int) -> int:
        """Return how many records of a source partition are outstanding."""
        return self._letters.outstanding(partition) + self._forwards.outstanding(partition)

    def outstanding_bytes(self, partition: int) -> int:
        """Return how many bytes the outstanding records of a source partition hold."""
        sizes = self._letters.outstanding_bytes, self._forwards.outstanding_bytes
        return sum(size(partition) for size in sizes)

    def has_room(self, partition: int) -> bool:
        """Return whether the partition may add more; a sink that has no room is not ready."""
        return (
            self.outstanding(partition) < MOST_OUTSTANDING
            and self.outstanding_bytes(partition) < MOST_BYTES
        )

    @property
    def fault(self) -> str:
        """Say why the broker does not take what is outstanding; "" while it does."""
        found = {"dead letters": self._letters.fault, "forwards": self._forwards.fault}
        return "; ".join(f"{what}: {why}" for what, why in found.items() if why)

    def flush(self, partition: int, timeout_s: float) -> None:
        """Wait until nothing of a partition is outstanding, for draining it.

        Raises Retry where that takes longer than `timeout_s`.
        """
        deadline = self._clock() + timeout_s
        self.poll()
        while (lowest := self.lowest(partition)) is not None:
            if self._clock() >= deadline:
                raise Retry(f"kafka: offset {lowest} is not acknowledged: {self.fault or 'slow'}")
            time.sleep(_FLUSH_POLL_S)
            self.poll()

    def drop(self, partition: int) -> None:
        """Forget a partition that was released; its next owner sends the same again."""
        self._letters.drop(partition)
        self._forwards.drop(partition)

    def close(self) -> None:
        """Drop what is outstanding and end the connections."""
        self._letters.close()
        self._forwards.close()

    def _refuse(self, record: LogRecord, why: str) -> None:
        detail = f"a forward adds a header to the record, and {why}"
        self._letters.send([Rejected(self._topic, record, BadMessage("too_large", "", detail))])
