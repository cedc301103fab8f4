"""A service with its archive under faults: at the end three tables and all windows match the log.

Each seed is a separate run. An aggregator with its archiver inside and an archiver alone are killed
with -9 (also between an intent, its insert and its commit), ClickHouse is killed, and Redis loses
the tail of its data or all of it, while swaps, repeats, retractions in either order, late swaps and
bad messages arrive.

    python -m tests.chaos.archive --seeds 20
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.engine import Process
from infra.embedded.kafka import Kafka
from infra.embedded.stack import Stack
from tests.chaos.expected import Expected, event_of
from tests.chaos.reader import Reader
from tests.chaos.verdict import Findings, judge_owners
from tests.support.archived import Archive, archive, messages, token_at, wait_archived
from tests.support.oracle import Logged, Rules
from tests.support.service import Service, swap

PARTITIONS: Final = 4
FAULTS: Final = (
    "kill_aggregator",
    "kill_archiver",
    "clickhouse",
    "redis_tail",
    "redis_empty",
    "after_intent",
    "after_insert",
)
_WITHIN_S: Final = 90
_POLL_S: Final = 0.1
_SETTINGS: Final = {
    "ARCHIVE_BATCH": "60",
    "ARCHIVE_LINGER": "100ms",
    "BATCH_SIZE": "50",
    "SNAPSHOT_INTERVAL": "250ms",
}


@dataclass
class Outcome:
    """The result of one seed; `faults` are those that happened."""

    seed: int
    faults: list[str]
    seconds: float = 0.0
    rows: int = 0
    findings: Findings = field(default_factory=Findings)


def faults_of(seed: int) -> list[str]:
    """Return five faults; an even seed and the next one cover every fault together."""
    order = random.Random(f"faults:{seed // 2}").sample(FAULTS, len(FAULTS))
    return order[:5] if seed % 2 == 0 else order[2:]


def play(seed: int, directory: Path, kafka: Stack) -> Outcome:
    """Play one run. Raises AssertionError where it does not settle or the archive is wrong."""
    outcome = Outcome(seed, faults_of(seed))
    begun = time.monotonic()
    with (
        Stack(directory / "clickhouse", only=(ClickHouse,)) as own,
        archive(own.clickhouse.url) as kept,
        Service(directory, kafka, CLICKHOUSE_URL=kept.url, **_SETTINGS) as service,
        Reader(service.engines.nats.url) as reader,
    ):
        ensure_topics(load(service.env))
        run = _Run(seed, service, own.clickhouse, reader)
        run.begin()
        for fault in outcome.faults:
            run.strike(fault)
        run.heal()
        outcome.rows = len(wait_archived(service, kept, _WITHIN_S).rows)
        run.judge(outcome.findings)
        outcome.rows = _stays(service, kept, outcome.rows)
    outcome.seconds = time.monotonic() - begun
    return outcome


def _stays(service: Service, kept: Archive, rows: int) -> int:
    """Assert that no more rows arrive."""
    found = len(wait_archived(service, kept, 5).rows)
    assert found == rows
    return found


class _Run:
    def __init__(self, seed: int, service: Service, clickhouse: ClickHouse, reader: Reader) -> None:
        self._rng = random.Random(seed)
        self._service = service
        self._clickhouse = clickhouse
        self._reader = reader
        self._sent: list[list[dict[str, Any]]] = [[] for _ in range(PARTITIONS)]
        self._ends = [0] * PARTITIONS
        self._number = 0
        self._started: Counter[str] = Counter()
        self._members: dict[str, Process] = {}
        self._log_before = 0

    def begin(self) -> None:
        """Start everything and wait until it has counted the first swaps."""
        self._start("aggregator")
        self._start("archiver")
        self._burst()
        self._wait(self._counted, "the first swaps")

    def _start(self, kind: str, fault: str = "") -> None:
        self._started[kind] += 1
        name = f"{kind}-{self._started[kind]}"
        # A static member rejoins immediately: the group need not wait for the dead one to expire.
        settings = {"KAFKA_INSTANCE_ID": kind, "SWAPS_FAULT": fault}
        if kind == "aggregator":
            self._members[kind] = self._service.aggregator(name, **settings)
        else:
            self._members[kind] = self._service.archiver(name, **settings)

    def _kill(self, kind: str) -> None:
        self._members[kind].kill()

    def _armed(self, point: str) -> None:
        """Start an archiver that dies at the fault point, then one that takes over from it."""
        self._kill("archiver")
        self._start("archiver", fault=f"{point}:{self._rng.randint(1, 3)}")
        armed = self._members["archiver"]
        until = time.monotonic() + 10
        while armed.running and time.monotonic() < until:
            self._burst(20)
            time.sleep(0.1)
        armed.kill()
        self._start("archiver")

    def strike(self, fault: str) -> None:
        """Send swaps before, during and after the fault."""
        self._burst()
        match fault:
            case "kill_aggregator" | "kill_archiver":
                kind = fault.removeprefix("kill_")
                self._kill(kind)
                self._burst()
                self._start(kind)
            case "clickhouse":
                self._clickhouse.kill()
                self._burst()
                self._wait(self._counted, "windows that do without ClickHouse")
                self._clickhouse.start()
            case "redis_tail" | "redis_empty":
                self._lose_redis(everything=fault == "redis_empty")
                self._burst()
                self._service.engines.redis.start()
            case point:
                self._armed(point)
        self._burst()
        self._wait(self._counted, f"all that came with {fault}")

    def _lose_redis(self, *, everything: bool) -> None:
        redis = self._service.engines.redis
        redis.kill()
        if everything:
            shutil.rmtree(redis.data)
            return
        for file in (redis.data / "appendonlydir").glob("*.incr.aof"):
            size = file.stat().st_size
            since_burst = max(0, size - self._log_before)
            os.truncate(file, size - round(since_burst * self._rng.uniform(0.2, 1)))

    def heal(self) -> None:
        """Wait for the right numbers after the last fault."""
        self._burst()
        self._wait(self._settled, "the end")

    def _burst(self, size: int = 80) -> None:
        files = (self._service.engines.redis.data / "appendonlydir").glob("*.incr.aof")
        self._log_before = sum(file.stat().st_size for file in files)
        for partition in range(PARTITIONS):
            events = [each for _ in range(size // PARTITIONS) for each in self._events(partition)]
            self._service.produce(events, partition=partition)
            self._ends[partition] += len(events)

    def _events(self, partition: int) -> list[bytes]:
        """Return a new swap, perhaps with its retraction before or after it, or with a repeat."""
        draw, sent = self._rng, self._sent[partition]
        self._number += 1
        late = 600_000 if draw.random() < 0.03 else 0
        event = json.loads(
            swap(
                self._number,
                token=token_at(partition, draw.randrange(3)),
                timestamp=time.time_ns() // 1_000_000 - draw.randrange(5_000) - late,
                amount_usd=None if draw.random() < 0.05 else f"{draw.randint(1, 10**9) / 1e6:.6f}",
                trader=f"0x{draw.randrange(9):040x}",
                removed=False,
            )
        )
        undone = event | {"removed": True}
        chance = draw.random()
        if chance < 0.03:
            found = [undone, event]
        elif chance < 0.06:
            found = [event, undone, undone]
        elif chance < 0.09:
            found = [event, event]
        elif chance < 0.3 and sent:
            found = [event, draw.choice(sent) | {"removed": draw.random() < 0.4}]
        elif chance < 0.31:
            found = [event, event | {"amount": "-1", "bad": True, "log_index": 1}]
        else:
            found = [event]
        sent.append(event)
        return [json.dumps(each).encode() for each in found]

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _WITHIN_S
        while not holds():
            assert time.monotonic() < deadline, f"{what}: not within {_WITHIN_S} s"
            time.sleep(_POLL_S)
        for kind, member in self._members.items():
            assert member.running, f"{kind} ended on its own: {member.tail(5)}"

    def _counted(self) -> bool:
        """Whether every partition is live with nothing left to read, on the board too."""
        status = self._reader.status()
        return len(status) == PARTITIONS and all(
            each.state == "live"
            and each.in_sync
            and (each.next_offset or 0) >= self._ends[partition]
            for partition, each in status.items()
        )

    def _settled(self) -> bool:
        findings = Findings()
        if self._counted():
            self.judge(findings)
            return not findings.violations
        return False

    def judge(self, findings: Findings) -> None:
        """Compare every number of every token on the board with the whole log."""
        log = [
            Logged(event_of(each.value), *each.place, each.timestamp, each.origin)
            for each in messages(self._service.env["KAFKA_BOOTSTRAP"], self._service.topic)
        ]
        rows = {(token, row.partition): row for token, row in self._reader.rows().items()}
        judge_owners(Expected(log, Rules(homes=PARTITIONS)), rows, findings)
        findings.violations += self._reader.steps_back


def main() -> int:
    """Play the seeds; exit status 1 where one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.archive", description=__doc__)
    parser.add_argument("--seeds", type=int, default=6, help="how many seeds to play")
    parser.add_argument("--seed", type=int, help="play only this seed")
    parser.add_argument("--lanes", type=int, default=2, help="how many runs at a time")
    options = parser.parse_args()
    seeds = range(options.seeds) if options.seed is None else [options.seed]
    directory = Path(tempfile.mkdtemp(prefix="chaos-archive-"))
    failed = 0
    with (
        Stack(directory / "kafka", only=(Kafka,)) as kafka,
        ThreadPoolExecutor(options.lanes) as pool,
    ):
        playing = {seed: pool.submit(play, seed, directory / str(seed), kafka) for seed in seeds}
        for seed, run in playing.items():
            error = run.exception()
            failed += error is not None
            word = f"FAILED: {error}" if error else f"right, {run.result().rows} rows"
            print(f"seed {seed}: {', '.join(faults_of(seed))}: {word}", flush=True)
    print(f"{len(playing) - failed} of {len(playing)} right; what is left: {directory}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
