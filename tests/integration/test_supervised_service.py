"""`make demo` and `make up` under kill -9: each process comes back and nothing is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from clickhouse_driver import Client
from confluent_kafka import Consumer, Producer, TopicPartition

from aggregator.contracts.units import DAY_MS
from aggregator.feed.days import Days
from infra.embedded.demo import REPOSITORY
from infra.embedded.stack import ENGINES, holder
from tests.support.plain import PLAIN
from tests.support.processes import alive, wait_gone, wait_until
from tests.support.service import ETHEREUM_DAY, swap

WITHIN_S = 240
TOKEN = "ours"
PORTS = [
    part
    for name in (*(engine.name for engine in ENGINES), "web", "metrics")
    for part in (f"--{name}-port", "0")
]
RETURNED = {
    "aggregator": r"counting after [\d.]+ s; read on from the last saved offsets, nothing is lost",
    "archiver": r"archiving after [\d.]+ s; read on from the last committed offsets, nothing is",
    "web": r"serving after [\d.]+ s; in sync with all \d+ partitions",
    "feed": r"feeding after [\d.]+ s; what was due meanwhile is sent, repeats count once",
}


class Running:
    """A stack with service and feed; `output` is the file with what it prints."""

    def __init__(self, directory: Path, output: Path) -> None:
        self.directory = directory
        self.output = output
        lines = (directory / "stack.env").read_text().splitlines()
        self.env = dict(line.split("=", 1) for line in lines)
        page = directory / "page-token"
        self.headers = {"Authorization": f"Bearer {page.read_text()}"}

    def pids(self) -> dict[str, int]:
        lines = (self.directory / "stack.pids").read_text().splitlines()
        return {name: int(pid) for name, pid in (line.split() for line in lines)}

    def printed(self) -> str:
        return self.output.read_text(errors="replace")

    def trades(self) -> int:
        """Return the 24 h trades of the test's token; -1 if the node does not respond."""
        path = f"{self.env['WEB_URL']}/api/tokens/ethereum:{TOKEN}/stats"
        try:
            answer = httpx.get(path, headers=self.headers, verify=PLAIN, timeout=5)
        except httpx.TransportError:
            return -1
        trades: int = answer.json()["windows"]["24h"]["trades"] if answer.is_success else -1
        return trades

    def archived(self) -> int:
        with Client.from_url(self.env["CLICKHOUSE_URL"]) as client:
            query = f"SELECT count() FROM raw_swaps FINAL WHERE token = '{TOKEN}'"
            found: int = client.execute(query)[0][0]
            return found

    def fed(self) -> dict[str, int]:
        """Return every transaction of the feed in the topic, with its time."""
        consumer = Consumer(
            {"bootstrap.servers": self.env["KAFKA_BOOTSTRAP"], "group.id": "reader"}
        )
        found: dict[str, int] = {}
        try:
            partitions = consumer.list_topics("raw-swaps").topics["raw-swaps"].partitions
            left = 0
            for each in partitions:
                left += consumer.get_watermark_offsets(TopicPartition("raw-swaps", each))[1]
            consumer.assign([TopicPartition("raw-swaps", each, 0) for each in partitions])
            while left > 0:
                messages = consumer.consume(min(left, 10_000), 10)
                assert messages
                left -= len(messages)
                for event in (json.loads(message.value() or b"") for message in messages):
                    if event["token"] != TOKEN:
                        found[event["tx_hash"]] = event["timestamp"]
        finally:
            consumer.close()
        return found


