"""Swaps per second over HTTP into Kafka, and what they cost one web node.

    python -m bench.ingest_http [--lines 500] [--rate 60000] [--seconds 8]

Starts separate engines and one Daphne with INGEST=on. A separate process (`bench.ingest_load`)
posts bodies of swaps: as many as possible for the peak, then at an even rate for the latency, while
a WebSocket of the same node measures how long it waits. Compares the records of the topic with what
the answers accepted; a difference fails the benchmark. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Any, Final, Self

import httpx
from confluent_kafka import Consumer, TopicPartition

from api.auth.demo_issuer import ensure_keys, issue
from bench import command
from bench.cpu import CpuMeter
from bench.service import PARTITIONS, ROOT, BenchService, Logged, WrongResult, say
from infra.embedded.ports import free_port

LINES: Final = 500
RATE: Final = 60_000
_UNLIMITED: Final = dict.fromkeys(
    ("RATE_LIMIT", "RATE_BURST", "RATE_LIMIT_IP", "RATE_BURST_IP"), "1000000"
)


class IngestNode:
    """Engines and one Daphne; all of them end with the `with` block."""

    def __enter__(self) -> Self:
        self._closing = ExitStack()
        self.service = self._closing.enter_context(
            BenchService("ingest-http", INGEST="on", CLICKHOUSE_URL="", **_UNLIMITED)
        )
        directory = self.service.directory
        self._token = issue(
            ensure_keys(directory / "issuer"), subject="bench", issuer="swaps-demo",
            audience="swaps", scope="swaps:write stats:read ws:connect",
            issued_at=int(time.time()), ttl_ms=3_600_000,
        )  # fmt: skip
        self._port = free_port()
        env = self.service.env | {
            "JWT_PUBLIC_KEY_FILE": str(directory / "issuer" / "public.pem"),
            "DJANGO_SECRET_KEY": "bench" * 12,
            "DATABASE_FILE": str(directory / "db.sqlite3"),
            "LOG_LEVEL": "warning",
        }
        for arguments in (["migrate", "-v", "0"], ["ensure_topology"]):
            subprocess.run(
                [sys.executable, "manage.py", *arguments],
                cwd=ROOT, env=env, check=True, stdout=sys.stderr,
            )  # fmt: skip
        self.process = Logged("daphne", directory / "daphne.log", self.service.stack.guard)
        self._closing.callback(self.process.kill)
        self.process.launch(
            [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1",
             "-p", str(self._port), "swapsite.asgi:application"], env, ROOT,
        )  # fmt: skip
        self.process.wait_ready(self._answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self._port}/healthz", timeout=5).is_success
        except httpx.TransportError:
            return False

    def load(self, lines: int, seconds: float, rate: float = 0) -> dict[str, Any]:
        """Post bodies for that many seconds; without a rate, as many as possible."""
        arguments = [str(self._port), str(lines), str(seconds), str(rate)]
        done = subprocess.run(
            [sys.executable, "-m", "bench.ingest_load", *arguments],
            cwd=ROOT, input=self._token, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise WrongResult(f"the senders failed: {done.stderr}\n{self.process.tail()}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def records(self) -> int:
        """Return the number of records in the topic."""
        config = self.service.config
        consumer = Consumer({"bootstrap.servers": config.kafka_bootstrap, "group.id": "bench"})
        try:
            ends = (
                consumer.get_watermark_offsets(TopicPartition(config.kafka_topic, each), timeout=10)
                for each in range(PARTITIONS)
            )
            return sum(end for _, end in ends)
        finally:
            consumer.close()


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure as the command line says."""
    return measured(options.lines, options.rate, options.seconds)


def measure(rounds: int) -> dict[str, Any]:
    """Measure with the defaults, a second for each round; a part of `bench.sources`."""
    return measured(LINES, RATE, rounds)


def measured(lines: int, rate: int, seconds: float) -> dict[str, Any]:
    """Measure the peak, then the latency at an even rate of swaps/s."""
    with IngestNode() as node:
        say("peak")
        with CpuMeter({"web": node.process.pid}) as meter:
            peak = node.load(lines, seconds)
        cpu_s = meter.between(peak["begun_at"], peak["ended_at"])["web"]
        say(f"peak: {peak['lines_per_s']:,} lines/s; then {rate:,} lines/s")
        even = node.load(lines, seconds, rate)
        accepted = peak["accepted"] + even["accepted"]
        if (records := node.records()) != accepted:
            raise WrongResult(f"{records:,} records in the topic, {accepted:,} swaps were accepted")
        return {
            "lines": lines,
            "peak_lines_per_s": peak["lines_per_s"],
            "peak_p50_ms": peak["p50_ms"],
            "peak_ping_p99_ms": peak["ping_p99_ms"],
            "web_cpu_s_per_million": round(cpu_s / peak["measured"] * 1e6, 2),
            "rate": rate,
            "lines_per_s": even["lines_per_s"],
            "p50_ms": even["p50_ms"],
            "p99_ms": even["p99_ms"],
            "ping_p50_ms": even["ping_p50_ms"],
            "ping_p99_ms": even["ping_p99_ms"],
            "web_mb": round(node.process.resident_bytes() / 2**20),
        }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(
        prog="bench.ingest_http", description=(__doc__ or "").strip().partition("\n")[0]
    )
    parser.add_argument("--lines", type=int, default=LINES, help="swaps in one body")
    parser.add_argument("--rate", type=int, default=RATE, help="swaps/s for the latency")
    parser.add_argument("--seconds", type=float, default=8, help="length of each measurement")
    command.main(parser, run)


if __name__ == "__main__":
    main()
