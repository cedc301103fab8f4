"""The ingest rate with more tokens, and with a second process in the group.

    python -m bench.scale [-n 1000000] [--tokens 2000,20000,200000] [--processes 1,2]

Two kinds of runs, each with fresh engines and its results checked:

- replay: the topic is full before the aggregator starts, as in bench.ingest; no patch is published.
- live: the aggregators share the partitions and are live before the first swap exists. The topic is
  filled inside one open Kafka transaction, whose records become readable together when it commits.
  Patches are published throughout.

The rate counts from the first applied swap of any process to the last of any process; CPU time is
measured between these two instants. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from confluent_kafka import Producer

from aggregator.feed.stream import Record
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config
from bench import command
from bench.cpu import CpuMeter
from bench.ingest import SPAN_MS, check
from bench.service import PARTITIONS, BenchAggregator, BenchService, say
from bench.shown import shown
from bench.workload import Workload, fill, stream

_TRANSACTION_MS = 900_000
_POLL_S = 0.1


@contextmanager
def filled_uncommitted(
    config: Config, events: int, tokens: int, seed: int
) -> Iterator[tuple[Producer, Workload]]:
    """Fill the topic in a transaction that the caller commits; until then nobody can read it."""
    producer = Producer(
        {
            "bootstrap.servers": config.kafka_bootstrap,
            "log_level": 0,
            "transactional.id": "bench-scale",
            "transaction.timeout.ms": _TRANSACTION_MS,
            "partitioner": "murmur2_random",
            "linger.ms": 5,
            "queue.buffering.max.kbytes": 65_536,
        }
    )
    ensure_topics(config)
    producer.init_transactions()
    producer.begin_transaction()
    repeats = 0
    for record in stream(events, tokens, seed, SPAN_MS):
        _produce(producer, config.kafka_topic, record)
        repeats += record.repeat
    producer.flush()
    yield producer, Workload(events, repeats, tokens)


def _produce(producer: Producer, topic: str, record: Record) -> None:
    while True:
        try:
            producer.produce(topic, record.value, record.key)
        except BufferError:
            producer.poll(_POLL_S)
        else:
            return


def replay(service: BenchService, options: argparse.Namespace, tokens: int) -> dict[str, Any]:
    """Measure one process that reads a full topic."""
    work = fill(service.config, options.n, tokens, options.seed, SPAN_MS)
    process = service.aggregator()
    with CpuMeter(_pids(service, [process])) as meter:
        process.wait_live()
    return row(service, work, [process], meter, "replay")


def live(
    service: BenchService, options: argparse.Namespace, tokens: int, processes: int
) -> dict[str, Any]:
    """Measure processes that share the partitions of a topic that fills in an instant."""
    topic = filled_uncommitted(service.config, options.n, tokens, options.seed)
    with topic as (producer, work):
        aggregators = [service.aggregator(f"aggregator-{n}") for n in range(processes)]
        for process in aggregators:
            process.wait_live(PARTITIONS // processes)
        with CpuMeter(_pids(service, aggregators)) as meter:
            producer.commit_transaction()
            # A scrape costs the process CPU time, so scrape rarely.
            aggregators[0].wait_for("end", lambda: _applied(aggregators) >= work.events, 0.5)
    return row(service, work, aggregators, meter, "live")


def _applied(aggregators: list[BenchAggregator]) -> float:
    # Counts ingested events: one that was not applied would fail the check that follows.
    return sum(process.metric("swaps_ingest_events_total") for process in aggregators)


def _pids(service: BenchService, aggregators: list[BenchAggregator]) -> dict[str, int]:
    engines = {engine.name: engine.pid for engine in service.stack.engines}
    return {process.name: process.pid for process in aggregators} | engines


def row(
    service: BenchService,
    work: Workload,
    processes: list[BenchAggregator],
    meter: CpuMeter,
    mode: str,
) -> dict[str, Any]:
    """Return the figures of one run. Raises WrongResult if a swap is missing or counted twice."""
    trades = settled_trades(service, work)
    stopped = [process.end("stopped") for process in processes]
    check(work, stopped, trades)
    first = min(line["first_applied_at"] for line in stopped)
    last = max(line["last_applied_at"] for line in stopped)
    cpu = {name: used / work.events * 1e6 for name, used in meter.between(first, last).items()}
    result = {
        "mode": mode,
        "tokens": work.tokens,
        "processes": len(processes),
        "events_per_s": round((work.events - 1) / (last - first)),
        "seconds": round(last - first, 2),
        "events_by_process": [line["counted"] + line["duplicate"] for line in stopped],
        "cpu_s_per_million": round(sum(cpu.values()), 2),
        "cpu_s_per_million_of": {name: round(used, 2) for name, used in cpu.items()},
        "load": round(os.getloadavg()[0], 2),
    }
    say(f"{mode}, {work.tokens:,} tokens, {len(processes)}: {result['events_per_s']:,} events/s")
    return result


def settled_trades(service: BenchService, work: Workload) -> int:
    """Return the trades that the windows show; ask again while a last flush may be in flight."""
    fresh = work.events - work.duplicates
    trades = -1
    for _ in range(20):
        trades = shown(service.config.nats_url).trades
        if trades >= fresh:
            break
    return trades


def fall_pct(rows: list[dict[str, Any]], mode: str) -> float | None:
    """Return the drop of one process's rate, in %, from the fewest to the most tokens."""
    of_mode = [row for row in rows if row["mode"] == mode and row["processes"] == 1]
    by_tokens = sorted(of_mode, key=lambda row: int(row["tokens"]))
    if len(by_tokens) < 2:
        return None
    before, after = (float(row["events_per_s"]) for row in (by_tokens[0], by_tokens[-1]))
    return round(100 * (before - after) / before, 1)


def run(options: argparse.Namespace) -> dict[str, Any]:
    many_tokens = [int(tokens) for tokens in options.tokens.split(",")]
    rows = []
    if "replay" in options.modes:
        for tokens in many_tokens:
            with BenchService("scale") as service:
                rows.append(replay(service, options, tokens))
    if "live" in options.modes:
        several = [int(processes) for processes in options.processes.split(",")]
        runs = [(tokens, 1) for tokens in many_tokens]
        runs += [(many_tokens[0], processes) for processes in several if processes != 1]
        for tokens, processes in runs:
            with BenchService("scale") as service:
                rows.append(live(service, options, tokens, processes))
    return {
        "events": options.n,
        "partitions": PARTITIONS,
        "rows": rows,
        "fall_pct": {mode: fall_pct(rows, mode) for mode in options.modes.split(",")},
    }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.scale", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=1_000_000, help="messages in the topic of each run")
    parser.add_argument("--tokens", default="2000,20000,200000")
    parser.add_argument("--processes", default="1,2", help="live runs with the fewest tokens")
    parser.add_argument("--modes", default="replay,live")
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
