"""Creates the topics at start, as the settings say, and checks how the broker bounds timestamps.

The partitions take their time from the timestamps of the log. One record of a producer whose clock
is a year ahead would make every later swap late, so the broker must refuse such records, or stamp
all records itself. A topic that does neither is refused at start.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import structlog
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    NewTopic,
)

from aggregator.contracts.units import HOUR_MS
from aggregator.runtime.config import Config, duration_text
from aggregator.runtime.errors import Fatal, Retry

AHEAD_MS: Final = "message.timestamp.after.max.ms"
"""The topic setting that bounds how far a record's timestamp may be ahead of the broker's clock.

Brokers know it since Kafka 3.6.
"""
STAMPED_BY: Final = "message.timestamp.type"
"""The topic setting that says who stamps records: CreateTime or LogAppendTime (the broker)."""
MOST_AHEAD_MS: Final = HOUR_MS
"""The widest bound of a topic that is accepted, ms: the default of Kafka 4."""
JOURNAL_BYTES: Final = 10_000_000
"""The bytes of the largest batch of records in the topic of the sources' journals."""
_BOTH_WAYS: Final = "message.timestamp.difference.max.ms"  # before 3.6, for the past as well
_APPENDED: Final = "LogAppendTime"
_POLICY: Final = "cleanup.policy"
_JOURNAL: Final = {
    _POLICY: "compact",
    # The newest segment is not compacted, and a new owner reads all of it.
    "segment.bytes": 16 * 1024 * 1024,
    "segment.ms": 10 * 60_000,
    "min.cleanable.dirty.ratio": 0.2,
    # The intent of a block holds all of its events.
    "max.message.bytes": JOURNAL_BYTES,
}
_FORBIDDEN: Final = {
    KafkaError.TOPIC_AUTHORIZATION_FAILED,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED,
}
_TIMEOUT_S: Final = 10

log = structlog.get_logger(__name__)


def ensure_topics(config: Config) -> list[str]:
    """Create the swap topic and the dead-letter topic where missing; return the created names.

    An existing topic is not changed. A swap topic made here refuses records whose timestamp is more
    than MAX_FUTURE ahead of the broker's clock. Raises Retry while the broker cannot be reached,
    and Fatal where it refuses, or where the timestamps of an existing swap topic are not bounded.
    """
    admin = _admin(config)
    ahead_ms = min(config.max_future_ms, MOST_AHEAD_MS)
    swaps: dict[str, Any] = {"retention.ms": config.kafka_retention_ms, AHEAD_MS: ahead_ms}
    wanted = {
        config.kafka_topic: (config.kafka_partitions, swaps),
        config.kafka_dlq_topic: (1, {"retention.ms": config.kafka_dlq_retention_ms}),
    }
    existing = _existing(config, admin)
    made = [
        name
        for name in wanted
        if name not in existing and _create(admin, config, name, *wanted[name])
    ]
    if config.kafka_topic in existing:
        _verify(config, admin)
    return made


def ensure_sources_topic(config: Config) -> list[str]:
    """Create the topic of the sources' journals where missing; return the created names.

    Its one partition makes the ownership of a source one assignment. Kafka keeps the newest record
    of each key, and compacts within minutes, because a source writes a key for every block. An
    existing topic is not changed. Raises Retry while the broker cannot be reached, and Fatal where
    it refuses, or where an existing topic is not compacted.
    """
    admin, name = _admin(config), config.kafka_sources_topic
    if name not in _existing(config, admin):
        return [name] if _create(admin, config, name, 1, _JOURNAL) else []
    if (policy := _settings_of(admin, name).get(_POLICY, "compact")) != "compact":
        raise Fatal(
            f"topic {name} (KAFKA_SOURCES_TOPIC) has {_POLICY}={policy}, which forgets what sources"
            f" must remember. Set it: kafka-configs --bootstrap-server {config.kafka_bootstrap} "
            f"--alter --entity-type topics --entity-name {name} --add-config {_POLICY}=compact"
        )
    return []


def _existing(config: Config, admin: Any) -> Mapping[str, Any]:
    try:
        found: Mapping[str, Any] = admin.list_topics(timeout=_TIMEOUT_S).topics
    except KafkaException as error:
        raise Retry(f"kafka at {config.kafka_bootstrap}: {error.args[0].str()}") from error
    return found


def check_timestamps(config: Config) -> str | None:
    """Return what is wrong with the timestamps of the swap topic and how to fix it, or None.

    Raises Retry while the topic's settings cannot be read.
    """
    values = _settings_of(_admin(config), config.kafka_topic)
    return _unbounded(config, values) or _unknown(config, values)


