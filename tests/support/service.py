"""The whole service as processes, for tests: its own Redis and NATS, topics of its own.

Kafka is the session's (`stack`), because its start takes seconds; everything that a test may kill
belongs to the test.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any, Self
from uuid import uuid4

import httpx
from confluent_kafka import Consumer, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from aggregator.runtime.clock import wall_ms
from api.auth.demo_issuer import ensure_keys, issue
from infra.embedded.engine import Process
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.plain import PLAIN
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
ETHEREUM_DAY = ROOT / "data" / "ethereum_dex_day.ndjson.gz"
ORIGIN = "http://127.0.0.1"


@cache
def _compile_engine() -> None:
    """Once a session: in a fresh checkout on a busy machine it takes longer than a test waits."""
    command = [sys.executable, "manage.py", "compile_engine"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=600)


class Service:
    """Engines, aggregators and a web node of one test; nothing outlives the `with` block."""

    def __init__(self, directory: Path, kafka: Stack, **settings: str) -> None:
        self.directory = directory
        self.engines = Stack(directory / "engines", only=(Redis, Nats))
        self.topic = f"swaps-{uuid4().hex[:8]}"
        self.web_port = free_port()
        self.env = {
            **os.environ,
            **kafka.env(),
            "CLICKHOUSE_URL": "",  # a test that archives names a database of its own
            "KAFKA_TOPIC": self.topic,
            "KAFKA_DLQ_TOPIC": f"{self.topic}.dlq",
            "KAFKA_SOURCES_TOPIC": f"{self.topic}.sources",
            "KAFKA_GROUP": f"group-{self.topic}",
            "ARCHIVER_GROUP": f"archive-{self.topic}",
            "ISSUER_DIR": str(directory / "issuer"),
            "JWT_PUBLIC_KEY_FILE": str(directory / "issuer" / "public.pem"),
            "DJANGO_SECRET_KEY": uuid4().hex,
            "LOG_FORMAT": "json",
            **settings,
        }
        self._bootstrap = self.env["KAFKA_BOOTSTRAP"]
        self._closing = ExitStack()
        self.token = ""

    def __enter__(self) -> Self:
        self._closing.enter_context(self.engines)
        self.env |= self.engines.env()
        self.token = self.issue("test", "stats:read ops:read")
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def manage(self, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run a management command to its end."""
        return subprocess.run(
            [sys.executable, "manage.py", *arguments],
            check=False,
            cwd=ROOT,
            env=self.env | env,
            capture_output=True,
            text=True,
            timeout=60,
        )

    def issue(
        self, sub: str, scope: str, ttl_s: int = 3_600, chains: Sequence[str] | None = None
    ) -> str:
        """A token of the service's issuer, as `manage.py issue_token` prints it."""
        return issue(
            ensure_keys(self.directory / "issuer"),
            subject=sub,
            issuer="swaps-demo",
            audience="swaps",
            scope=scope,
            issued_at=int(time.time()),
            ttl_ms=ttl_s * 1_000,
            chains=chains,
        )

    def aggregator(self, name: str = "aggregator", *options: str, **env: str) -> Process:
        """Start an aggregator; stop it with `terminate` and `wait`, or `kill`."""
        _compile_engine()
        command = [sys.executable, "manage.py", "run_aggregator", *options]
        return self.launch(name, command, env)

    def archiver(self, name: str = "archiver", **env: str) -> Process:
        """Start an archiver alone; stop it as an aggregator."""
        return self.launch(name, [sys.executable, "manage.py", "run_archiver"], env)

    def web(self, name: str = "web", port: int = 0, **env: str) -> Process:
        """Start Daphne on `port`, or else on `web_port`, and wait until it answers."""
        port = port or self.web_port
        command = [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1", "-p", str(port)]
        process = self.launch(name, [*command, "swapsite.asgi:application"], env)
        process.wait_ready(lambda: self.get("/healthz", port).status_code == 200)
        return process

    def launch(self, name: str, command: list[str], env: Mapping[str, str]) -> Process:
        """Start any process of the service; it ends with the block."""
        process = Process(name, self.directory / f"{name}.log", self.engines.guard)
        process.launch(command, self.env | env, ROOT)
        self._closing.callback(process.kill)
        return process

    def get(self, path: str, port: int = 0, **params: Any) -> httpx.Response:
        """GET from the web node, with the test's token. An unreachable node is an OSError."""
        try:
            return httpx.get(
                f"{ORIGIN}:{port or self.web_port}{path}",
                params=params,
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=10,
                verify=PLAIN,
            )
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error

    def overview(self, **params: Any) -> dict[str, Any]:
        """Return the JSON of /api/overview; the window is 24 h by default."""
        answer = self.get("/api/overview", **{"window": "24h", "limit": 500} | params)
        assert answer.status_code == 200, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def ready(self) -> bool:
        """Whether /readyz says 200."""
        try:
            return self.get("/readyz").status_code == 200
        except OSError:
            return False

    def reasons(self) -> str:
        """What /readyz complains of, as one text."""
        return json.dumps(self.get("/readyz").json())

    def wait_ready(self, within_s: float = 30) -> None:
        """Wait for /readyz."""
        try:
            wait_until(self.ready, within_s, "readiness")
        except AssertionError as error:
            raise AssertionError(f"{error}: {self.reasons()}") from None

    def wait_trades(self, count: int, within_s: float = 30) -> dict[str, Any]:
        """Wait until the board counts `count` trades in 24 h; never more on the way."""
        deadline = time.monotonic() + within_s
        while True:
            overview = self.overview()
            trades = overview["totals"]["trades"]
            assert trades <= count, f"{trades} trades of {count}"
            if trades == count:
                return overview
            assert time.monotonic() < deadline, f"{trades} of {count} trades; {self.reasons()}"
            time.sleep(0.05)

    def produce(self, values: Iterable[bytes | None], key: str = "", partition: int = -1) -> None:
        """Put raw messages in the topic, acknowledged.

        Without `key` and `partition` a swap is written to its token's home.
        """
        producer = Producer(
            {
                "bootstrap.servers": self._bootstrap,
                "linger.ms": 5,
                "partitioner": "murmur2_random",
            }
        )
        failures: list[Any] = []
        for value in values:
            producer.produce(
                self.topic,
                value,
                key or (token_id(value) if partition < 0 else "k"),
                partition,
                on_delivery=lambda error, _: failures.append(error) if error else None,
            )
        assert producer.flush(20) == 0
        assert failures == []

    def delete_records(self, partition: int, before: int) -> None:
        """Have Kafka drop the records of the swap topic below an offset, as its retention does."""
        admin = AdminClient({"bootstrap.servers": self._bootstrap})
        place = TopicPartition(self.topic, partition, before)
        (future,) = admin.delete_records([place]).values()
        assert future.result(10).low_watermark == before

    def dead_letters(self, count: int, within_s: float = 20) -> list[Message]:
        """The dead letters, when there are `count`."""
        consumer = Consumer(
            {"bootstrap.servers": self._bootstrap, "group.id": uuid4().hex, "log_level": 0}
        )
        try:
            consumer.assign([TopicPartition(f"{self.topic}.dlq", 0, 0)])
            found: list[Message] = []
            deadline = time.monotonic() + within_s
            while len(found) < count:
                assert time.monotonic() < deadline, f"{len(found)} of {count} dead letters"
                found += [m for m in consumer.consume(100, 0.2) if m.error() is None]
            return found
        finally:
            consumer.close()

    def logged(self, process: Process, event: str) -> list[dict[str, Any]]:
        """The structured log lines of one event of a process."""
        lines = process.log.read_text().splitlines()
        entries = [json.loads(line) for line in lines if line.startswith("{")]
        return [entry for entry in entries if entry.get("event") == event]


def token_id(value: bytes | None) -> str:
    """Return the token id of a message that is a swap, "k" of any other."""
    try:
        event = json.loads(value or b"")
        return f"{event['chain']}:{event['token']}"
    except (ValueError, KeyError, TypeError):
        return "k"


def swap(number: int, **fields: Any) -> bytes:
    """A valid swap that no other number equals, stamped now unless `timestamp` is given."""
    event = {
        "chain": "ethereum",
        "tx_hash": f"0x{number:064x}",
        "log_index": 0,
        "timestamp": wall_ms(),
        "token": f"T{number % 7}",
        "side": "buy" if number % 2 else "sell",
        "amount": "2",
        "amount_usd": "10.5",
    }
    return json.dumps(event | fields).encode()
