"""The service under measurement: separate engines, aggregator processes, their logs and metrics.

Everything that a benchmark starts is a child of one `BenchService` and ends with it. This module
must not know what is measured.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client.parser import text_string_to_metric_families

from aggregator.runtime.config import load
from infra.embedded.engine import Engine, Process
from infra.embedded.guard import Guard
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack

ROOT = Path(__file__).parents[1]
PARTITIONS = 4
WITHIN_S = 900
_STOP_WITHIN_S = 60
_ENGINES: Final[tuple[type[Engine], ...]] = (Nats, Redis, Kafka)


class WrongResult(Exception):
    """The numbers differ from what was sent, or nothing arrived."""


def say(text: str) -> None:
    """Print a progress line to stderr; only the result goes to stdout."""
    print(text, file=sys.stderr, flush=True)


class Logged(Process):
    """A process that logs JSON lines."""

    def lines(self, event: str | None = None) -> list[dict[str, Any]]:
        """Return the JSON lines that it has logged so far, only those of `event` if it is given."""
        return [line for line in self._lines() if event in {None, line.get("event")}]

    def _lines(self) -> Iterator[dict[str, Any]]:
        # The process may still be writing the last line.
        for line in self.log.read_text(errors="replace").split("\n")[:-1]:
            if line.startswith("{"):
                yield json.loads(line)

    def wait_for(self, what: str, found: Callable[[], bool], every_s: float = 0.1) -> None:
        """Wait until `found` returns true. Raises EngineDied if the process ends first."""
        deadline = time.monotonic() + WITHIN_S
        while not found():
            self.check()
            if time.monotonic() > deadline:
                raise WrongResult(f"{self.name}: no {what} within {WITHIN_S} s:\n{self.tail()}")
            time.sleep(every_s)

    def end(self, event: str) -> dict[str, Any]:
        """Send SIGTERM and return the log line `event`, which every orderly end writes."""
        self.stop(_STOP_WITHIN_S)
        if not (lines := self.lines(event)):
            raise WrongResult(f"{self.name} did not end as it should:\n{self.tail()}")
        return lines[-1]

    def resident_bytes(self) -> int:
        """Return its resident memory (Linux)."""
        pages = Path(f"/proc/{self.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


class BenchAggregator(Logged):
    """`manage.py run_aggregator`, its log and its metrics. `started_at` is in epoch seconds."""

    def __init__(self, name: str, log: Path, guard: Guard) -> None:
        super().__init__(name, log, guard)
        self.metrics_port = free_port()
        self.started_at = 0.0

    def begin(self, env: dict[str, str]) -> None:
        """Start it without waiting."""
        self.started_at = time.time()
        self.launch(
            [sys.executable, "manage.py", "run_aggregator"],
            env | {"METRICS_PORT": str(self.metrics_port)},
            cwd=ROOT,
        )

    def live(self) -> set[int]:
        """Return the partitions that became live in this process and were not released."""
        live: set[int] = set()
        for line in self.lines():
            if line["event"] == "partition_live":
                live.add(line["partition"])
            elif line["event"] == "partition_released":
                live.discard(line["partition"])
        return live

    def wait_live(self, partitions: int = PARTITIONS) -> None:
        """Wait until it owns that many partitions and each has replayed the log to its end."""
        self.wait_for("live partitions", lambda: len(self.live()) == partitions)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels, as Prometheus reads it."""
        url = f"http://127.0.0.1:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as answer:
            text = answer.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name
        )


class BenchService:
    """Engines, a topic and aggregators of one measurement; all end with the `with` block."""

    def __init__(
        self, name: str, *, engines: tuple[type[Engine], ...] = _ENGINES, **settings: str
    ) -> None:
        self._closing = ExitStack()
        self._name = name
        self._engines = engines
        self._settings = settings

    def __enter__(self) -> Self:
        directory = self._closing.enter_context(
            tempfile.TemporaryDirectory(prefix=f"bench-{self._name}-", ignore_cleanup_errors=True)
        )
        self.stack = Stack(Path(directory), only=self._engines, report=say)
        self._closing.enter_context(self.stack)
        self.env = {
            **os.environ,
            **self.stack.env(),
            "KAFKA_TOPIC": f"bench-{self._name}",
            "KAFKA_DLQ_TOPIC": f"bench-{self._name}.dlq",
            "KAFKA_PARTITIONS": str(PARTITIONS),
            "WINDOWS": "5m,1h,24h",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "info",
            **self._settings,
        }
        self.config = load(self.env)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    @property
    def directory(self) -> Path:
        """The directory for the processes' files; deleted with the service."""
        return self.stack.directory

    def aggregator(self, name: str = "aggregator", **settings: str) -> BenchAggregator:
        """Start an aggregator; each name has a separate log."""
        process = BenchAggregator(name, self._log(name), self.stack.guard)
        process.begin(self.env | settings)
        return process

    def archiver(self, name: str = "archiver") -> Logged:
        """Start an archiver without an aggregator."""
        process = Logged(name, self._log(name), self.stack.guard)
        process.launch([sys.executable, "manage.py", "run_archiver"], self.env, cwd=ROOT)
        return process

    def helper(self, module: str, *arguments: str | Path) -> Logged:
        """Start a module of the benchmarks as a separate process."""
        process = Logged(module, self._log(module), self.stack.guard)
        process.launch([sys.executable, "-m", module, *arguments], self.env, cwd=ROOT)
        return process

    def _log(self, name: str) -> Path:
        return self.directory / "log" / f"{name}.log"


def instant(line: dict[str, Any]) -> float:
    """Return when a line was logged, in epoch seconds."""
    return datetime.fromisoformat(line["at"]).timestamp()
