"""`manage.py run_source` as processes: two of one source, and a dry run into a pipe."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from uuid import uuid4

from confluent_kafka import Consumer

from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.docs_commands import ROOT
from tests.support.exchange_server import LoopbackExchange, ids

WITHIN_S = 60


class SourceProcess:
    """A run of `manage.py run_source`."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._url = f"http://127.0.0.1:{port}"

    def readyz(self) -> dict[str, Any]:
        """The body of /readyz, {} while nothing answers."""
        try:
            with urllib.request.urlopen(f"{self._url}/readyz", timeout=5) as answer:
                body: dict[str, Any] = json.load(answer)
        except urllib.error.HTTPError as error:
            body = json.load(error)
        except OSError:
            return {}
        return body

    def metrics(self) -> str:
        with urllib.request.urlopen(f"{self._url}/metrics", timeout=5) as answer:
            return str(answer.read().decode())

    async def until(self, **wanted: Any) -> None:
        """Wait for an answer of /readyz with these values."""
        async with asyncio.timeout(WITHIN_S):
            while not wanted.items() <= (await asyncio.to_thread(self.readyz)).items():
                assert self.process.poll() is None
                await asyncio.sleep(0.1)

    async def terminate(self) -> int:
        self.process.terminate()
        return await asyncio.to_thread(self.process.wait, WITHIN_S)


@contextmanager
def process(
    config: Path, env: dict[str, str], *options: str, stdout: int | IO[bytes] | None = None
) -> Iterator[SourceProcess]:
    port = free_port()
    command = [sys.executable, "manage.py", "run_source", "--config", str(config), *options]
    with subprocess.Popen(
        command, cwd=ROOT, env=env | {"METRICS_PORT": str(port)}, stdout=stdout
    ) as running:
        try:
            yield SourceProcess(port, running)
        finally:
            running.kill()


def written(directory: Path, exchange: LoopbackExchange, name: str = "bin") -> Path:
    path = directory / "sources.toml"
    path.write_text(
        f'[source.{name}]\nkind = "exchange"\nvenue = "binance"\nsymbols = ["BTC/USDT"]\n'
        f'assume_par = ["USDT"]\nstream_url = "{exchange.stream_url}"\n'
        f'rest_url = "{exchange.rest_url}"\n'
    )
    return path


def sent(env: dict[str, str], count: int) -> list[tuple[str, int]]:
    """The ids of the first `count` events of the topic."""
    settings = {"bootstrap.servers": env["KAFKA_BOOTSTRAP"], "group.id": uuid4().hex}
    consumer = Consumer(settings | {"auto.offset.reset": "earliest", "enable.auto.commit": False})
    consumer.subscribe([env["KAFKA_TOPIC"]])
    found: list[tuple[str, int]] = []
    deadline = time.monotonic() + WITHIN_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} events arrived"
        for message in consumer.consume(count, timeout=1):
            event = json.loads(message.value() or b"")
            found.append((event["tx_hash"], event["log_index"]))
    consumer.close()
    return found


async def ranked(*both: SourceProcess) -> tuple[SourceProcess, SourceProcess]:
    """Wait until one of two processes is live and the other one stands by; return them so."""
    async with asyncio.timeout(WITHIN_S):
        while True:
            found = {len(each.readyz().get("degraded", "?")): each for each in both}
            if found.keys() == {0, 1} and all(each.readyz()["ready"] for each in both):
                return found[0], found[1]
            await asyncio.sleep(0.1)


async def test_a_second_process_stands_by_and_takes_over(stack: Stack, tmp_path: Path) -> None:
    name = f"bin-{uuid4().hex[:8]}"
    topics = {"KAFKA_TOPIC": name, "KAFKA_DLQ_TOPIC": f"{name}.dlq"}
    env = os.environ | stack.env() | topics | {"KAFKA_SOURCES_TOPIC": f"{name}.sources"}
    async with LoopbackExchange("binance") as exchange:
        config = written(tmp_path, exchange, name)
        with process(config, env) as first, process(config, env, "--name", name) as second:
            await exchange.subscribed()
            owner, standby = await ranked(first, second)
            [reason] = standby.readyz()["degraded"]
            assert f"source {name} has another owner" in reason
            trades = await exchange.trade(100)
            assert set(await asyncio.to_thread(sent, env, 100)) == ids("binance", trades)
            assert await owner.terminate() == 0
            trades += exchange.happen(20)
            await standby.until(ready=True, degraded=[])
            await exchange.subscribed(opened=2)
            trades += await exchange.trade(30)
            found = await asyncio.to_thread(sent, env, 150)
            assert set(found) == ids("binance", trades)
            assert f'swaps_source_owner{{source="{name}"}} 1.0' in standby.metrics()
            assert await standby.terminate() == 0


async def test_a_dry_run_ends_with_its_reader(tmp_path: Path) -> None:
    async with LoopbackExchange("binance") as exchange:
        config = written(tmp_path, exchange)
        pipe, end = os.pipe()
        with process(config, dict(os.environ), "--dry-run", stdout=end) as run:
            os.close(end)
            await exchange.subscribed()
            trades = await exchange.trade(2)
            with open(pipe, "rb") as out:  # noqa: ASYNC230, PTH123 - a pipe has no path
                lines = [json.loads(await asyncio.to_thread(out.readline)) for _ in range(2)]
            assert {(each["tx_hash"], each["log_index"]) for each in lines} == ids(
                "binance", trades
            )
            await exchange.trade(1)
            assert await asyncio.to_thread(run.process.wait, WITHIN_S) == 0


def test_a_fault_ends_it_with_one_message(tmp_path: Path) -> None:
    config = tmp_path / "sources.toml"
    config.write_text('[source.bin]\nkind = "exchange"\nvenue = "binance"\nsymbols = ["BTCUSDT"]\n')
    done = subprocess.run(
        [sys.executable, "manage.py", "run_source", "--config", str(config), "--name", "bim"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "did you mean bin?" in done.stderr
    assert "Traceback" not in done.stderr
