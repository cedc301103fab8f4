"""The asyncio publisher on a real broker: where records go, and that it is warm after `start`."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, TopicPartition

from aggregator.contracts.homes import Homes
from aggregator.member.topics import ensure_topics
from aggregator.producing.publisher import SwapPublisher
from aggregator.runtime.config import Config, load
from infra.embedded.stack import Stack

PARTITIONS = 5
TOKENS = [f"ethereum:0x{number:040x}" for number in range(40)]


def read(config: Config, count: int) -> dict[int, list[str]]:
    """Return the keys of `count` records by partition."""
    consumer = Consumer({"bootstrap.servers": config.kafka_bootstrap, "group.id": "reader"})
    found = defaultdict[int, list[str]](list)
    try:
        consumer.assign([TopicPartition(config.kafka_topic, each, 0) for each in range(PARTITIONS)])
        while sum(map(len, found.values())) < count:
            for message in consumer.consume(count, 20):
                assert message.error() is None
                found[message.partition() or 0].append((message.key() or b"").decode())
    finally:
        consumer.close()
    return found


@pytest.mark.parametrize("partitioner", ["murmur2", "crc32", "fnv1a"])
async def test_every_record_goes_to_the_home_of_its_token(stack: Stack, partitioner: str) -> None:
    topic = f"home-{uuid4().hex[:8]}"
    names = {"KAFKA_TOPIC": topic, "KAFKA_DLQ_TOPIC": f"{topic}.dlq"}
    settings = {"KAFKA_PARTITIONS": str(PARTITIONS), "KAFKA_PARTITIONER": partitioner}
    config = load(stack.env() | names | settings)
    ensure_topics(config)
    publisher = SwapPublisher(config)
    try:
        await publisher.start()
        assert (await publisher.publish([(each.encode(), b"{}") for each in TOKENS])).complete
    finally:
        await publisher.close()
    homes = Homes(partitioner, PARTITIONS)
    wanted = {
        partition: [each for each in TOKENS if homes.of(each) == partition]
        for partition in range(PARTITIONS)
    }
    assert await asyncio.to_thread(read, config, len(TOKENS)) == wanted


async def test_a_record_that_is_too_large_fails_alone(stack: Stack) -> None:
    topic = f"large-{uuid4().hex[:8]}"
    config = load(stack.env() | {"KAFKA_TOPIC": topic, "KAFKA_DLQ_TOPIC": f"{topic}.dlq"})
    ensure_topics(config)
    publisher = SwapPublisher(config)
    try:
        records = [(b"a:b", b"1"), (b"a:b", b"x" * 2_000_000), (b"a:b", b"2")]
        found = await publisher.publish(records)
        assert (found.acknowledged, found.outstanding) == (2, 0)
        [(place, failure)] = found.failures.items()
        assert (place, failure.refused) == (1, True)
        assert "too large" in failure.reason
    finally:
        await publisher.close()
