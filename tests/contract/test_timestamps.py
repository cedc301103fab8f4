"""Whether a real broker bounds the timestamps of records where `ensure_topics` says so."""

from __future__ import annotations

import time
from uuid import uuid4

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from aggregator.member.topics import AHEAD_MS, STAMPED_BY, check_timestamps, ensure_topics
from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import Fatal
from infra.embedded.stack import Stack

pytestmark = pytest.mark.engines


@pytest.fixture
def config(stack: Stack) -> Config:
    name = f"swaps-{uuid4().hex[:8]}"
    return load(stack.env() | {"KAFKA_TOPIC": name, "KAFKA_DLQ_TOPIC": f"{name}.dlq"})


def make(config: Config, settings: dict[str, str]) -> None:
    admin = AdminClient({"bootstrap.servers": config.kafka_bootstrap})
    for future in admin.create_topics(
        [NewTopic(config.kafka_topic, 1, 1, config=settings)]
    ).values():
        future.result(20)


def send(config: Config, ahead_s: float) -> KafkaError | None:
    """Send a record stamped so far ahead; return the broker's refusal."""
    producer = Producer({"bootstrap.servers": config.kafka_bootstrap})
    answers: list[KafkaError | None] = []
    producer.produce(
        config.kafka_topic,
        b"v",
        timestamp=int((time.time() + ahead_s) * 1_000),
        on_delivery=lambda error, _: answers.append(error),
    )
    assert producer.flush(20) == 0
    return answers[0]


def test_records_far_ahead_are_refused_by_a_topic_made_here(config: Config) -> None:
    ensure_topics(config)
    assert check_timestamps(config) is None
    assert send(config, 0) is None
    refusal = send(config, config.max_future_ms / 1_000 + 60)
    assert refusal is not None
    assert refusal.code() == KafkaError.INVALID_TIMESTAMP


def test_a_broker_of_today_bounds_every_topic(config: Config) -> None:
    make(config, {})
    ensure_topics(config)
    refusal = send(config, 2 * 3_600)
    assert refusal is not None
    assert refusal.code() == KafkaError.INVALID_TIMESTAMP


def test_a_topic_that_accepts_any_time_is_refused(config: Config) -> None:
    make(config, {AHEAD_MS: str(2**63 - 1)})
    assert send(config, 365 * 86_400) is None
    with pytest.raises(Fatal, match="stamped any time ahead"):
        ensure_topics(config)
    assert "kafka-configs" in (check_timestamps(config) or "")


def test_a_topic_that_the_broker_stamps_needs_no_bound(config: Config) -> None:
    make(config, {AHEAD_MS: str(2**63 - 1), STAMPED_BY: "LogAppendTime"})
    ensure_topics(config)
    assert check_timestamps(config) is None
