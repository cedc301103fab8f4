"""docker-compose.yml is valid, hardened and complete, and its settings are valid."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from aggregator.runtime.config import load
from tests.unit.packaging import commands
from tests.unit.packaging.files import KNOWN, ROOT, compose, services, yaml_of

SERVICES = services()
ONCE = {name for name, each in SERVICES.items() if each["restart"] == "on-failure:5"}
LASTING = set(SERVICES) - ONCE
OURS = {name for name, each in SERVICES.items() if each["image"].startswith("swap-aggregator:")}
# It writes its options into the root file system at each start.
WRITES_ITS_ROOT = {"redpanda"}
# It has no port to probe, and it ends if it cannot deliver.
WITHOUT_HEALTH = {"demo-feed"}
# Changes the owner of a new volume to the user of the store.
AS_ROOT = {"minio-volume"}
# The variables of the engines' manuals; `aggregator.runtime.config` checks the service's settings.
OF_ENGINES = {
    "clickhouse": {"CLICKHOUSE_COLD_ENDPOINT"},
    "minio": {
        "MINIO_ROOT_USER_FILE",
        "MINIO_ROOT_PASSWORD_FILE",
        "MINIO_UPDATE",
        "MINIO_BROWSER",
        "MC_CONFIG_DIR",
    },
    "minio-bucket": {"MC_CONFIG_DIR"},
}


def each(names: set[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", sorted(names))


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("compose") / "secrets"
    subprocess.run([ROOT / "infra/compose/secrets.sh", directory], check=True)
    return directory


def test_it_follows_the_compose_specification() -> None:
    schema = json.loads((Path(__file__).parent / "compose-spec.json").read_text())
    checker = jsonschema.Draft202012Validator(schema)
    faults = [f"{f.json_path}: {f.message}" for f in checker.iter_errors(compose())]
    assert faults == []
    wrong = compose()
    wrong["services"]["redis"]["memlimit"] = "1G"
    assert not checker.is_valid(wrong)


def test_it_runs_all_that_the_design_names() -> None:
    assert set(SERVICES) >= {
        "redpanda", "redis", "nats", "clickhouse", "minio", "prometheus", "grafana", "nginx",
        "aggregator", "archiver", "web",
    }  # fmt: skip
    assert SERVICES["web"]["deploy"]["replicas"] == 2


@each(set(SERVICES))
def test_its_version_is_exact(name: str) -> None:
    repository, _, tag = SERVICES[name]["image"].rpartition(":")
    assert repository
    assert re.match(r"v?\d+\.\d+\.\d+|RELEASE\.20\d\d-\d\d-\d\dT", tag), tag


@each(set(SERVICES))
def test_it_is_hardened_and_bounded(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert set(service.get("cap_add", [])) <= ({"CHOWN"} if name in AS_ROOT else set())
    assert (service["user"].split(":")[0] == "0") == (name in AS_ROOT)
    assert service.get("read_only", False) == (name not in WRITES_ITS_ROOT)
    assert service["restart"] in {"unless-stopped", "on-failure:5"}
    limits = service["deploy"]["resources"]["limits"]
    assert float(limits["cpus"]) > 0
    assert re.fullmatch(r"\d+[MG]", limits["memory"])


@each(LASTING - WITHOUT_HEALTH)
def test_it_says_how_it_is(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    assert health["test"][0] in {"CMD", "CMD-SHELL"}
    assert {"interval", "timeout", "retries", "start_period"} <= set(health)


@each(set(SERVICES))
def test_what_it_waits_for_can_come_true(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_healthy":
            assert other in LASTING - WITHOUT_HEALTH
        else:
            assert how["condition"] == "service_completed_successfully"
            assert other in ONCE
        assert "demo" not in SERVICES[other].get("profiles", []) or "demo" in name


@each(set(SERVICES))
def test_what_it_mounts_is_there(name: str) -> None:
    for mount in SERVICES[name].get("volumes", []):
        source, _, rest = mount.partition(":")
        if source.startswith("./"):
            assert (ROOT / source).exists(), source
            assert rest.endswith(":ro"), mount
        else:
            assert source in compose()["volumes"]


def test_volumes_and_networks_are_all_used() -> None:
    text = [mount.partition(":")[0] for s in SERVICES.values() for mount in s.get("volumes", [])]
    assert set(compose()["volumes"]) <= set(text)
    used = {network for s in SERVICES.values() for network in s.get("networks", [])}
    assert set(compose()["networks"]) == used


def test_only_nginx_is_open_to_the_world() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", []):
            assert name == "nginx" or port.startswith("127.0.0.1:"), (name, port)
    assert compose()["networks"]["engines"]["internal"] is True
    for engine in ("redpanda", "redis", "nats", "clickhouse", "minio"):
        assert SERVICES[engine]["networks"] == ["engines"]


@each(set(SERVICES))
def test_the_secrets_it_reads_are_given_to_it(name: str) -> None:
    service = SERVICES[name]
    given = {s if isinstance(s, str) else s["source"] for s in service.get("secrets", [])}
    by_path = {s for s in service.get("secrets", []) if isinstance(s, str)}
    assert set(re.findall(r"/run/secrets/(\w+)", json.dumps(service))) == by_path
    assert given <= set(compose()["secrets"])


def test_every_secret_is_made_and_no_file_is_left_over(secrets: Path) -> None:
    made = {path.name for path in secrets.iterdir() if path.is_file()}
    files = {Path(secret["file"]).name for secret in compose()["secrets"].values()}
    assert made == files
    assert secrets.stat().st_mode & 0o077 == 0
    assert (secrets / "issuer/private.pem").stat().st_mode & 0o077 == 0


def test_secrets_stay_when_they_are_made_again(secrets: Path) -> None:
    before = {path.name: path.read_bytes() for path in secrets.iterdir() if path.is_file()}
    subprocess.run([ROOT / "infra/compose/secrets.sh", secrets], check=True)
    assert {p.name: p.read_bytes() for p in secrets.iterdir() if p.is_file()} == before
    assert len({*before.values()}) == len(before)


@each(OURS)
def test_the_service_takes_these_settings(name: str, secrets: Path) -> None:
    environment = {key: str(value) for key, value in SERVICES[name]["environment"].items()}
    assert set(environment) <= KNOWN
    here = {key: value.replace("/run/secrets", str(secrets)) for key, value in environment.items()}
    config = load(here)  # raises ConfigError with every fault
    assert config.kafka_bootstrap == "redpanda:9092"
    if "REDIS_URL_FILE" in environment:
        auth = (secrets / "redis_auth").read_text().split()[1]
        assert config.redis_url == f"redis://:{auth}@redis:6379/0"
        password = (secrets / "clickhouse_password").read_text()
        assert config.clickhouse_url == f"clickhouse://default:{password}@clickhouse:9000/default"


@each(set(SERVICES) - OURS)
def test_an_engine_is_given_nothing_unknown(name: str) -> None:
    given = set(SERVICES[name].get("environment", {}))
    known = OF_ENGINES.get(name, set())
    assert {one for one in given if not (name == "grafana" and one.startswith("GF_"))} <= known


@each(OURS)
def test_its_command_exists(name: str) -> None:
    commands.check(SERVICES[name]["command"])


def test_the_web_nodes_believe_nginx_alone() -> None:
    networks: dict[str, Any] = yaml_of("docker-compose.yml")["networks"]
    trusted = SERVICES["web"]["environment"]["TRUSTED_PROXIES"]
    assert [c["subnet"] for c in networks["edge"]["ipam"]["config"]] == [trusted]
    members = {name for name, s in SERVICES.items() if "edge" in s.get("networks", [])}
    assert members == {"nginx", "web"}
