"""The embedded stack under faults: it says what to do, loses no data, and leaves no process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from redis import Redis as RedisClient

from infra.embedded import jars
from infra.embedded.errors import BadJar, EmbeddedError, EngineDied, PortInUse
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.s3 import S3
from infra.embedded.stack import ENGINES, Stack, holder
from tests.support.processes import alive, wait_gone, wait_until

REPOSITORY = Path(__file__).parents[2]


def keys(stack: Stack, count: int) -> None:
    with RedisClient.from_url(stack.redis.url) as client:
        client.mset({f"key:{number}": number for number in range(count)})


def count_keys(stack: Stack) -> int:
    with RedisClient.from_url(stack.redis.url) as client:
        return int(client.dbsize())


def produce(stack: Stack, first: int) -> None:
    producer = Producer({"bootstrap.servers": stack.kafka.address, "acks": "all"})
    for number in range(first, first + 100):
        producer.produce("kept", b"%d" % number, partition=0)
    assert producer.flush(20) == 0


def consume(stack: Stack, count: int) -> list[int]:
    consumer = Consumer({"bootstrap.servers": stack.kafka.address, "group.id": "reader"})
    try:
        consumer.assign([TopicPartition("kept", 0, 0)])
        return [int(message.value() or b"") for message in consumer.consume(count, timeout=20)]
    finally:
        consumer.close()


def test_what_was_answered_survives_kill_9_and_a_new_start(tmp_path: Path) -> None:
    with Stack(tmp_path, only=(Redis, Kafka)) as stack:
        admin = AdminClient({"bootstrap.servers": stack.kafka.address})
        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(10)
        keys(stack, 2_000)
        produce(stack, 0)
        before = {engine.name: (engine.pid, engine.port) for engine in stack.engines}
        for engine in stack.engines:
            engine.kill()
            assert not engine.running
            with pytest.raises(EngineDied, match=f"{engine.name} ended with status -9"):
                engine.check()
        for engine in stack.engines:
            engine.start()
            pid, port = before[engine.name]
            assert engine.port == port
            assert engine.pid != pid
        assert count_keys(stack) == 2_000
        produce(stack, 100)
        assert consume(stack, 200) == list(range(200))

    with Stack(tmp_path, only=(Redis, Kafka)) as stack:
        assert count_keys(stack) == 2_000
        assert consume(stack, 200) == list(range(200))


def test_a_port_in_use_is_named_and_the_other_engines_do_not_stay(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        stack = Stack(tmp_path, only=(Nats, Redis), ports={"redis": port})
        with pytest.raises(PortInUse, match=rf"redis: port {port} is in use.*REDIS_PORT"):
            stack.start()
    assert not stack.nats.running
    assert not stack.guard.alive
    assert holder(tmp_path) is None
    assert not (tmp_path / "stack.env").exists()


def test_an_engine_that_dies_at_start_shows_its_last_words(tmp_path: Path) -> None:
    broken = tmp_path / "redis" / "appendonlydir" / "appendonly.aof.manifest"
    broken.parent.mkdir(parents=True)
    broken.write_text("not a manifest\n")
    with pytest.raises(EngineDied, match="redis ended with status 1") as error:
        Stack(tmp_path, only=(Redis,)).start()
    assert "manifest" in str(error.value)
    assert str(tmp_path / "log" / "redis.log") in str(error.value)


def test_a_web_port_in_use_is_named_before_anything_starts(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        run = subprocess.run(
            command("run", "--service", "--dir", str(tmp_path), *free_ports(), "--web-port", port),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    assert run.returncode == 1
    assert f"web: port {port} is in use" in run.stdout
    assert "WEB_PORT=<port> or --web-port" in run.stdout
    assert list(tmp_path.iterdir()) == []


def test_all_faults_are_reported_together(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(EmbeddedError) as error:
            Stack(tmp_path, only=(Nats, S3), ports={"nats": port, "s3": port}).start()
    assert "NATS_PORT" in str(error.value)
    assert "S3_PORT" in str(error.value)


def test_a_jar_changed_in_the_cache_stops_the_start(
    tmp_path: Path, stack: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fixture `stack` has filled the real cache."""
    assert stack.kafka.ready()
    copy = tmp_path / "cache" / "jars"
    shutil.copytree(jars.cache_directory() / "jars", copy)
    victim = copy / "slf4j-api-1.7.36.jar"
    body = bytearray(victim.read_bytes())
    body[100] ^= 1
    victim.write_bytes(body)
    monkeypatch.setenv("SWAPS_CACHE_DIR", str(tmp_path / "cache"))
    with pytest.raises(BadJar, match="Delete that file and start again") as error:
        Stack(tmp_path / "data", only=(Kafka,)).start()
    assert str(victim) in str(error.value)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.embedded", *arguments]


