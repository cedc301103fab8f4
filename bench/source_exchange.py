"""Trades a second of one exchange, from its frames to Kafka's acknowledgment.

    python -m bench.source_exchange [-n 400000]

A venue on loopback sends one trade a frame as fast as `manage.py run_source` reads it. Measured
from the first to the last record in the topic, which must have every trade once. The venue and the
broker run on the same cores.
"""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

from confluent_kafka import Consumer, TopicPartition

from aggregator.member.topics import ensure_topics
from bench import command
from bench.cpu import CpuMeter
from bench.exchange_server import symbols_of
from bench.service import PARTITIONS, ROOT, BenchService, Logged, WrongResult, say
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port

SYMBOLS: Final = 20
TRADES: Final = 80_000
"""Trades of one round."""
_LATE_S: Final = 60


class TopicCount:
    """How much the topic holds."""

    def __init__(self, service: BenchService) -> None:
        self._name = service.config.kafka_topic
        self._consumer = Consumer(
            {"bootstrap.servers": service.stack.kafka.address, "group.id": "bench-exchange"}
        )

    def records(self) -> int:
        """Return the number of records in all partitions."""
        ends = [
            self._consumer.get_watermark_offsets(TopicPartition(self._name, partition), timeout=10)
            for partition in range(PARTITIONS)
        ]
        return sum(end for _, end in ends)


def _source(service: BenchService, addresses: dict[str, Any]) -> Logged:
    listed = ", ".join(f'"{symbol}"' for symbol in symbols_of(SYMBOLS))
    config = service.directory / "sources.toml"
    config.write_text(
        f"""[source.bench]
kind = "exchange"
venue = "binance"
symbols = [{listed}]
assume_par = ["USDT"]
stream_url = "{addresses["stream"]}"
rest_url = "{addresses["rest"]}"
"""
    )
    process = Logged("source", service.directory / "log" / "source.log", service.stack.guard)
    env = service.env | {"METRICS_PORT": str(free_port())}
    arguments = ["manage.py", "run_source", "--config", str(config), "--name", "bench"]
    process.launch([sys.executable, *arguments], env, cwd=ROOT)
    return process


def _arrive(source: Logged, topic: TopicCount, trades: int) -> tuple[float, float]:
    """Wait until all trades are in the topic; return when the first and the last were."""
    first = 0.0
    deadline = time.monotonic() + _LATE_S + trades / 2_000
    while (count := topic.records()) < trades:
        now = time.time()
        first = first or (now if count else 0.0)
        source.check()
        if time.monotonic() > deadline:
            raise WrongResult(f"{count:,} of {trades:,} trades arrived:\n{source.tail()}")
        time.sleep(0.02)
    if count != trades:
        raise WrongResult(f"{trades:,} trades are {count:,} records")
    return first, time.time()


def measure(rounds: int) -> dict[str, Any]:
    """Return what was measured with TRADES trades a round."""
    return measure_trades(rounds * TRADES)


def measure_trades(trades: int) -> dict[str, Any]:
    """Return what was measured with so many trades."""
    with BenchService("exchange", engines=(Nats, Kafka)) as service:
        ensure_topics(service.config)
        venue = service.helper("bench.exchange_server", str(trades), str(SYMBOLS))
        venue.wait_for("addresses", lambda: bool(venue.lines("listening")))
        topic = TopicCount(service)
        source = _source(service, venue.lines("listening")[0])
        pids = {"source": source.pid, "venue": venue.pid, "kafka": service.stack.kafka.pid}
        with CpuMeter(pids) as meter:
            first, last = _arrive(source, topic, trades)
        cpu = meter.between(first, last)
        seconds = last - first
        say(f"exchange: {trades / seconds:,.0f} trades/s, each trade in the topic once")
        return {
            "trades_per_s": round(trades / seconds),
            "source_cpu_s_per_million": round(cpu["source"] / trades * 1e6, 2),
            "venue_cpu_s_per_million": round(cpu["venue"] / trades * 1e6, 2),
            "kafka_cpu_s_per_million": round(cpu["kafka"] / trades * 1e6, 2),
            "resident_mb": round(source.resident_bytes() / 1e6),
            "seconds": round(seconds, 2),
            "trades": trades,
        }


def run(options: argparse.Namespace) -> dict[str, Any]:
    return measure_trades(options.n)


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(
        prog="bench.source_exchange", description=(__doc__ or "").strip()
    )
    parser.add_argument("-n", type=int, default=5 * TRADES, help="trades to send")
    command.main(parser, run)


if __name__ == "__main__":
    main()
