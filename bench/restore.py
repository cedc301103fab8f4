"""What a day of state costs to keep, and how soon a process that lost it counts again.

    python -m bench.restore [-n 5000000] [--tokens 20000]

Fills a topic with 24 h of swaps and lets an aggregator count them. Then, under a steady load: what
the snapshots cost, in pause and in bytes. Then the process is ended, by SIGKILL and by SIGTERM, in
the classic group protocol, in it with a name kept over restarts (static), and in the consumer
protocol; one swap more is put in the topic, and the process
is started again: how long until that swap is applied, and what the time went to. Before and after
every end the 24 h windows must show what was sent, trade for trade and micro-dollar for
micro-dollar. The last line is one JSON object.
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
from bench.service import PARTITIONS, Aggregator, Service, WrongResult, instant, say
from bench.shown import shown
from bench.workload import Tally, Totals, fill

SPAN_MS = 24 * 3_600_000
WINDOW_MINUTES = 24 * 60
PROTOCOLS = ("classic", "static", "consumer")
_MARGIN_S = 2.0
_SETTLED_S = 10.0
_MEGABYTE = 1e6
_TARGET_S = 3.0
_TARGET_PAUSE_MS = 20.0


class Day:
    """The service, and all that was sent to it."""

    def __init__(self, service: Service, options: argparse.Namespace) -> None:
        self.service = service
        self.options = options
        self.tally = Tally()
        self._sendings = 0

    def fill(self) -> None:
        """24 h of swaps up to now."""
        options = self.options
        fill(self.service.config, options.n, options.tokens, options.seed, SPAN_MS, self.tally)

    def send(self, events: int, rate: float) -> Sent:
        """More swaps of the same tokens, of the present."""
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

    def verify(self) -> Totals:
        """Raises WrongResult unless the windows show just what was sent in their 24 h."""
        deadline = time.monotonic() + _SETTLED_S
        while True:
            seen, expected = self._look()
            if seen == expected:
                return seen
            # What was sent last may be on its way still.
            if time.monotonic() > deadline:
                raise WrongResult(f"the 24h windows show {seen}, sent were {expected}")

    def _look(self) -> tuple[Totals, Totals]:
        """What the windows show, and what was sent, at one minute."""
        while True:
            # At the turn of a minute rows of two minutes may be shown side by side for a moment.
            into = time.time() % 60
            if into < _MARGIN_S:
                time.sleep(_MARGIN_S - into)
            minute = _minute()
            seen = shown(self.service.config.nats_url)
            if _minute() == minute:
                return seen, self.tally.window(minute, WINDOW_MINUTES)


def _minute() -> int:
    return wall_ms() // MINUTE_MS


def catch_up(day: Day) -> tuple[Aggregator, float]:
    """An aggregator that has counted the day, and the seconds that it took."""
    aggregator = day.service.aggregator(LOG_LEVEL="debug")
    aggregator.wait_live()
    lines = aggregator.lines()
    begun = min(instant(line) for line in lines if line["event"] == "partition_acquired")
    done = max(instant(line) for line in lines if line["event"] == "partition_live")
    day.verify()
    return aggregator, done - begun


def under_load(day: Day, aggregator: Aggregator) -> dict[str, Any]:
    """Pauses and bytes of the snapshots while swaps come in evenly."""
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
    """(minute buckets that changed since the save before, bytes written) of a partition's saves."""
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


def held(day: Day, aggregator: Aggregator, events: int) -> dict[str, Any]:
    """Bytes of the state: in the process, and in Redis."""
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
    day: Day, protocol: str, how: str, ended: Aggregator
) -> tuple[Aggregator, dict[str, Any]]:
    """End the process, put one swap more in the topic, start it again; where the time went."""
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


def timing(aggregator: Aggregator) -> dict[str, float]:
    """Seconds of a start, from the lines of a process that has ended by now."""
    lines = aggregator.lines()

    def when(event: str, last: bool = False) -> float:
        found = [instant(line) for line in lines if line["event"] == event]
        return found[-1] if last else found[0]

    compiled = next(line for line in lines if line["event"] == "engine_compiled")
    (stopped,) = aggregator.lines("stopped")
    first = stopped["first_applied_at"]
    assigned, acquired = when("partitions_assigned"), when("partition_acquired", last=True)
    loading = sum(line["loading_s"] for line in lines if line["event"] == "loaded")
    # The partitions are decoded side by side, and while the next one is loaded.
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


def restarts(day: Day, aggregator: Aggregator) -> list[dict[str, Any]]:
    """Every way to end, and every protocol. `aggregator` runs in the classic one."""
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
    with Service("restore", **_settings(first)) as service:
        day = Day(service, options)
        day.fill()
        aggregator, seconds = catch_up(day)
        say(f"caught up: {options.n / seconds:,.0f} events/s")
        snapshots = under_load(day, aggregator)
        say(f"snapshots: {snapshots}")
        events = options.n + int(options.live_rate * options.live_seconds)
        state = held(day, aggregator, events)
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
    """See the module's text."""
    parser = argparse.ArgumentParser(prog="bench.restore", description=(__doc__ or "").strip())
    parser.add_argument("-n", type=int, default=5_000_000, help="swaps of the day")
    parser.add_argument("--tokens", type=int, default=20_000)
    parser.add_argument("--live-rate", type=int, default=1_000, help="events/s after it")
    parser.add_argument("--live-seconds", type=int, default=90, help="one minute ends in it")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
