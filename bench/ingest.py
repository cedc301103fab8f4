"""Events per second from Kafka into the windows, and what they cost.

    python -m bench.ingest [-n 1000000]

Starts engines of its own, fills a topic, measures the bound (`bench.bound`: read and decode only)
and then `manage.py run_aggregator` from its first to its last applied event. CPU seconds are read
from /proc between these two instants. The trades that the aggregator shows are compared with what
was sent; a difference is a failure, whatever the speed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import nats

from aggregator.config import Config, load
from aggregator.contracts.names import resync_subject
from aggregator.contracts.stats import ResyncChunk, ResyncRequest, TokenStats
from aggregator.errors import SwapsError
from aggregator.feed.producer import Feeder, Publisher
from aggregator.feed.progress import Progress
from aggregator.feed.stream import Record, with_repeats
from aggregator.feed.synthetic import Shape, spread, swaps
from aggregator.ingest.topics import ensure_topics
from bench.cpu import CpuMeter
from infra.embedded.engine import Process
from infra.embedded.errors import EmbeddedError
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack

ROOT = Path(__file__).parents[1]
PARTITIONS = 4
SPAN_MS = 3 * 3_600_000
JITTER_MS = 20_000
WITHIN_S = 600


class WrongResult(Exception):
    """The numbers are not those of the events that were sent."""


@dataclass(frozen=True)
class Workload:
    """What was put in the topic."""

    events: int
    duplicates: int
    tokens: int


@dataclass(frozen=True)
class Measured:
    """One run: how fast, and CPU seconds by process."""

    seconds: float
    events: int
    cpu_s: dict[str, float]

    @property
    def events_per_s(self) -> float:
        return (self.events - 1) / self.seconds

    def cpu_s_per_million(self, *names: str) -> float:
        return sum(self.cpu_s[name] for name in names) / self.events * 1e6


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def fill(config: Config, events: int, tokens: int, seed: int) -> Workload:
    """Put exactly `events` messages in the topic, 1% of them repeats."""
    ensure_topics(config)
    publisher = Publisher(config)
    progress = Progress(
        write=sys.stderr.write,
        terminal=sys.stderr.isatty(),
        clock=time.monotonic,
        share=lambda: progress.events / events,
        queue=publisher.queued,
    )
    times = spread(events, time.time_ns() // 1_000_000, SPAN_MS, JITTER_MS, seed)
    # What is repeated pushes the last new events out, so the count is exact.
    records: Iterator[Record] = islice(
        with_repeats(swaps(Shape(tokens=tokens, seed=seed), times), 0.01, seed), events
    )
    Feeder(publisher, progress).run(records)
    progress.finish(publisher.failed)
    if publisher.failed or progress.events != events:
        raise WrongResult(f"the topic is not filled: {publisher.first_failure}")
    return Workload(events, progress.repeats, tokens)


def json_lines(process: Process) -> Iterator[dict[str, Any]]:
    """What the process has logged as JSON until now."""
    # The last piece may be a line that is still being written.
    for line in process.log.read_text(errors="replace").split("\n")[:-1]:
        if line.startswith("{"):
            yield json.loads(line)


def wait_for(process: Process, what: str, found: Callable[[], bool]) -> None:
    """Wait until the log says so; raises EngineDied where the process ends before."""
    deadline = time.monotonic() + WITHIN_S
    while not found():
        process.check()
        if time.monotonic() > deadline:
            raise WrongResult(f"{process.name}: no {what} within {WITHIN_S} s:\n{process.tail()}")
        time.sleep(0.1)


def measure_bound(stack: Stack, config: Config, work: Workload) -> Measured:
    """Read and decode only."""
    process = Process("bound", stack.directory / "log" / "bound.log", stack.guard)
    arguments = [stack.kafka.address, config.kafka_topic, str(work.events)]
    process.launch([sys.executable, "-m", "bench.bound", *arguments], cwd=ROOT)
    with CpuMeter({"bound": process.pid}) as meter:
        wait_for(process, "end", lambda: any(json_lines(process)))
    process.stop(grace_s=10)
    (done,) = json_lines(process)
    return _measured(meter, done["first_at"], done["last_at"], done["seen"])


def measure_aggregator(
    stack: Stack, config: Config, work: Workload, environ: dict[str, str]
) -> Measured:
    """The real process, from its first to its last applied event; its results are checked."""
    process = Process("aggregator", stack.directory / "log" / "aggregator.log", stack.guard)
    process.launch([sys.executable, "manage.py", "run_aggregator"], environ, cwd=ROOT)

    def live() -> bool:
        lines = [line for line in json_lines(process) if line["event"] == "partition_live"]
        return len(lines) == PARTITIONS

    with CpuMeter({"aggregator": process.pid, "redis": stack.redis.pid}) as meter:
        wait_for(process, "live partitions", live)
    shown = asyncio.run(trades_shown(config.nats_url))
    process.stop(grace_s=30)
    stopped = next((line for line in json_lines(process) if line["event"] == "stopped"), None)
    if stopped is None:
        raise WrongResult(f"the aggregator did not end as it should:\n{process.tail()}")
    check(work, stopped, shown)
    return _measured(meter, stopped["first_applied_at"], stopped["last_applied_at"], work.events)


def _measured(meter: CpuMeter, first: float, last: float, events: int) -> Measured:
    return Measured(last - first, events, meter.between(first, last))


async def trades_shown(nats_url: str) -> int:
    """The trades of the 24 h windows of all tokens, as any web node would be told."""
    client = await nats.connect(nats_url)
    trades = 0
    try:
        for partition in range(PARTITIONS):
            inbox = client.new_inbox()
            answers = await client.subscribe(inbox)
            question = msgspec.json.encode(ResyncRequest(epoch=0, since=0))
            await client.publish(resync_subject(partition), question, reply=inbox)
            left = None
            while left is None or left > 0:
                message = await answers.next_msg(timeout=10)
                chunk = msgspec.json.decode(message.data, type=ResyncChunk)
                left = (chunk.chunks if left is None else left) - 1
                for row in chunk.tokens:
                    stats = msgspec.json.decode(row, type=TokenStats)
                    trades += stats.windows["24h"].trades
            await answers.unsubscribe()
    finally:
        await client.close()
    return trades


def check(work: Workload, stopped: dict[str, Any], shown: int) -> None:
    """Raises WrongResult where the aggregator counted anything but each swap once."""
    fresh = work.events - work.duplicates
    expected = {"counted": fresh, "duplicate": work.duplicates, "late": 0, "undone": 0, "void": 0}
    counted = {name: stopped[name] for name in expected}
    if counted != expected:
        raise WrongResult(f"the aggregator counted {counted}, sent were {expected}")
    if shown != fresh:
        raise WrongResult(f"the 24h windows show {shown:,} trades, sent were {fresh:,}")


def report(work: Workload, bound: Measured, real: Measured, load: float) -> dict[str, Any]:
    """The last line."""
    return {
        "bench": "ingest",
        "events_per_s": round(real.events_per_s),
        "cpu_s_per_million": round(real.cpu_s_per_million("aggregator", "redis"), 2),
        "aggregator_cpu_s_per_million": round(real.cpu_s_per_million("aggregator"), 2),
        "redis_cpu_s_per_million": round(real.cpu_s_per_million("redis"), 2),
        "bound_events_per_s": round(bound.events_per_s),
        "bound_cpu_s_per_million": round(bound.cpu_s_per_million("bound"), 2),
        "ratio": round(real.events_per_s / bound.events_per_s, 4),
        "seconds": round(real.seconds, 2),
        "events": work.events,
        "duplicates": work.duplicates,
        "partitions": PARTITIONS,
        "tokens": work.tokens,
        "cores": os.cpu_count(),
        "load_before": round(load, 2),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def run(events: int, tokens: int, seed: int) -> dict[str, Any]:
    load_before = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="bench-ingest-") as directory,
        Stack(Path(directory), only=(Nats, Redis, Kafka), report=say) as stack,
    ):
        topic = {"KAFKA_TOPIC": "bench-ingest", "KAFKA_DLQ_TOPIC": "bench-ingest.dlq"}
        environ = {
            **os.environ,
            **stack.env(),
            **topic,
            "KAFKA_PARTITIONS": str(PARTITIONS),
            "WINDOWS": "5m,1h,24h",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "info",
        }
        config = load(environ)
        work = fill(config, events, tokens, seed)
        bound = measure_bound(stack, config, work)
        say(f"bound: {bound.events_per_s:,.0f} events/s")
        real = measure_aggregator(stack, config, work, environ)
        say(f"aggregator: {real.events_per_s:,.0f} events/s, every swap counted once")
        return report(work, bound, real, load_before)


def main() -> None:
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="bench.ingest", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=1_000_000, help="messages in the topic")
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    try:
        result = run(options.n, options.tokens, options.seed)
    except (WrongResult, EmbeddedError, SwapsError) as error:
        sys.exit(f"bench.ingest failed: {error}")
    except KeyboardInterrupt:
        sys.exit("bench.ingest: interrupted, nothing is left running")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
