"""Events per second from Kafka into the windows, and what they cost.

    python -m bench.ingest [-n 1000000]

Start separate engines, fill a topic, measure the upper bound (`bench.bound`: read and decode only)
and then `manage.py run_aggregator` from its first to its last applied event. Read CPU seconds from
/proc between these two instants. Compare the trades that the aggregator shows with what was sent;
a difference fails the benchmark, whatever the speed. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

from bench import command
from bench.cpu import CpuMeter
from bench.service import PARTITIONS, BenchService, WrongResult, say
from bench.shown import shown
from bench.workload import Workload, fill

SPAN_MS = 3 * 3_600_000


@dataclass(frozen=True)
class Measured:
    """One run: its duration, and CPU seconds by process."""

    seconds: float
    events: int
    cpu_s: dict[str, float]

    @property
    def events_per_s(self) -> float:
        return (self.events - 1) / self.seconds

    def cpu_s_per_million(self, *names: str) -> float:
        return sum(self.cpu_s[name] for name in names) / self.events * 1e6


def measure_bound(service: BenchService, work: Workload) -> Measured:
    """Measure reading and decoding only."""
    arguments = [service.stack.kafka.address, service.config.kafka_topic, str(work.events)]
    process = service.helper("bench.bound", *arguments)
    with CpuMeter({"bound": process.pid}) as meter:
        process.wait_for("end", lambda: bool(process.lines("read")))
    done = process.end("read")
    return _measured(meter, done["first_at"], done["last_at"], done["seen"])


def measure_aggregator(service: BenchService, work: Workload) -> Measured:
    """Measure the real process from its first to its last applied event and check its results."""
    process = service.aggregator()
    with CpuMeter({"aggregator": process.pid, "redis": service.stack.redis.pid}) as meter:
        process.wait_live()
    trades = shown(service.config.nats_url).trades
    stopped = process.end("stopped")
    check(work, [stopped], trades)
    return _measured(meter, stopped["first_applied_at"], stopped["last_applied_at"], work.events)


def _measured(meter: CpuMeter, first: float, last: float, events: int) -> Measured:
    return Measured(last - first, events, meter.between(first, last))


def check(work: Workload, stopped: list[dict[str, Any]], trades: int) -> None:
    """Raise WrongResult unless the aggregators counted each swap exactly once."""
    fresh = work.events - work.duplicates
    expected = {"counted": fresh, "duplicate": work.duplicates, "late": 0, "undone": 0, "void": 0}
    counted = {name: sum(line[name] for line in stopped) for name in expected}
    if counted != expected:
        raise WrongResult(f"counted were {counted}, sent were {expected}")
    if trades != fresh:
        raise WrongResult(f"the 24h windows show {trades:,} trades, sent were {fresh:,}")


def report(work: Workload, bound: Measured, real: Measured) -> dict[str, Any]:
    """Return the last line of the output."""
    return {
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
    }


def run(options: argparse.Namespace) -> dict[str, Any]:
    with BenchService("ingest") as service:
        work = fill(service.config, options.n, options.tokens, options.seed, SPAN_MS)
        bound = measure_bound(service, work)
        say(f"bound: {bound.events_per_s:,.0f} events/s")
        real = measure_aggregator(service, work)
        say(f"aggregator: {real.events_per_s:,.0f} events/s, every swap counted once")
        return report(work, bound, real)


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.ingest", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=1_000_000, help="messages in the topic")
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
