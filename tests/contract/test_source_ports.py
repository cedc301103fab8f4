"""Both adapters of a source's ports, in memory and on Kafka, keep the promises of the ports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition

from aggregator.member.topics import ensure_sources_topic, ensure_topics
from aggregator.producing.publisher import SwapPublisher
from aggregator.runtime.config import load
from aggregator.runtime.errors import Fenced
from infra.embedded.stack import Stack
from sources.events import Outgoing
from sources.kafka import KafkaJournal, KafkaRetries, KafkaSink
from sources.ports import SourceJournal, SourceSink
from tests.fakes.sources import MemoryBroker, MemoryJournal, MemorySink


class SourceWorld(Protocol):
    """A broker that sources use."""

    def journal(self, source: str) -> SourceJournal: ...

    def sink(self) -> SourceSink: ...

    def sent(self, count: int) -> list[Outgoing]:
        """Return the first `count` records of the swap topic, by partition."""

    async def close(self) -> None: ...


class SourcesInMemory:
    """`SourceWorld` in memory."""

    def __init__(self) -> None:
        self._broker = MemoryBroker()

    def journal(self, source: str) -> SourceJournal:
        return MemoryJournal(source, self._broker)

    def sink(self) -> SourceSink:
        return MemorySink(self._broker)

    def sent(self, count: int) -> list[Outgoing]:
        return self._broker.records[:count]

    async def close(self) -> None:
        pass


class SourcesOnKafka:
    """`SourceWorld` on the embedded broker, with topics of its own."""

    def __init__(self, env: dict[str, str]) -> None:
        name = f"ports-{uuid4().hex[:8]}"
        topics = {"KAFKA_TOPIC": name, "KAFKA_DLQ_TOPIC": f"{name}.dlq"}
        self._config = load(env | topics | {"KAFKA_SOURCES_TOPIC": f"{name}.sources"})
        ensure_topics(self._config)
        assert ensure_sources_topic(self._config) == [f"{name}.sources"]
        assert ensure_sources_topic(self._config) == []
        self._name = name
        self._publisher = SwapPublisher(self._config)
        self._journals: list[KafkaJournal] = []

    def journal(self, source: str) -> SourceJournal:
        # The broker is shared, and so are its groups.
        made = KafkaJournal(self._config, f"{self._name}-{source}")
        self._journals.append(made)
        return made

    def sink(self) -> SourceSink:
        async def confirm() -> None:
            pass

        return KafkaSink(self._publisher, confirm, KafkaRetries(lambda _: None))

    def sent(self, count: int) -> list[Outgoing]:
        consumer = Consumer(
            {"bootstrap.servers": self._config.kafka_bootstrap, "group.id": self._name}
        )
        found: list[Outgoing] = []
        try:
            partitions = range(self._config.kafka_partitions)
            consumer.assign([TopicPartition(self._name, each, 0) for each in partitions])
            while len(found) < count:
                for message in consumer.consume(count - len(found), 20):
                    assert message.error() is None
                    found.append(Outgoing(message.key() or b"", message.value() or b""))
        finally:
            consumer.close()
        return found

    async def close(self) -> None:
        await self._publisher.close()
        for journal in self._journals:
            await journal.close()


@pytest.fixture(params=["memory", pytest.param("kafka", marks=pytest.mark.engines)])
async def world(request: pytest.FixtureRequest) -> AsyncIterator[SourceWorld]:
    made: SourceWorld
    if request.param == "memory":
        made = SourcesInMemory()
    else:
        stack: Stack = request.getfixturevalue("stack")
        made = SourcesOnKafka(stack.env())
    yield made
    await made.close()


async def test_the_next_owner_reads_what_the_last_one_wrote(world: SourceWorld) -> None:
    first, other = world.journal("eth"), world.journal("eth2")
    assert await first.own() == {}
    assert await other.own() == {}
    await first.write({"block:1": b'{"a":1}', "block:2": b"2", "gone": b"3"})
    await other.write({"block:1": b"other"})
    await first.write({"block:1": b'{"a":4}', "gone": None, "never": None})
    await first.write({})
    await first.close()
    next_one = world.journal("eth")
    assert await next_one.own() == {"block:1": b'{"a":4}', "block:2": b"2"}


async def test_another_process_stands_by_until_the_owner_leaves(world: SourceWorld) -> None:
    owner, standby = world.journal("eth"), world.journal("eth")
    await owner.own()
    waiting = asyncio.create_task(standby.own())
    for turn in range(3):
        # Long enough for the group to take the second member in.
        await asyncio.wait({waiting}, timeout=0.4)
        await owner.write({"turn": b"%d" % turn})
    assert not waiting.done()
    await owner.close()
    assert await asyncio.wait_for(waiting, 30) == {"turn": b"2"}
    with pytest.raises(Fenced):
        await owner.write({"turn": b"too late"})
    await standby.write({"turn": b"3"})
    await standby.close()
    assert await world.journal("eth").own() == {"turn": b"3"}


async def test_a_sink_sends_all_records_in_order(world: SourceWorld) -> None:
    sink = world.sink()
    records = [Outgoing(b"chain:token", b'{"n":%d}' % n) for n in range(1_200)]
    await sink.send([])
    await sink.send(records[:1_000])
    await sink.send(records[1_000:])
    assert await asyncio.to_thread(world.sent, 1_200) == records
