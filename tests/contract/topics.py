"""A topic to test logs on, in memory or on the embedded Kafka."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol
from uuid import uuid4

from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from aggregator.contracts.records import Header
from aggregator.member.kafka import KafkaLog
from aggregator.member.log import Log
from aggregator.member.memory import MemoryLog, MemoryTopic
from aggregator.runtime.config import Config, load
from tests.support.processes import wait_until

PARTITIONS = 2


class Topic(Protocol):
    """A topic of PARTITIONS partitions."""

    def new_log(self, group: str = "g", instance_id: str = "") -> Log: ...

    def append(
        self,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Sequence[Header] = (),
    ) -> int: ...

    def transact(self, partition: int, value: bytes) -> None:
        """Append a record in a transaction, which leaves an offset without a record after it."""

    def trim(self, partition: int, start: int) -> None: ...

    def make_again(self) -> None: ...

    def close(self) -> None: ...


class InMemory:
    """`Topic` in memory."""

    def __init__(self) -> None:
        self._topic = MemoryTopic(PARTITIONS)
        self.append = self._topic.append
        self.trim = self._topic.trim
        self.make_again = self._topic.make_again

    def new_log(self, group: str = "g", instance_id: str = "") -> Log:
        return MemoryLog(self._topic, group, instance_id=instance_id)

    def transact(self, partition: int, value: bytes) -> None:
        self._topic.append(partition, value)
        self._topic.skip(partition)

    def close(self) -> None:
        pass


class OnKafka:
    """`Topic` on a broker."""

    def __init__(self, env: dict[str, str]) -> None:
        name = f"swaps-{uuid4().hex[:8]}"
        self._config: Config = load(env | {"KAFKA_TOPIC": name})
        self._admin = AdminClient({"bootstrap.servers": self._config.kafka_bootstrap})
        self._producer = Producer({"bootstrap.servers": self._config.kafka_bootstrap})
        self._logs: list[KafkaLog] = []
        self._make()

    def _make(self) -> None:
        name = self._config.kafka_topic
        for future in self._admin.create_topics([NewTopic(name, PARTITIONS, 1)]).values():
            future.result(20)
        wait_until(
            lambda: len(self._admin.list_topics(name, timeout=5).topics[name].partitions) > 0,
            30,
            "the topic",
        )

    def new_log(self, group: str = "g", instance_id: str = "") -> Log:
        log = KafkaLog(
            replace(self._config, kafka_instance_id=instance_id),
            group=f"{group}-{self._config.kafka_topic}",
        )
        self._logs.append(log)
        return log

    def append(
        self,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Sequence[Header] = (),
    ) -> int:
        return self._produce(self._producer, partition, value, key, timestamp, headers)

    def _produce(
        self,
        producer: Producer,
        partition: int,
        value: bytes | None,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Sequence[Header] = (),
    ) -> int:
        offsets: list[int | None] = []
        given = {} if timestamp is None else {"timestamp": timestamp}
        producer.produce(
            self._config.kafka_topic,
            value,
            key,
            partition,
            headers=list(headers),
            on_delivery=lambda error, message: offsets.append(None if error else message.offset()),
            **given,
        )
        assert producer.flush(20) == 0
        [offset] = offsets
        assert offset is not None
        return offset

    def transact(self, partition: int, value: bytes) -> None:
        producer = Producer(
            {
                "bootstrap.servers": self._config.kafka_bootstrap,
                "transactional.id": uuid4().hex,
            }
        )
        producer.init_transactions(20)
        producer.begin_transaction()
        self._produce(producer, partition, value)
        producer.commit_transaction(20)

    def trim(self, partition: int, start: int) -> None:
        place = TopicPartition(self._config.kafka_topic, partition, start)
        for future in self._admin.delete_records([place]).values():
            future.result(20)

    def make_again(self) -> None:
        for future in self._admin.delete_topics([self._config.kafka_topic]).values():
            future.result(20)
        wait_until(
            lambda: self._config.kafka_topic not in self._admin.list_topics(timeout=5).topics,
            30,
            "the topic to go",
        )
        self._make()

    def close(self) -> None:
        for log in self._logs:
            log.close()
