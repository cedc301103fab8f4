"""Settings: the defaults are usable, and all faults and contradictions are reported together."""

from __future__ import annotations

from dataclasses import fields

import pytest

from aggregator.runtime.config import Config, duration_ms, load
from aggregator.runtime.errors import ConfigError


def test_defaults_are_usable() -> None:
    config = load({})
    assert config.windows == (("5m", 5), ("1h", 60), ("24h", 1440))
    assert config.longest_window_minutes == 1440
    assert (config.grace_ms, config.max_future_ms, config.marker_ttl_ms) == (
        86_400_000,
        300_000,
        93_600_000,
    )


def test_all_faults_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            {
                "KAFKA_BOOTSTRAP": "nowhere",
                "KAFKA_PARTITIONS": "0",
                "REDIS_URL": "http://redis",
                "GRACE": "2 minutes",
                "WINDOWS": "5m,90s",
                "CLOCK": "moon",
                "DEBUG": "maybe",
                "JWT_LEEWAY": "1m",
            }
        )
    named = {fault.split(":")[0] for fault in caught.value.faults}
    assert named == {
        "KAFKA_BOOTSTRAP",
        "KAFKA_PARTITIONS",
        "REDIS_URL",
        "GRACE",
        "WINDOWS",
        "CLOCK",
        "DEBUG",
        "JWT_LEEWAY",
    }
    assert all(fault in str(caught.value) for fault in caught.value.faults)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"WINDOWS": "7d"}, {"MARKER_TTL", "KAFKA_RETENTION"}),
        ({"MARKER_TTL": "24h"}, {"MARKER_TTL"}),
        ({"KAFKA_RETENTION": "1h"}, {"KAFKA_RETENTION"}),
        ({"KAFKA_TOPIC": "a", "KAFKA_DLQ_TOPIC": "a"}, {"KAFKA_DLQ_TOPIC"}),
        ({"WINDOWS": "5m,300s"}, {"WINDOWS"}),
        ({"ARCHIVE_HOT": "2h", "ARCHIVE_KEEP": "2h"}, {"ARCHIVE_KEEP"}),
        ({"ARCHIVE_KEEP": "long"}, {"ARCHIVE_KEEP"}),
        ({"WINDOWS": "8d"}, {"WINDOWS"}),
        ({"WINDOWS": ""}, {"WINDOWS"}),
    ],
)
def test_contradictions(environ: dict[str, str], named: set[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert {fault.split(":")[0] for fault in caught.value.faults} == named


@pytest.mark.parametrize(
    ("text", "value"), [("250ms", 250), ("2s", 2000), ("1.5m", 90_000), ("24h", 86_400_000)]
)
def test_durations(text: str, value: int) -> None:
    assert duration_ms(text) == value


def test_each_setting_has_a_unique_variable_and_a_meaning() -> None:
    variables = [field.metadata["env"] for field in fields(Config)]
    assert len(set(variables)) == len(variables)
    assert all(field.metadata["doc"] for field in fields(Config))
