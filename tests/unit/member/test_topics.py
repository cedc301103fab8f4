"""How topics are made and checked, on brokers of several ages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from confluent_kafka import KafkaError, KafkaException

from aggregator.member import topics
from aggregator.member.topics import AHEAD_MS, STAMPED_BY, check_timestamps, ensure_topics
from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import Fatal, Retry

UNLIMITED = 2**63 - 1
HOUR = 3_600_000


def done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    if isinstance(result, Exception):
        future.set_exception(result)
    else:
        future.set_result(result)
    return future


class Cluster:
    """A broker that knows these topic settings, with their defaults."""

    def __init__(self, known: dict[str, object]) -> None:
        self.known = {"retention.ms": 1, **known}
        self.made: dict[str, dict[str, str]] = {}
        self.fault: int | None = None

    def list_topics(self, timeout: float) -> Any:
        return SimpleNamespace(topics=dict(self.made))

    def create_topics(self, wanted: Sequence[Any], operation_timeout: float) -> Any:
        [topic] = wanted
        if self.fault is not None:
            return {topic.topic: done(KafkaException(KafkaError(self.fault)))}
        if set(topic.config) - set(self.known):
            return {topic.topic: done(KafkaException(KafkaError(KafkaError.INVALID_CONFIG)))}
        self.made[topic.topic] = topic.config
        return {topic.topic: done(None)}

    def describe_configs(self, resources: Sequence[Any], request_timeout: float) -> Any:
        [resource] = resources
        if self.fault is not None:
            return {resource: done(KafkaException(KafkaError(self.fault)))}
        values = self.known | self.made[resource.name]
        found = {name: SimpleNamespace(value=str(value)) for name, value in values.items()}
        return {resource: done(found)}


AGES = {
    "4.0": {AHEAD_MS: HOUR, STAMPED_BY: "CreateTime"},
    "3.6": {
        AHEAD_MS: UNLIMITED,
        STAMPED_BY: "CreateTime",
        "message.timestamp.difference.max.ms": UNLIMITED,
    },
    "2.8": {STAMPED_BY: "CreateTime", "message.timestamp.difference.max.ms": UNLIMITED},
    "another": {},
}

UseCluster = Callable[[dict[str, object]], Cluster]


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> UseCluster:
    def use(known: dict[str, object]) -> Cluster:
        cluster = Cluster(known)
        monkeypatch.setattr(topics, "AdminClient", lambda _: cluster)
        return cluster

    return use


@pytest.fixture
def config() -> Config:
    return load({})


@pytest.mark.parametrize("age", ["4.0", "3.6"])
def test_a_topic_made_here_bounds_its_timestamps(use: UseCluster, config: Config, age: str) -> None:
    cluster = use(AGES[age])
    assert ensure_topics(config) == ["raw-swaps", "raw-swaps.dlq"]
    assert cluster.made["raw-swaps"] == {"retention.ms": "604800000", AHEAD_MS: "300000"}
    assert cluster.made["raw-swaps.dlq"] == {"retention.ms": "1209600000"}
    assert ensure_topics(config) == []
    assert check_timestamps(config) is None


def test_an_old_broker_stamps_the_records_itself(use: UseCluster, config: Config) -> None:
    cluster = use(AGES["2.8"])
    assert ensure_topics(config) == ["raw-swaps", "raw-swaps.dlq"]
    assert cluster.made["raw-swaps"] == {"retention.ms": "604800000", STAMPED_BY: "LogAppendTime"}
    assert ensure_topics(config) == []
    assert check_timestamps(config) is None


def test_a_wide_max_future_is_no_wide_bound(use: UseCluster) -> None:
    cluster = use(AGES["4.0"])
    ensure_topics(load({"MAX_FUTURE": "2h", "MARKER_TTL": "30h"}))
    assert cluster.made["raw-swaps"][AHEAD_MS] == str(HOUR)


@pytest.mark.parametrize(
    ("age", "settings", "said"),
    [
        ("4.0", {}, None),
        ("4.0", {AHEAD_MS: str(HOUR + 1)}, f"--add-config {AHEAD_MS}=300000"),
        ("4.0", {AHEAD_MS: str(UNLIMITED), STAMPED_BY: "LogAppendTime"}, None),
        ("3.6", {}, f"--add-config {AHEAD_MS}=300000"),
        ("3.6", {AHEAD_MS: "1000"}, None),
        ("3.6", {"message.timestamp.difference.max.ms": "1000"}, None),
        ("2.8", {}, f"--add-config {STAMPED_BY}=LogAppendTime"),
        ("2.8", {"message.timestamp.difference.max.ms": "1000"}, None),
    ],
)
def test_a_topic_of_others_must_bound_its_timestamps(
    use: UseCluster, config: Config, age: str, settings: dict[str, str], said: str | None
) -> None:
    cluster = use(AGES[age])
    cluster.made = {"raw-swaps": settings, "raw-swaps.dlq": {}}
    if said is None:
        assert ensure_topics(config) == []
        assert check_timestamps(config) is None
        return
    with pytest.raises(Fatal) as caught:
        ensure_topics(config)
    assert str(caught.value).endswith(
        "kafka-configs --bootstrap-server 127.0.0.1:9092 --alter --entity-type topics "
        f"--entity-name raw-swaps {said}"
    )
    assert check_timestamps(config) == str(caught.value)


@pytest.mark.parametrize("forbidden", [False, True])
def test_a_bound_that_cannot_be_read_is_a_warning(
    use: UseCluster, config: Config, forbidden: bool
) -> None:
    cluster = use(AGES["another"])
    cluster.made = {"raw-swaps": {}, "raw-swaps.dlq": {}}
    if forbidden:
        cluster.fault = KafkaError.TOPIC_AUTHORIZATION_FAILED
    with structlog.testing.capture_logs() as logs:
        assert ensure_topics(config) == []
    [warning] = logs
    assert warning["event"] == "timestamps_unbounded"
    assert AHEAD_MS in warning["error"]
    assert f"{STAMPED_BY}=LogAppendTime" in warning["error"]
    assert check_timestamps(config) == warning["error"]


def test_a_broker_that_starts_is_asked_again(use: UseCluster, config: Config) -> None:
    cluster = use(AGES["4.0"])
    cluster.made = {"raw-swaps": {}, "raw-swaps.dlq": {}}
    cluster.fault = KafkaError.REQUEST_TIMED_OUT
    for call in (ensure_topics, check_timestamps):
        with pytest.raises(Retry):
            call(config)


def test_what_the_broker_refuses_ends_the_process(use: UseCluster, config: Config) -> None:
    use(AGES["4.0"]).fault = KafkaError.INVALID_REPLICATION_FACTOR
    with pytest.raises(Fatal, match="refuses to create topic raw-swaps"):
        ensure_topics(config)