class Traffic:
    """Produces a swap of the test's token every 10 ms until `stop`; all are acknowledged."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer({"bootstrap.servers": bootstrap, "enable.idempotence": True})
        self._stopping = threading.Event()
        self.sent = 0
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            value = swap(self.sent, token=TOKEN)
            self._producer.produce("raw-swaps", value, f"ethereum:{TOKEN}")
            self.sent += 1

    def stop(self) -> int:
        """Stop and return how many swaps were sent."""
        self._stopping.set()
        self._thread.join()
        assert self._producer.flush(30) == 0
        return self.sent


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "infra.embedded", *arguments]


@pytest.fixture(params=["demo", "up"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Running]:
    directory = tmp_path / "stack"
    options = ["--dir", str(directory), "--service", "--feed", *PORTS]
    if request.param == "up":
        done = subprocess.run(
            command("up", *options), cwd=REPOSITORY, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        yield Running(directory, directory / "log/stack.log")
        owner = holder(directory)
        subprocess.run(command("down", "--dir", str(directory)), cwd=REPOSITORY, check=True)
        assert owner
        wait_gone([owner])
        return
    output = tmp_path / "output"
    with output.open("wb") as written, foreground(options, written) as owner_process:
        wait_for_start(directory, owner_process, output)
        yield Running(directory, output)
        owner_process.send_signal(signal.SIGINT)
        assert owner_process.wait(30) == 0
    assert "stopped; nothing is left running" in output.read_text()


def foreground(options: list[str], output: IO[bytes] | int, **env: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command("run", *options),
        cwd=REPOSITORY,
        env=os.environ | env,
        stdout=output,
        stderr=subprocess.STDOUT,
    )


def wait_for_start(directory: Path, process: subprocess.Popen[bytes], output: Path) -> None:
    def started() -> bool:
        assert process.poll() is None, output.read_text()
        return (directory / "stack.env").exists()

    wait_until(started, WITHIN_S, "the start")


@pytest.mark.timeout(3 * WITHIN_S)
def test_each_process_comes_back_and_every_swap_counts_once(running: Running) -> None:
    traffic = Traffic(running.env["KAFKA_BOOTSTRAP"])
    engines = {name: pid for name, pid in running.pids().items() if name not in RETURNED}
    try:
        # A snapshot of every partition is saved before the first kill.
        wait_until(lambda: running.trades() > 0 and saved(running), WITHIN_S, "counting")
        for name, said in RETURNED.items():
            before = running.pids()[name]
            os.kill(before, signal.SIGKILL)
            line = re.compile(rf"{name} was killed \(signal 9\): started again, {said}")
            wait_until(reads(line, running.printed), WITHIN_S, f"the return of {name}")
            assert alive(running.pids()[name])
            assert running.pids()[name] != before
    finally:
        sent = traffic.stop()
    wait_until(lambda: running.trades() == sent, WITHIN_S, f"{sent} trades counted")
    wait_until(lambda: running.archived() == sent, WITHIN_S, f"{sent} trades archived")
    assert running.trades() == sent
    assert {name: pid for name, pid in running.pids().items() if name not in RETURNED} == engines
    assert len(re.findall(r"started again", running.printed())) == len(RETURNED)

    fed = running.fed()
    assert set(fed) == set(expected(running, max(fed.values())))


def saved(running: Running) -> bool:
    answer = httpx.get(f"{running.env['WEB_URL']}/readyz", verify=PLAIN).json()
    return all(each["snapshot_age_ms"] is not None for each in answer["partitions"])


def reads(line: re.Pattern[str], printed: Callable[[], str]) -> Callable[[], bool]:
    return lambda: line.search(printed()) is not None


def expected(running: Running, until_ms: int) -> dict[str, int]:
    """Return what an uninterrupted feed sends up to `until_ms`."""
    origin = int((running.directory / "feed-origin").read_text())
    first = min(running.fed().values())
    with subprocess.Popen(["gzip", "-dc", str(ETHEREUM_DAY)], stdout=subprocess.PIPE) as unpacked:
        assert unpacked.stdout is not None
        days = Days(unpacked.stdout, origin)
    assert until_ms - first >= DAY_MS - 600_000
    events: list[dict[str, Any]] = [
        json.loads(record.value) for record in days.events(first - 1, until_ms)
    ]
    return {event["tx_hash"]: event["timestamp"] for event in events}


@pytest.mark.timeout(WITHIN_S)
def test_a_fault_in_the_settings_ends_the_first_start_with_the_log(tmp_path: Path) -> None:
    options = ["--dir", str(tmp_path / "stack"), "--service", *PORTS]
    # TEST-NET-3: no address of this machine, so the aggregator cannot listen on it.
    with foreground(options, subprocess.PIPE, METRICS_HOST="203.0.113.1") as process:
        assert process.stdout is not None
        printed = process.stdout.read().decode()
    assert process.returncode == 1
    assert re.search(r"(aggregator|archiver) ended with status 1", printed)
    assert "METRICS_PORT" in printed
    assert "started again" not in printed


@pytest.mark.timeout(2 * WITHIN_S)
def test_kill_shows_what_comes_back_and_that_an_engine_ends_it_all(tmp_path: Path) -> None:
    def cli(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments, "--dir", str(tmp_path)),
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )

    nothing = cli("kill", "aggregator")
    assert (nothing.returncode, "no stack serves on" in nothing.stderr) == (1, True)
    try:
        up = cli("up", "--service", *PORTS)
        assert up.returncode == 0, up.stdout + up.stderr
        unknown = cli("kill", "postgres")
        assert unknown.returncode == 1
        assert "'postgres' is not a process of this stack: s3, nats, redis" in unknown.stderr
        killed = cli("kill", "web")
        said = (
            r"killed web \(process \d+\)\nweb runs again as process \d+; the stack says when .*\n"
        )
        assert re.fullmatch(said, killed.stdout)
        printed = (tmp_path / "log/stack.log").read_text
        wait_until(lambda: "web was killed (signal 9)" in printed(), WITHIN_S, "the return")
        lines = (tmp_path / "stack.pids").read_text().splitlines()
        ended = cli("kill", "nats")
        assert "the stack has ended" in ended.stdout
        assert "nats ended with status -9" in printed()
        assert str(tmp_path / "log/nats.log") in printed()
        wait_gone(int(line.split()[1]) for line in lines)
    finally:
        cli("down")
