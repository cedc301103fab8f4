"""Creates the topics at start, as the settings say, instead of leaving it to the broker."""

from __future__ import annotations

from typing import Final

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry

AHEAD_MS: Final = "message.timestamp.after.max.ms"
"""The topic setting that bounds how far a record's timestamp may be ahead of the broker's clock."""
_TIMEOUT_S: Final = 10


def ensure_topics(config: Config) -> list[str]:
    """Create the swap topic and the dead-letter topic where missing; return the created names.

    An existing topic is not changed. The broker is set to refuse swaps whose timestamp is more than
    MAX_FUTURE ahead of its own clock, because the windows take their time from the timestamps of
    the log. Raises Retry while the broker cannot be reached, and Fatal where it refuses.
    """
    admin = AdminClient({"bootstrap.servers": config.kafka_bootstrap, "log_level": 0})
    swaps = {"retention.ms": config.kafka_retention_ms, AHEAD_MS: config.max_future_ms}
    wanted = {
        config.kafka_topic: (config.kafka_partitions, swaps),
        config.kafka_dlq_topic: (1, {"retention.ms": config.kafka_dlq_retention_ms}),
    }
    try:
        existing = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise Retry(f"kafka at {config.kafka_bootstrap}: {error.args[0].str()}") from error
    missing = [
        NewTopic(
            name,
            num_partitions=partitions,
            replication_factor=config.kafka_replication,
            config={setting: str(value) for setting, value in settings.items()},
        )
        for name, (partitions, settings) in wanted.items()
        if name not in existing
    ]
    if not missing:
        return []
    made = []
    for name, future in admin.create_topics(missing, operation_timeout=_TIMEOUT_S).items():
        try:
            future.result(timeout=_TIMEOUT_S)
            made.append(name)
        except KafkaException as error:
            fault = error.args[0]
            if fault.code() == KafkaError.TOPIC_ALREADY_EXISTS:
                continue
            if fault.retriable():
                raise Retry(f"kafka: creating topic {name}: {fault.str()}") from error
            raise Fatal(f"kafka refuses to create topic {name}: {fault.str()}") from error
    return made


def count_partitions(config: Config) -> int:
    """Return the number of partitions of the swap topic.

    Raises Retry, and Fatal where the topic does not exist.
    """
    admin = AdminClient({"bootstrap.servers": config.kafka_bootstrap, "log_level": 0})
    try:
        topics = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise Retry(f"kafka at {config.kafka_bootstrap}: {error.args[0].str()}") from error
    if config.kafka_topic not in topics:
        raise Fatal(f"kafka has no topic {config.kafka_topic}: run manage.py ensure_topology")
    return len(topics[config.kafka_topic].partitions)
