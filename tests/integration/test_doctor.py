"""`manage.py doctor` on a healthy installation, and on one with a fault of each kind."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
)
from redis import Redis

from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.archived import Archive, archive
from tests.support.service import Service, swap


class Installation(NamedTuple):
    """Engines, a database and a topology, without a process of the service."""

    service: Service
    archive: Archive

    def findings(self, **env: str) -> tuple[int, dict[str, tuple[str, str, str]]]:
        """Return the exit status, and (level, said, fix) by the name of the check."""
        done = self.service.manage("doctor", "--json", **env)
        report = json.loads(done.stdout)
        assert report["healthy"] is (done.returncode == 0), done.stderr
        return done.returncode, {
            each["what"]: (each["level"], each["said"], each["fix"]) for each in report["findings"]
        }


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Installation]:
    directory = tmp_path_factory.mktemp("installed")
    with archive(stack.clickhouse.url) as kept:
        settings = {
            "CLICKHOUSE_URL": kept.url,
            "DATABASE_FILE": str(directory / "db.sqlite3"),
            "DJANGO_SECRET_KEY": "x" * 50,
            "HTTPS_ONLY": "1",
        }
        with Service(directory, stack, **settings) as service:
            assert service.manage("ensure_topology").returncode == 0
            assert service.manage("migrate", "-v", "0").returncode == 0
            yield Installation(service, kept)


def test_a_healthy_installation(installed: Installation) -> None:
    installed.service.produce([swap(1)])
    done = installed.service.manage("doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[-1] == f"{len(lines) - 1} OK, 0 WARN, 0 FAIL", done.stdout
    for what in ("kafka", "redis", "nats", "clickhouse", "clock of redis", "clock of clickhouse"):
        assert any(line.startswith(f"OK    {what}: ") for line in lines), what
    assert any("2048 bits RSA" in line for line in lines)
    assert any("the newest record is" in line for line in lines)
    print(done.stdout)


def test_a_producer_whose_clock_is_too_far_ahead_is_refused(installed: Installation) -> None:
    errors = []
    producer = Producer({"bootstrap.servers": installed.service.env["KAFKA_BOOTSTRAP"]})
    for ahead_ms in (240_000, 360_000):
        producer.produce(
            installed.service.topic,
            swap(1),
            timestamp=time.time_ns() // 1_000_000 + ahead_ms,
            on_delivery=lambda error, _: errors.append(error and error.name()),
        )
        assert producer.flush(20) == 0
    assert errors == [None, "INVALID_TIMESTAMP"]
    _, found = installed.findings(MAX_FUTURE="1m")
    level, said, fix = found[f"timestamps of {installed.service.topic}"]
    assert (level, said) == ("WARN", "at most 5m ahead of the broker, MAX_FUTURE is 1m")
    assert fix == "set message.timestamp.after.max.ms to 60000"


@pytest.mark.parametrize(("setting", "level"), [("86400000", "FAIL"), ("600000", "WARN")])
def test_a_topic_that_does_not_bound_timestamps(
    installed: Installation, setting: str, level: str
) -> None:
    _set(installed.service, "message.timestamp.after.max.ms", setting)
    try:
        _, found = installed.findings()
    finally:
        _set(installed.service, "message.timestamp.after.max.ms", "300000")
    assert found[f"timestamps of {installed.service.topic}"][0] == level
    assert "message.timestamp.after.max.ms" in found[f"timestamps of {installed.service.topic}"][2]


def test_the_partitioner_that_fits_the_last_records_is_named(installed: Installation) -> None:
    topic = f"{installed.service.topic}-crc32"
    assert installed.service.manage("ensure_topology", KAFKA_TOPIC=topic).returncode == 0
    # librdkafka's default partitioner.
    producer = Producer({"bootstrap.servers": installed.service.env["KAFKA_BOOTSTRAP"]})
    for number in range(1_200):
        producer.produce(topic, swap(number, token=f"T{number}"), key=f"ethereum:T{number}")
    assert producer.flush(20) == 0
    _, found = installed.findings(KAFKA_TOPIC=topic)
    level, said, fix = found["KAFKA_PARTITIONER"]
    assert level == "WARN"
    assert said.startswith("with murmur2, ") and "of the last 1000 records" in said
    assert fix == "set it to crc32 before the topic is first read: then it is fixed"
    _, found = installed.findings(KAFKA_TOPIC=topic, KAFKA_PARTITIONER="crc32")
    assert found["KAFKA_PARTITIONER"][0] == "OK"


def test_many_faults_are_all_reported_with_their_fixes(installed: Installation) -> None:
    """Faults of different kinds do not hide each other."""
    redis = Redis.from_url(installed.service.env["REDIS_URL"])
    redis.config_set("maxmemory-policy", "allkeys-lru")
    redis.config_set("appendonly", "no")
    redis.close()
    _set(installed.service, "retention.ms", "3600000")
    installed.service.produce([swap(2)], partition=1)
    installed.archive.ask("DROP TABLE candles_1m_view SYNC")
    broken = {
        "KAFKA_PARTITIONS": "5",
        "NATS_URL": f"nats://127.0.0.1:{free_port()}",
        "JWT_PUBLIC_KEY_FILE": "/nowhere/key.pem",
        "DATABASE_FILE": str(installed.service.directory / "empty.sqlite3"),
        "ARCHIVE_HOT": "6d",
        "DJANGO_SECRET_KEY": "",
    }
    status, found = installed.findings(**broken)
    assert status == 1
    topic = f"topic {installed.service.topic}"
    expected = {
        topic: ("4 partitions, KAFKA_PARTITIONS is 5", "set KAFKA_PARTITIONS=4"),
        f"retention of {installed.service.topic}": ("1h, KAFKA_RETENTION is 7d", "604800000"),
        "redis maxmemory-policy": ("allkeys-lru", "set it to noeviction"),
        "redis appendonly": ("no", "set it to yes"),
        "nats": ("", "start it"),
        "archive tables": ("missing: candles_1m_view", "ensure_topology"),
        "archive schema": ("not applied: 006_ttl.sql", "ensure_topology"),
        "JWT keys": ("/nowhere/key.pem", "RSA public key"),
        "admin database": ("migrations are not applied", "manage.py migrate"),
        "DJANGO_SECRET_KEY": ("is empty", "DJANGO_SECRET_KEY_FILE"),
    }
    for what, (said, fix) in expected.items():
        assert found[what][0] == "FAIL", (what, found[what])
        assert said in found[what][1], what
        assert fix in found[what][2], what
    failed = {what for what, finding in found.items() if finding[0] == "FAIL"}
    assert failed == set(expected)
    print(installed.service.manage("doctor", **broken).stdout)


def test_engines_that_are_down_and_topics_that_are_missing(installed: Installation) -> None:
    nobody = free_port()
    down = {
        "REDIS_URL": f"redis://127.0.0.1:{nobody}/0",
        "CLICKHOUSE_URL": f"clickhouse://127.0.0.1:{nobody}/swaps",
        "KAFKA_TOPIC": "no-such-topic",
        "JWT_PUBLIC_KEY_FILE": "",
        "JWT_JWKS_URL": f"http://127.0.0.1:{nobody}/jwks.json",
        "RATE_LIMT": "5",
    }
    status, found = installed.findings(**down)
    assert status == 1
    for what in ("redis", "clickhouse", "topic no-such-topic", "JWT keys"):
        assert found[what][0] == "FAIL", (what, found[what])
        assert found[what][2]
    assert found["RATE_LIMT"][::2] == ("WARN", "did you mean RATE_LIMIT?")
    _, without_kafka = installed.findings(KAFKA_BOOTSTRAP=f"127.0.0.1:{nobody}")
    assert without_kafka["kafka"][0] == "FAIL"
    assert f"127.0.0.1:{nobody}" in without_kafka["kafka"][1]


def test_settings_with_faults_end_it_with_status_2(installed: Installation) -> None:
    done = installed.service.manage("doctor", GRACE="soon", KAFKA_PARTITIONS="none")
    assert done.returncode == 2
    assert "GRACE" in done.stderr
    assert "KAFKA_PARTITIONS" in done.stderr


def test_its_help_says_what_the_status_means(installed: Installation) -> None:
    done = installed.service.manage("doctor", "--help")
    assert done.returncode == 0
    assert "Exit status 1" in " ".join(done.stdout.split())


def _set(service: Service, setting: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": service.env["KAFKA_BOOTSTRAP"]})
    entry = ConfigEntry(setting, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, service.topic, incremental_configs=[entry])
    [future] = admin.incremental_alter_configs([resource]).values()
    future.result(20)
