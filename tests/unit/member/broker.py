"""A broker and its producers as the senders of `aggregator` use them; a test decides what fails.

A producer works when it is polled. It appends batches in order, per partition, and stops for good
at the first one that it cannot deliver where it was asked for no gaps.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from aggregator.contracts.records import Header

Place = tuple[str, int]


@dataclass
class Message:
    """A message as it stands in the log."""

    value: bytes | None
    key: bytes | None
    timestamp: int
    headers: dict[str, Any]
    names: list[str]
    on_delivery: Callable[[KafkaError | None, Any], None]

    @property
    def size(self) -> int:
        return len(self.value or b"") + 100


class Broker:
    """The logs, and how the broker behaves now.

    `most_bytes` is the topics' max.message.bytes. Of `trouble`, a share of batches: "lose" has the
    answer lost, after which the client asks again; "fail" refuses the batch; "hold" does nothing.
    """

    def __init__(self, seed: int = 0) -> None:
        self.random = Random(seed)
        self.logs: defaultdict[Place, list[Message]] = defaultdict(list)
        self.most_bytes = 10_000
        self.trouble: dict[str, float] = {}
        self.late: list[tuple[Place, list[Message]]] = []
        self.producers: list[FakeProducer] = []

    def producer(self, settings: Mapping[str, Any]) -> FakeProducer:
        self.producers.append(FakeProducer(self, settings))
        return self.producers[-1]

    def meets(self, what: str) -> bool:
        return self.random.random() < self.trouble.get(what, 0.0)

    def arrive(self) -> None:
        """Append a batch of a producer that is gone."""
        if self.late:
            place, batch = self.late.pop(0)
            self.logs[place] += batch

    def values(self, topic: str, partition: int = -1) -> list[bytes | None]:
        return [each.value for each in self.logs[topic, partition]]


class FakeProducer:
    """See `ProducerPort`."""

    def __init__(self, broker: Broker, settings: Mapping[str, Any]) -> None:
        self.settings = settings
        self.queue_limit = 10**9
        self.purged = False
        self._broker = broker
        self._queues: defaultdict[Place, list[Message]] = defaultdict(list)
        self._appended: defaultdict[Place, int] = defaultdict(int)
        self._batch = int(settings.get("batch.num.messages", 50))
        self._gapless = bool(settings.get("enable.gapless.guarantee"))
        self._dead = False
        self._failed: set[Place] = set()

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
        if self._dead:
            raise KafkaException(KafkaError(KafkaError._FATAL, "dead", True))
        if len(value or b"") > self.settings["message.max.bytes"]:
            raise KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        if sum(map(len, self._queues.values())) >= self.queue_limit:
            raise BufferError("queue full")
        names = [name for name, _ in headers]
        message = Message(value, key, timestamp, dict(headers), names, on_delivery)
        self._queues[topic, partition].append(message)

    def poll(self, timeout: float) -> int:
        if self._dead:
            return 0
        for place in sorted(self._queues):
            while self._queues[place] and not self._broker.meets("hold"):
                if self._send(place):
                    raise KafkaException(KafkaError(KafkaError._GAPLESS_GUARANTEE, "gap", True))
        return 0

    def _send(self, place: Place) -> bool:
        """Send a batch; return whether the producer is dead then."""
        queue, broker = self._queues[place], self._broker
        appended = self._appended[place]
        count = appended or min(len(queue), broker.random.randint(1, self._batch))
        batch = queue[:count]
        if not appended:
            if (fault := self._fault(batch)) is not None:
                self._failed.add(place)
                self._dead = self._gapless
                del queue[:count]
                for each in batch:
                    each.on_delivery(KafkaError(fault), None)
                return self._dead
            broker.logs[place] += batch
            if broker.meets("lose"):
                self._appended[place] = count
                return False
        del queue[:count]
        self._appended[place] = 0
        for each in batch:
            each.on_delivery(None, None)
        return False

    def _fault(self, batch: list[Message]) -> int | None:
        if sum(each.size for each in batch) > self._broker.most_bytes:
            return KafkaError.MSG_SIZE_TOO_LARGE
        if self._broker.meets("fail"):
            return KafkaError.INVALID_TIMESTAMP if self._gapless else KafkaError._MSG_TIMED_OUT
        return None

    def purge(self) -> None:
        """Drop all; what was in flight may arrive later, in order, unless one before it failed."""
        self.purged = True
        self._dead = True
        for place, queue in self._queues.items():
            unsent = queue[self._appended[place] :]
            if place not in self._failed and unsent and self._broker.random.random() < 0.5:
                flying = unsent[: self._broker.random.randint(1, len(unsent))]
                if sum(each.size for each in flying) <= self._broker.most_bytes:
                    self._broker.late.append((place, flying))
            for each in queue:
                each.on_delivery(KafkaError(KafkaError._PURGE_INFLIGHT), None)
            queue.clear()
