"""The cost of keeping a day of state, and the time until a restarted process counts again.

    python -m bench.restore [-n 5000000] [--tokens 20000]

Fill a topic with 24 h of swaps and let an aggregator count them. Under a steady load, measure the
pause and the bytes of the snapshots. Then end the process by SIGKILL and by SIGTERM, in the classic
group protocol, in the classic protocol with static membership, and in the consumer protocol. Each
time produce one more swap, start the process again and measure the time until that swap is applied,
by step. Before and after every restart the 24 h windows must show what was sent, to the trade and
to the micro-dollar. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise
from typing import Any

from redis import Redis

from aggregator.contracts.names import snapshot_keys
from aggregator.contracts.units import MINUTE_MS
from aggregator.runtime.clock import wall_ms
from bench import command
from bench.command import percentile
from bench.paced import Sent, send
from bench.service import PARTITIONS, BenchAggregator, BenchService, WrongResult, instant, say
from bench.shown import shown
from bench.workload import WorkloadTally, WorkloadTotals, fill

SPAN_MS = 24 * 3_600_000
WINDOW_MINUTES = 24 * 60
PROTOCOLS = ("classic", "static", "consumer")
_MARGIN_S = 2.0
_SETTLED_S = 10.0
_MEGABYTE = 1e6
_TARGET_S = 3.0
_TARGET_PAUSE_MS = 20.0


class FilledDay:
    """The service and the sums of all swaps that were sent to it."""

    def __init__(self, service: BenchService, options: argparse.Namespace) -> None:
        self.service = service
        self.options = options
        self.tally = WorkloadTally()
        self._sendings = 0

    def fill(self) -> None:
        """Fill the topic with 24 h of swaps up to now."""
        options = self.options
        fill(self.service.config, options.n, options.tokens, options.seed, SPAN_MS, self.tally)

    def send(self, events: int, rate: float) -> Sent:
        """Send more swaps of the same tokens with present timestamps."""
        self._sendings += 1
        sent = send(
            self.service.stack.kafka.address,
            self.service.config.kafka_topic,
            rate=rate,
            events=events,
            tokens=self.options.tokens,
            seed=self.options.seed,
            salt=f"{self._sendings:x}",
        )
        for timestamp, micros in zip(sent.timestamps, sent.micros, strict=True):
            self.tally.add(timestamp, micros)
        return sent

    def verify(self) -> WorkloadTotals:
        """Raise WrongResult unless the windows show exactly what was sent in their 24 h."""
        deadline = time.monotonic() + _SETTLED_S
        while True:
            seen, expected = self._compare()
            if seen == expected:
                return seen
            # The last swaps may still be in flight.
            if time.monotonic() > deadline:
                raise WrongResult(f"the 24h windows show {seen}, sent were {expected}")

    def _compare(self) -> tuple[WorkloadTotals, WorkloadTotals]:
        """Return what the windows show and what was sent, both as of the same minute."""
        while True:
            # Just after a minute begins, rows of the old and of the new minute are shown together.
            into = time.time() % 60
            if into < _MARGIN_S:
                time.sleep(_MARGIN_S - into)
            minute = _minute()
            seen = shown(self.service.config.nats_url)
            if _minute() == minute:
                return seen, self.tally.window(minute, WINDOW_MINUTES)


def _minute() -> int:
    return wall_ms() // MINUTE_MS


def catch_up(day: FilledDay) -> tuple[BenchAggregator, float]:
    """Return an aggregator that has counted the day, and the seconds that it took."""
    aggregator = day.service.aggregator(LOG_LEVEL="debug")
    aggregator.wait_live()
    lines = aggregator.lines()
    begun = min(instant(line) for line in lines if line["event"] == "partition_acquired")
    done = max(instant(line) for line in lines if line["event"] == "partition_live")
    day.verify()
    return aggregator, done - begun


def under_load(day: FilledDay, aggregator: BenchAggregator) -> dict[str, Any]:
    """Measure pauses and bytes of the snapshots while swaps arrive at an even rate."""
    options = day.options
    before = time.time()
    sent = day.send(int(options.live_rate * options.live_seconds), options.live_rate)
    after = time.time()
    lines = aggregator.lines()
    pauses = [line for line in lines if line["event"] == "saved" and before < instant(line) < after]
    saves = [line for line in lines if line["event"] == "snapshot_saved"]
    costs = [
        cost
        for partition in range(PARTITIONS)
        for cost in rows_and_bytes(partition, saves, sent, before, after)
    ]
    during = [line for line in saves if before < instant(line) < after]
    sizes = [float(size) for _, size in costs]
    rows, total = sum(rows for rows, _ in costs), sum(sizes)
    return {
        "events_per_s": options.live_rate,
        "seconds": round(after - before, 1),
        "snapshots": len(pauses),
        "pause_ms": _spread_of([1_000 * line["seconds"] for line in pauses]),
        "of_which_ms": {
            "taking_one_partition": _spread_of([1_000 * line["taking_s"] for line in during]),
            "saving_one_partition": _spread_of([1_000 * line["saving_s"] for line in during]),
        },
        "rows_changed": rows,
        "bytes_per_row_changed": round(total / max(1, rows)),
        "bytes_of_one_partition": _spread_of(sizes),
    }


def rows_and_bytes(
    partition: int, saves: list[dict[str, Any]], sent: Sent, before: float, after: float
) -> list[tuple[int, int]]:
    """Return, per save of a partition, (buckets changed since the previous save, bytes written)."""
    of_partition = [line for line in saves if line["partition"] == partition]
    buckets = {
        offset: (token_id, timestamp // MINUTE_MS)
        for token_id, timestamp, place, offset in zip(
            sent.token_ids, sent.timestamps, sent.partitions, sent.offsets, strict=True
        )
        if place == partition
    }
    costs = []
    for last, this in pairwise(of_partition):
        if before < instant(this) < after:
            between = range(last["next_offset"], this["next_offset"])
            changed = {buckets[offset] for offset in between if offset in buckets}
            costs.append((len(changed), this["bytes"]))
    return costs


def _spread_of(values: list[float]) -> dict[str, float]:
    if not values:
        raise WrongResult("no snapshot was saved under the live load")
    return {
        "p50": round(percentile(values, 0.5), 2),
        "p99": round(percentile(values, 0.99), 2),
        "max": round(max(values), 2),
    }


def state_size(day: FilledDay, aggregator: BenchAggregator, events: int) -> dict[str, Any]:
    """Return the size of the state in the process and in Redis."""
    millions = events / 1e6
    columns = aggregator.metric("swaps_window_memory_bytes")
    resident = aggregator.resident_bytes()
    redis = Redis.from_url(day.service.config.redis_url)
    keys = [snapshot_keys(day.service.config.kafka_topic, p).sections for p in range(PARTITIONS)]
    values = [value for key in keys for value in redis.hvals(key)]
    in_redis = redis.info("memory")["used_memory"]
    redis.close()
    return {
        "buckets": round(aggregator.metric("swaps_window_buckets")),
        "window_mb": round(columns / _MEGABYTE, 1),
        "window_mb_per_million_events": round(columns / _MEGABYTE / millions, 1),
        "resident_mb": round(resident / _MEGABYTE, 1),
        "resident_mb_per_million_events": round(resident / _MEGABYTE / millions, 1),
        "snapshot_sections": len(values),
        "snapshot_mb": round(sum(map(len, values)) / _MEGABYTE, 1),
        "redis_mb": round(in_redis / _MEGABYTE, 1),
        "redis_mb_per_million_events": round(in_redis / _MEGABYTE / millions, 1),
    }


def restart(
    day: FilledDay, protocol: str, how: str, ended: BenchAggregator
) -> tuple[BenchAggregator, dict[str, Any]]:
    """End the process, produce one more swap, and start the process again."""
    before = day.verify()
    ended.kill() if how == "killed" else ended.end("stopped")
    day.send(1, 1)
    name = f"{protocol}-{how}"
    aggregator = day.service.aggregator(name, **_settings(protocol))
    aggregator.wait_live()
    after = day.verify()
    say(f"{name}: {before.trades:,} trades before, {after.trades:,} in the 24 h after")
    return aggregator, {"protocol": protocol, "after": how, "process": aggregator}


def _settings(protocol: str) -> dict[str, str]:
    static = protocol == "static"
    return {
        "LOG_LEVEL": "debug",
        "KAFKA_GROUP_PROTOCOL": "classic" if static else protocol,
        "KAFKA_GROUP": f"bench-{protocol}",
        "KAFKA_INSTANCE_ID": "bench" if static else "",
    }


def timing(aggregator: BenchAggregator) -> dict[str, float]:
    """Return the seconds of each step of a start, from the log of a process that has ended."""
    lines = aggregator.lines()

    def when(event: str, last: bool = False) -> float:
        found = [instant(line) for line in lines if line["event"] == event]
        return found[-1] if last else found[0]

    compiled = next(line for line in lines if line["event"] == "engine_compiled")
    (stopped,) = aggregator.lines("stopped")
    first = stopped["first_applied_at"]
    assigned, acquired = when("partitions_assigned"), when("partition_acquired", last=True)
    loading = sum(line["loading_s"] for line in lines if line["event"] == "loaded")
    # Partitions are decoded in parallel while the next one is loaded, so decoding adds only what
    # remains after the last load.
    decoding = when("restored", last=True) - when("loaded", last=True)
    parts = {
        "from_start": first - aggregator.started_at,
        "from_assignment": first - assigned,
        "imports": instant(compiled) - compiled["seconds"] - aggregator.started_at,
        "compiled_code": compiled["seconds"],
        "group_join": assigned - instant(compiled),
        "epochs_and_offsets": acquired - assigned - loading - decoding,
        "loading": loading,
        "decoding": decoding,
        "replay": first - acquired,
    }
    return {name: round(value, 3) for name, value in parts.items()}


def restarts(day: FilledDay, aggregator: BenchAggregator) -> list[dict[str, Any]]:
    """Measure each kind of end in each protocol. `aggregator` runs in the first protocol."""
    rows: list[dict[str, Any]] = []
    for protocol in day.options.protocols.split(","):
        if rows:
            aggregator.end("stopped")
            aggregator = day.service.aggregator(f"{protocol}-before", **_settings(protocol))
            aggregator.wait_live()
        for how in ("killed", "terminated"):
            aggregator, row = restart(day, protocol, how, aggregator)
            rows.append(row)
    aggregator.end("stopped")
    for row in rows:
        row |= {"seconds": timing(row.pop("process"))}
        say(f"{row['protocol']}, {row['after']}: {row['seconds']}")
    return rows


def run(options: argparse.Namespace) -> dict[str, Any]:
    first = options.protocols.split(",")[0]
    with BenchService("restore", **_settings(first)) as service:
        day = FilledDay(service, options)
        day.fill()
        aggregator, seconds = catch_up(day)
        say(f"caught up: {options.n / seconds:,.0f} events/s")
        snapshots = under_load(day, aggregator)
        say(f"snapshots: {snapshots}")
        events = options.n + int(options.live_rate * options.live_seconds)
        state = state_size(day, aggregator, events)
        rows = restarts(day, aggregator)
        slowest = max(row["seconds"]["from_assignment"] for row in rows)
        return {
            "events": events,
            "tokens": options.tokens,
            "partitions": PARTITIONS,
            "catch_up_events_per_s": round(options.n / seconds),
            "snapshots": snapshots,
            "state": state,
            "restarts": rows,
            "restore_s": slowest,
            "reached": {
                "restore": slowest < _TARGET_S,
                "pause": snapshots["pause_ms"]["p99"] < _TARGET_PAUSE_MS,
            },
        }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.restore", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=5_000_000, help="swaps of the day")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--live-rate", type=int, default=1_000, help="events/s after the day")
    parser.add_argument(
        "--live-seconds", type=int, default=90, help="long enough for a minute to end in it"
    )
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