def free_ports() -> list[str]:
    return [part for engine in ENGINES for part in (f"--{engine.name}-port", "0")]


def pids_of(directory: Path) -> dict[str, int]:
    lines = (directory / "stack.pids").read_text().splitlines()
    return {name: int(pid) for name, pid in (line.split() for line in lines)}


def test_kill_9_of_the_owner_leaves_nothing_and_the_directory_serves_again(tmp_path: Path) -> None:
    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, "--dir", str(tmp_path)),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    up = cli("up", *free_ports())
    assert up.returncode == 0, up.stdout + up.stderr
    assert "kafka at 127.0.0.1:" in up.stdout
    env = (tmp_path / "stack.env").read_text()
    names = [line.split("=")[0] for line in env.splitlines()]
    assert {"KAFKA_BOOTSTRAP", "REDIS_URL", "NATS_URL", "S3_ENDPOINT"} <= set(names)

    status = cli("status")
    assert status.returncode == 0
    assert status.stdout.count("running") == len(ENGINES)
    assert "S3_SECRET_KEY" not in status.stdout

    again = cli("up", *free_ports())
    assert again.returncode == 0
    assert "runs already" in again.stdout
    refused = cli("run", *free_ports())
    assert refused.returncode == 1
    assert "is used by a stack that runs" in refused.stdout

    engines = pids_of(tmp_path)
    assert all(map(alive, engines.values()))
    owner = holder(tmp_path)
    assert owner
    os.kill(owner, signal.SIGKILL)
    wait_gone([owner, *engines.values()])
    wait_until(lambda: holder(tmp_path) is None, 5, "the release of the directory")

    up = cli("up", *free_ports())
    assert up.returncode == 0, up.stdout + up.stderr
    engines = pids_of(tmp_path)
    assert (tmp_path / "log" / "stack.log").stat().st_mode & 0o077 == 0
    down = cli("down")
    assert (down.returncode, down.stdout) == (0, "stopped\n")
    wait_gone(engines.values(), 0.5)
    assert holder(tmp_path) is None
    assert not (tmp_path / "stack.env").exists()


def test_ctrl_c_ends_all_in_order(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("run", "--dir", str(tmp_path), *free_ports()),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        try:
            wait_until((tmp_path / "stack.env").exists, 30, "stack.env")
            engines = pids_of(tmp_path)
            owner.send_signal(signal.SIGINT)
            out, _ = owner.communicate(timeout=15)
        finally:
            owner.kill()
    assert owner.returncode == 0
    assert "nothing is left running" in out
    wait_gone(engines.values(), 0.5)
    assert not (tmp_path / "stack.env").exists()


def test_an_engine_that_dies_ends_the_run_with_its_name(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("run", "--dir", str(tmp_path), *free_ports()),
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    ) as owner:
        try:
            wait_until((tmp_path / "stack.env").exists, 30, "stack.env")
            engines = pids_of(tmp_path)
            os.kill(engines["nats"], signal.SIGKILL)
            out, _ = owner.communicate(timeout=15)
        finally:
            owner.kill()
    assert owner.returncode == 1
    assert "nats ended with status -9" in out
    assert "Server is ready" in out
    wait_gone(engines.values(), 0.5)
