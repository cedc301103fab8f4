"""A token's home is the partition that a producer with the same partitioner writes to."""

from __future__ import annotations

from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, Message, Producer

from aggregator.contracts.homes import Homes
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from infra.embedded.stack import Stack

PARTITIONS = 7
TOKEN_IDS = [
    *("ethereum:0x", "a:b", "sui:0x2::sui::SUI", "cosmos:ibc/27", "ton:\u5e01", "c:" + "t" * 256),
    *(f"ethereum:0x{number:040x}" for number in range(200)),
    *(f"binance:{'x' * length}" for length in range(1, 60)),
]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("murmur2", "murmur2"),
        ("murmur2", "murmur2_random"),
        ("crc32", "consistent"),
        ("crc32", "consistent_random"),
        ("fnv1a", "fnv1a"),
        ("fnv1a", "fnv1a_random"),
    ],
)
def test_the_home_of_a_token_is_where_a_producer_writes_it(
    stack: Stack, ours: str, theirs: str
) -> None:
    topic = f"swaps-{uuid4().hex[:8]}"
    config = load(stack.env() | {"KAFKA_TOPIC": topic, "KAFKA_PARTITIONS": str(PARTITIONS)})
    ensure_topics(config)
    written: dict[str, int] = {}

    def delivered(error: KafkaError | None, message: Message) -> None:
        assert error is None
        key, partition = message.key(), message.partition()
        assert isinstance(key, bytes)
        assert partition is not None
        written[key.decode()] = partition

    producer = Producer({"bootstrap.servers": config.kafka_bootstrap, "partitioner": theirs})
    for token_id in TOKEN_IDS:
        producer.produce(topic, b"{}", token_id.encode(), on_delivery=delivered)
    assert producer.flush(30) == 0
    homes = Homes(ours, PARTITIONS)
    assert written == {token_id: homes.of(token_id) for token_id in TOKEN_IDS}
    assert set(written.values()) == set(range(PARTITIONS))