def _admin(config: Config) -> Any:
    return AdminClient({"bootstrap.servers": config.kafka_bootstrap, "log_level": 0})


def _create(
    admin: Any, config: Config, name: str, partitions: int, settings: Mapping[str, Any]
) -> bool:
    """Create one topic; return whether it was missing."""
    topic = NewTopic(
        name,
        num_partitions=partitions,
        replication_factor=config.kafka_replication,
        config={setting: str(value) for setting, value in settings.items()},
    )
    [future] = admin.create_topics([topic], operation_timeout=_TIMEOUT_S).values()
    try:
        future.result(timeout=_TIMEOUT_S)
    except KafkaException as error:
        fault = error.args[0]
        if fault.code() == KafkaError.TOPIC_ALREADY_EXISTS:
            return False
        if fault.code() == KafkaError.INVALID_CONFIG and AHEAD_MS in settings:
            # A broker before Kafka 3.6 knows only the other way to bound timestamps.
            others = {key: value for key, value in settings.items() if key != AHEAD_MS}
            return _create(admin, config, name, partitions, others | {STAMPED_BY: _APPENDED})
        if fault.retriable():
            raise Retry(f"kafka: creating topic {name}: {fault.str()}") from error
        raise Fatal(f"kafka refuses to create topic {name}: {fault.str()}") from error
    return True


def _verify(config: Config, admin: Any) -> None:
    values = _settings_of(admin, config.kafka_topic)
    if (why := _unbounded(config, values)) is not None:
        raise Fatal(why)
    if (why := _unknown(config, values)) is not None:
        log.warning("timestamps_unbounded", topic=config.kafka_topic, error=why)


def _settings_of(admin: Any, topic: str) -> dict[str, str]:
    """Return the settings of a topic; none where this user may not read them. Raises Retry."""
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic)
    [future] = admin.describe_configs([resource], request_timeout=_TIMEOUT_S).values()
    try:
        return {name: entry.value for name, entry in future.result(timeout=_TIMEOUT_S).items()}
    except KafkaException as error:
        fault = error.args[0]
        if fault.code() in _FORBIDDEN:
            return {}
        raise Retry(f"kafka: reading the settings of topic {topic}: {fault.str()}") from error


def _bound_ms(values: Mapping[str, str]) -> int | None:
    """Return how far ahead timestamps may be, 0 where the broker stamps; None where unknown."""
    if values.get(STAMPED_BY) == _APPENDED:
        return 0
    found = [int(values[each]) for each in (AHEAD_MS, _BOTH_WAYS) if values.get(each)]
    return min(found, default=None)


def _unbounded(config: Config, values: Mapping[str, str]) -> str | None:
    bound_ms = _bound_ms(values)
    if bound_ms is None or bound_ms <= MOST_AHEAD_MS:
        return None
    if AHEAD_MS in values:
        setting = f"{AHEAD_MS}={min(config.max_future_ms, MOST_AHEAD_MS)}"
    else:
        setting = f"{STAMPED_BY}={_APPENDED}"
    shown = "any time" if bound_ms >= 2**62 else duration_text(bound_ms)
    return (
        f"topic {config.kafka_topic} accepts records stamped {shown} ahead of the broker's clock, "
        "and one such record would make every later swap late. Bound it to "
        f"{duration_text(MOST_AHEAD_MS)} or less: kafka-configs --bootstrap-server "
        f"{config.kafka_bootstrap} --alter --entity-type topics --entity-name "
        f"{config.kafka_topic} --add-config {setting}"
    )


def _unknown(config: Config, values: Mapping[str, str]) -> str | None:
    if _bound_ms(values) is not None:
        return None
    return (
        f"the broker reports neither {AHEAD_MS} nor {STAMPED_BY}={_APPENDED} for topic "
        f"{config.kafka_topic} (it has neither, or this user may not describe the topic): see that "
        "it refuses records stamped far ahead of its clock, because one such record would "
        "make every later swap late"
    )


def count_partitions(config: Config) -> int:
    """Return the number of partitions of the swap topic.

    Raises Retry, and Fatal where the topic does not exist.
    """
    admin = _admin(config)
    topics = _existing(config, admin)
    if config.kafka_topic not in topics:
        raise Fatal(f"kafka has no topic {config.kafka_topic}: run manage.py ensure_topology")
    return len(topics[config.kafka_topic].partitions)
