"""The target of the faults: every engine, two aggregators, an archiver, two web nodes.

Starts and stops them and reads their state. Knows no fault.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self
from uuid import uuid4

import httpx
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.embedded.clickhouse import ClickHouse
from infra.embedded.engine import Engine, Process
from infra.embedded.errors import EmbeddedError
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.s3 import S3
from infra.embedded.stack import Stack
from tests.gameday.events import PARTITIONS
from tests.gameday.helper import ROOT
from tests.gameday.keys import Issuer
from tests.gameday.tally import GRACE
from tests.support.processes import wait_until

_IGNORE_FILE_LIMIT: Final = Path(__file__).with_name("ignore_file_limit.py")
GROUP: Final = "aggregator"
AGGREGATORS: Final = ("aggregator-1", "aggregator-2")
WEBS: Final = ("web-1", "web-2")
MEMBERS: Final = (*AGGREGATORS, "archiver", *WEBS)


def _with_failing_writes(command: list[str | Path]) -> list[str | Path]:
    return [sys.executable, "-I", "-S", _IGNORE_FILE_LIMIT, *command]


class LimitedRedis(Redis):
    """Redis whose disk can be made full."""

    def command(self) -> list[str | Path]:
        return _with_failing_writes(super().command())


class LimitedKafka(Kafka):
    """A broker whose disk can be made full."""

    def command(self) -> list[str | Path]:
        return _with_failing_writes(super().command())


class LimitedClickHouse(ClickHouse):
    """ClickHouse whose disk can be made full."""

    def command(self) -> list[str | Path]:
        return _with_failing_writes(super().command())


class Site:
    """Runs inside the `with` block. `hot`: how long the archive stays on local disk."""

    def __init__(self, directory: Path, issuer: Issuer, hot: str) -> None:
        self.directory = directory
        self.engines = Stack(
            directory / "engines",
            only=(S3, Nats, LimitedRedis, LimitedKafka, LimitedClickHouse),
        )
        self.engines.clickhouse.cold = self.engines.s3
        self.issuer = issuer
        self.ports = {name: free_port() for name in WEBS}
        self.members: dict[str, Process] = {}
        self.ended: list[str] = []
        self._down: set[str] = set()
        self._http = httpx.Client(timeout=5, limits=httpx.Limits(max_keepalive_connections=0))
        self._env = {
            **{n: v for n, v in os.environ.items() if not n.startswith(("DJANGO_", "JWT_"))},
            "DJANGO_SETTINGS_MODULE": "swapsite.settings",
            "DJANGO_SECRET_KEY": uuid4().hex * 2,
            "DATABASE_FILE": str(directory / "site.sqlite3"),
            "JWT_JWKS_URL": issuer.url,
            "KAFKA_GROUP": GROUP,
            "KAFKA_PARTITIONS": str(PARTITIONS),
            "ARCHIVE_HOT": hot,
            "GRACE": f"{GRACE}ms",
            "LOG_FORMAT": "json",
            # All clients of the game come from one address.
            "RATE_LIMIT_IP": "100000",
            "RATE_BURST_IP": "200000",
            "NUMBA_NUM_THREADS": "1",
        }
        self._admin: AdminClient | None = None

    def __enter__(self) -> Self:
        self.engines.start()
        try:
            self._env |= self.engines.env()
            # On a fresh checkout both aggregators would compile the engine at the same time.
            self.manage("compile_engine")
            self.manage("migrate", "-v", "0")
            self.manage("ensure_topology")
            for name in MEMBERS:
                self.launch(name)
            wait_until(self.ready, 240, "a site that is ready")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End everything."""
        for member in self.members.values():
            with suppress(EmbeddedError, ProcessLookupError):
                os.kill(member.pid, signal.SIGCONT)
            member.kill()
        self.engines.stop()
        self._http.close()

    @property
    def bootstrap(self) -> str:
        """The broker's address."""
        return self.engines.kafka.address

    def manage(self, *arguments: str) -> None:
        """Run a management command to its end."""
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self._env, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr[-2_000:]}"

    # --- the service's processes ---

    def launch(self, name: str) -> None:
        """Start one of MEMBERS, without waiting until it serves."""
        log = self.directory / "log" / f"{name}.log"
        process = self.members.get(name) or Process(name, log, self.engines.guard)
        env = self._env | {"KAFKA_INSTANCE_ID": name}
        if name in WEBS:
            web = ["-b", "127.0.0.1", "-p", str(self.ports[name]), "--access-log", os.devnull]
            command = ["-m", "daphne", *web, "swapsite.asgi:application"]
        elif name == "archiver":
            command = ["manage.py", "run_archiver"]
        else:
            command = ["manage.py", "run_aggregator", "--no-archiver"]
        process.launch([sys.executable, *command], env, ROOT)
        self.members[name] = process
        self._down.discard(name)

    def kill(self, name: str) -> None:
        """kill -9."""
        self._down.add(name)
        self.members[name].kill()

    def revive(self) -> None:
        """Restart, as a process manager would, what ended on its own; record it as wrong."""
        for name, process in self.members.items():
            if not process.running and name not in self._down:
                self.ended.append(f"{name} ended on its own: {process.tail(3)[-600:]}")
                self.launch(name)

    def group_members(self) -> int | None:
        """Members of the aggregators' group; None while it rebalances or does not answer."""
        self._admin = self._admin or AdminClient(
            {"bootstrap.servers": self.bootstrap, "log_level": 0}
        )
        try:
            asked = self._admin.describe_consumer_groups([GROUP], request_timeout=2)
            group = asked[GROUP].result(3)
        except (KafkaException, TimeoutError):
            self._admin = None
            return None
        return len(group.members) if group.state.name == "STABLE" else None

    # --- engines ---

    def engine(self, name: str) -> Engine:
        """Return the engine with this name."""
        return next(each for each in self.engines.engines if each.name == name)

    def fill_disk(self, name: str) -> None:
        """Prevent every file of the engine from growing: its writes fail."""
        resource.prlimit(self.engine(name).pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def free_disk(self, name: str) -> bool:
        """Let files grow again; start the engine and return True if it had ended."""
        engine = self.engine(name)
        if engine.running:
            no_limit = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            with suppress(ProcessLookupError):
                resource.prlimit(engine.pid, resource.RLIMIT_FSIZE, no_limit)
                return False
        engine.kill()
        engine.start()
        return True

    # --- state ---

    def ask(self, node: str, path: str, **params: Any) -> httpx.Response:
        """GET from a web node; raises httpx.TransportError."""
        return self._http.get(
            f"http://127.0.0.1:{self.ports[node]}{path}",
            params=params,
            headers={"Authorization": f"Bearer {self.issuer.token('operator')}"},
        )

    def readiness(self, node: str) -> dict[str, Any]:
        """/readyz; a node that does not answer is not ready."""
        try:
            answer: dict[str, Any] = self.ask(node, "/readyz").json()
        except (httpx.TransportError, json.JSONDecodeError) as error:
            return {"ready": False, "reasons": [f"no answer: {type(error).__name__}"]}
        return answer

    def ready(self) -> bool:
        """Whether every web node is ready for traffic."""
        return all(self.readiness(node)["ready"] for node in WEBS)

    def archive_status(self) -> list[dict[str, Any]]:
        """The archivers' status from a web node; empty if no node answers."""
        for node in WEBS:
            with suppress(httpx.TransportError, ValueError, KeyError):
                found: list[dict[str, Any]] = self.ask(node, "/api/status").json()["archive"]
                return found
        return []


def until(holds: Callable[[], bool], within_s: float) -> bool:
    """Wait for a condition; return whether it became true in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def together(*works: Callable[[], None]) -> None:
    """Run all of them in parallel."""
    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work) for work in works]:
            done.result()
