"""Checks Kafka: brokers, both topics with partitions and retention, and the producers' clocks."""

from __future__ import annotations

from typing import Any, Final

from confluent_kafka import KafkaException, TopicPartition, libversion
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    OffsetSpec,
)

from aggregator.member.topics import AHEAD_MS, STAMPED_BY, check_timestamps
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config, duration_text
from aggregator.runtime.errors import Retry
from console.doctor.finding import (
    SKEW_WARN_MS,
    TIMEOUT_S,
    Finding,
    Level,
)

_TOPOLOGY: Final = "run manage.py ensure_topology"


def check(config: Config) -> list[Finding]:
    """Return the findings; one FAIL if no broker answers."""
    admin = AdminClient(
        {
            "bootstrap.servers": config.kafka_bootstrap,
            "socket.timeout.ms": int(TIMEOUT_S * 1000),
            "log_level": 0,
        }
    )
    try:
        cluster = admin.list_topics(timeout=TIMEOUT_S)
    except KafkaException as error:
        fix = "start the brokers, or set KAFKA_BOOTSTRAP to their address"
        return [Finding("FAIL", "kafka", f"{config.kafka_bootstrap}: {_text(error)}", fix)]
    said = f"{len(cluster.brokers)} brokers at {config.kafka_bootstrap}, client {libversion()[0]}"
    found = [Finding("OK", "kafka", said)]
    topic = cluster.topics.get(config.kafka_topic)
    if topic is None:
        found.append(Finding("FAIL", f"topic {config.kafka_topic}", "is missing", _TOPOLOGY))
    else:
        found.append(_partitions(config, len(topic.partitions)))
        replicas = min(len(each.replicas) for each in topic.partitions.values())
        found += _settings(admin, config, replicas, len(cluster.brokers))
        found += _clock(admin, config, sorted(topic.partitions))
    if config.kafka_dlq_topic in cluster.topics:
        found.append(Finding("OK", f"topic {config.kafka_dlq_topic}", "is there"))
    else:
        found.append(Finding("FAIL", f"topic {config.kafka_dlq_topic}", "is missing", _TOPOLOGY))
    return found


def _partitions(config: Config, count: int) -> Finding:
    what = f"topic {config.kafka_topic}"
    if count == config.kafka_partitions:
        return Finding("OK", what, f"{count} partitions")
    return Finding(
        "FAIL",
        what,
        f"{count} partitions, KAFKA_PARTITIONS is {config.kafka_partitions}",
        f"set KAFKA_PARTITIONS={count}; before you change the topic itself read docs/scaling.md",
    )


def _settings(admin: Any, config: Config, replicas: int, brokers: int) -> list[Finding]:
    what = f"topic {config.kafka_topic}"
    resource = ConfigResource(ConfigResource.Type.TOPIC, config.kafka_topic)
    try:
        [future] = admin.describe_configs([resource], request_timeout=TIMEOUT_S).values()
        values = {name: entry.value for name, entry in future.result(timeout=TIMEOUT_S).items()}
    except KafkaException as error:
        fix = "let the service's user describe the topic's configuration"
        return [Finding("WARN", what, f"its settings cannot be read: {_text(error)}", fix)]
    found = [_retention(config, int(values.get("retention.ms") or -1))]
    policy = values.get("cleanup.policy", "delete")
    if policy != "delete":
        fix = "set it to delete: a compacted log loses swaps of a token"
        found.append(Finding("FAIL", what, f"cleanup.policy is {policy}", fix))
    if values.get("unclean.leader.election.enable") == "true":
        fix = "set it to false: after such an election an offset may name another swap"
        found.append(Finding("FAIL", what, "unclean.leader.election.enable is true", fix))
    found += _ahead(config, values)
    if replicas < min(brokers, 3):
        fix = "give it three replicas and min.insync.replicas=2"
        found.append(Finding("WARN", what, f"{replicas} replicas on {brokers} brokers", fix))
    return found


def _retention(config: Config, kept_ms: int) -> Finding:
    what = f"retention of {config.kafka_topic}"
    needed_ms = 2 * config.longest_window_minutes * 60_000 + config.max_future_ms
    if kept_ms < 0:
        return Finding("OK", what, "unlimited")
    said = (
        f"{duration_text(kept_ms)}, KAFKA_RETENTION is {duration_text(config.kafka_retention_ms)}"
    )
    if kept_ms < needed_ms:
        fix = f"set the topic's retention.ms to {config.kafka_retention_ms}: "
        fix += f"windows are rebuilt from {duration_text(needed_ms)} back"
        return Finding("FAIL", what, said, fix)
    if kept_ms != config.kafka_retention_ms:
        return Finding("WARN", what, said, "set KAFKA_RETENTION or the topic to the other's value")
    return Finding("OK", what, duration_text(kept_ms))


def _ahead(config: Config, values: dict[str, Any]) -> list[Finding]:
    """Check how far ahead the broker lets a producer's clock, and with it the log clock, run."""
    what = f"timestamps of {config.kafka_topic}"
    try:
        why = check_timestamps(config)
    except Retry as error:
        return [Finding("WARN", what, str(error), "run manage.py doctor again")]
    if why is not None:
        said, _, fix = why.partition(". ")
        return [Finding("FAIL" if fix else "WARN", what, said, fix or "read docs/exactly-once.md")]
    if values.get(STAMPED_BY) == "LogAppendTime":
        return [Finding("OK", what, "stamped by the broker")]
    limit_ms = int(values.get(AHEAD_MS) or config.max_future_ms)
    said = f"at most {duration_text(limit_ms)} ahead of the broker"
    if limit_ms <= config.max_future_ms:
        return [Finding("OK", what, said)]
    said += f", MAX_FUTURE is {duration_text(config.max_future_ms)}"
    return [Finding("WARN", what, said, f"set {AHEAD_MS} to {config.max_future_ms}")]


def _clock(admin: Any, config: Config, partitions: list[int]) -> list[Finding]:
    """Check that the newest record of the topic is not in the future."""
    what = f"newest record of {config.kafka_topic}"
    newest_of = OffsetSpec.max_timestamp()  # type: ignore[no-untyped-call]
    wanted = {TopicPartition(config.kafka_topic, each): newest_of for each in partitions}
    try:
        futures = admin.list_offsets(wanted, request_timeout=TIMEOUT_S).values()
        newest = max(future.result(timeout=TIMEOUT_S).timestamp for future in futures)
    except KafkaException as error:
        return [
            Finding("WARN", what, f"cannot be read: {_text(error)}", "look at those of a record")
        ]
    if newest <= 0:
        return [Finding("OK", what, "no record yet")]
    ahead_ms = newest - wall_ms()
    if ahead_ms <= SKEW_WARN_MS:
        return [Finding("OK", what, f"the newest record is {max(0, -ahead_ms) / 1000:.1f} s old")]
    level: Level = "FAIL" if ahead_ms > config.max_future_ms else "WARN"
    said = f"the newest record is {ahead_ms / 1000:.1f} s ahead of this machine"
    return [Finding(level, what, said, "let NTP (chrony) set the clocks of producers and brokers")]


def _text(error: KafkaException) -> str:
    return str(error.args[0].str())
