"""Rows per second from Kafka into the three tables of the archive, and what a row costs on disk.

    python -m bench.archive [-n 1000000]
    python -m bench.archive --outage 600 [--before 60] [--rate 5000]

Start separate engines, fill a topic and measure `manage.py run_archiver` from its first read until
raw_swaps and both materialized views hold every row. Read CPU seconds and the archiver's peak
resident memory from /proc between these instants. Compare the sums of all three tables with what
was sent, then merge all parts and count the bytes of raw_swaps by column.

With --outage, measure the real-time path instead: feed `run_aggregator`, with its archiver inside,
at an even rate, kill ClickHouse after --before seconds and start it again --outage seconds later.
Report the latency from produce() to the patch and the resident memory before and during the
outage, and require that every swap is archived. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import threading
import time
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from clickhouse_driver import Client

from bench import command
from bench.command import percentile
from bench.cpu import CpuMeter
from bench.latency import latencies, listen, read_sent
from bench.service import BenchService, Logged, WrongResult, instant, say
from bench.workload import WorkloadTally, fill
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.kafka import Kafka
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.s3 import S3

ENGINES: Final = (S3, Nats, Redis, Kafka, ClickHouse)
_WARM_UP_S: Final = 5


class ArchiveTables:
    """Queries on the archive's tables; each opens a connection."""

    def __init__(self, url: str) -> None:
        self._url = url

    def ask(self, query: str) -> Any:
        """Return the rows of a query."""
        with Client.from_url(self._url) as client:
            return client.execute(query)

    def count(self) -> int:
        """Return the number of rows in raw_swaps; 0 while the table does not exist."""
        if not self.ask("EXISTS TABLE raw_swaps")[0][0]:
            return 0
        return int(self.ask("SELECT count() FROM raw_swaps")[0][0])

    def sums(self) -> dict[str, tuple[int, Decimal]]:
        """Return (trades, volume in USD) of each table."""
        return {
            "raw_swaps": self.ask("SELECT sum(sign), sum(sign * amount_usd) FROM raw_swaps")[0],
            "daily_token_agg": self.ask("SELECT sum(trades), sum(volume_usd) FROM daily_token_agg")[
                0
            ],
            "candles_1m": self.ask("SELECT sum(trades), sum(volume_usd) FROM candles_1m")[0],
        }

    def columns(self) -> dict[str, float]:
        """Return the compressed bytes per row of each column of raw_swaps, without the index."""
        rows = self.count()
        found = self.ask(
            "SELECT name, data_compressed_bytes FROM system.columns "
            "WHERE database = currentDatabase() AND table = 'raw_swaps' "
            "AND data_compressed_bytes > 0 ORDER BY data_compressed_bytes DESC"
        )
        return {name: round(size / rows, 2) for name, size in found}

    def bytes_on_disk(self) -> dict[str, int]:
        """Return the bytes of the active parts of each table."""
        return dict(
            self.ask(
                "SELECT table, toInt64(sum(bytes_on_disk)) FROM system.parts "
                "WHERE active AND database = currentDatabase() GROUP BY table"
            )
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the archiver's rate and the size of a row on disk."""
    with BenchService("archive", engines=ENGINES, ARCHIVE_BATCH=str(options.batch)) as service:
        tally = WorkloadTally()
        work = fill(
            service.config, options.n, options.tokens, options.seed, options.span * 1_000, tally
        )
        tables, rows = ArchiveTables(service.config.clickhouse_url), work.events - work.duplicates
        archiver = service.archiver()
        pids = {
            "archiver": archiver.pid,
            "clickhouse": service.stack.clickhouse.pid,
            "redis": service.stack.redis.pid,
        }
        memory = Memory(archiver)
        with CpuMeter(pids) as meter:
            archiver.wait_for("first line", lambda: bool(archiver.lines("archiving")))
            archiver.wait_for("rows", lambda: tables.count() >= rows, every_s=0.1)
            last = time.time()
            time.sleep(0.2)
        first = instant(archiver.lines("archiving")[0])
        memory.close()
        archiver.end("archiver_stopped")
        sums = tables.sums()
        totals = tally.window(int(time.time() // 60) + 60, 10 * 24 * 60)
        for table, found in sums.items():
            if found != (totals.trades, Decimal(totals.volume_micros) / 1_000_000):
                raise WrongResult(f"{table} holds {found}, sent were {totals}")
        say(f"{rows / (last - first):,.0f} rows/s, all three tables hold what was sent")
        ((blocks,),) = tables.ask(
            "SELECT uniqExact(partition, ingested_at, toDate(timestamp, 'UTC')) FROM raw_swaps"
        )
        parts = tables.ask(
            "SELECT count() FROM system.parts WHERE active AND table = 'raw_swaps' "
            "AND database = currentDatabase()"
        )[0][0]
        for table in sums:
            tables.ask(f"OPTIMIZE TABLE {table} FINAL")
        size = tables.bytes_on_disk()
        cpu = meter.between(first, last)
        return {
            "rows_per_s": round(rows / (last - first)),
            "rows": rows,
            "seconds": round(last - first, 2),
            "cpu_s_per_million": {name: round(used / rows * 1e6, 2) for name, used in cpu.items()},
            "archiver_rss_mb": max(memory.most.values()) // 2**20,
            "rows_per_block": round(rows / blocks),
            "parts_before_merge": parts,
            "bytes_per_row": round(size["raw_swaps"] / rows, 2),
            "bytes_per_row_by_column": tables.columns(),
            "bytes_by_table": size,
            "tokens": work.tokens,
            "span_s": options.span,
        }


class Memory:
    """Samples the peak resident memory of a process, by phase."""

    def __init__(self, process: Logged) -> None:
        self.most: dict[str, int] = {}
        self.phase = "warm_up"
        self._process = process
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._done.wait(0.2):
            now = self._process.resident_bytes()
            self.most[self.phase] = max(now, self.most.get(self.phase, 0))

    def close(self) -> None:
        """Stop sampling."""
        self._done.set()
        self._thread.join()


def outage(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the real-time path before and during an outage of ClickHouse."""
    with BenchService("outage", engines=ENGINES) as service:
        aggregator = service.aggregator()
        aggregator.wait_live()
        tables = ArchiveTables(service.config.clickhouse_url)
        file = service.directory / "sent"
        events = _events(options)
        feed = service.helper(
            "bench.paced",
            *(service.stack.kafka.address, service.config.kafka_topic, str(options.rate)),
            *(str(events), str(options.tokens), str(options.seed), "0", file),
        )
        memory = Memory(aggregator)
        killed_at: list[float] = []

        def strike() -> None:
            time.sleep(_WARM_UP_S)
            memory.phase = "before"
            time.sleep(options.before)
            service.stack.clickhouse.kill()
            killed_at.append(time.time())
            memory.phase = "outage"

        striker = threading.Thread(target=strike)
        striker.start()
        arrivals = asyncio.run(listen(service.config.nats_url, feed))
        striker.join()
        memory.phase = "after"
        service.stack.clickhouse.start()
        back_at = time.time()
        aggregator.wait_for("archived swaps", lambda: tables.count() >= events, every_s=0.5)
        caught_up_s = time.time() - back_at
        memory.close()
        sums = tables.sums()
        if sums["candles_1m"][0] != events or sums["daily_token_agg"][0] != events:
            raise WrongResult(f"the archive holds {sums}, sent were {events}")
        return _outage_row(options, file, arrivals, memory.most, killed_at[0], caught_up_s)


def _events(options: argparse.Namespace) -> int:
    return int(options.rate * (_WARM_UP_S + options.before + options.outage))


def _outage_row(
    options: argparse.Namespace,
    file: Path,
    arrivals: list[Any],
    most: dict[str, int],
    killed_at: float,
    caught_up_s: float,
) -> dict[str, Any]:
    sent = read_sent(file)
    begin = sent.sent_at[0] + _WARM_UP_S
    everything = latencies(sent, arrivals, begin)
    during = latencies(sent, arrivals, killed_at)
    counted = len(everything) - len(during)
    # `latencies` returns values token by token, not by time, so the phase before the outage is the
    # multiset difference.
    before = _without(everything, during)
    assert len(before) == counted
    p99 = {"before": 1000 * percentile(before, 0.99), "outage": 1000 * percentile(during, 0.99)}
    return {
        "rate": options.rate,
        "before_s": options.before,
        "outage_s": options.outage,
        "p50_ms_before": round(1000 * percentile(before, 0.5), 1),
        "p50_ms_outage": round(1000 * percentile(during, 0.5), 1),
        "p99_ms_before": round(p99["before"], 1),
        "p99_ms_outage": round(p99["outage"], 1),
        "p99_change_percent": round(100 * (p99["outage"] / p99["before"] - 1), 1),
        "rss_mb": {phase: round(size / 2**20) for phase, size in most.items()},
        "rss_growth_mb": round((most["outage"] - most["before"]) / 2**20),
        "archived": _events(options),
        "caught_up_s": round(caught_up_s, 1),
    }


def _without(everything: list[float], some: list[float]) -> list[float]:
    """Return the multiset difference: `everything` without one occurrence of each of `some`."""
    rest, ordered = [], sorted(some)
    place = 0
    for value in sorted(everything):
        if place < len(ordered) and ordered[place] == value:
            place += 1
        else:
            rest.append(value)
    return rest


def run(options: argparse.Namespace) -> dict[str, Any]:
    return outage(options) if options.outage else measure(options)


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.archive", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=1_000_000, help="messages in the topic")
    parser.add_argument("--span", type=int, default=600, help="seconds of event time covered")
    parser.add_argument("--batch", type=int, default=50_000, help="ARCHIVE_BATCH")
    parser.add_argument("--outage", type=int, default=0, help="seconds that ClickHouse is down")
    parser.add_argument("--before", type=int, default=60, help="seconds measured before the outage")
    parser.add_argument("--rate", type=int, default=5_000, help="events/s with --outage")
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
