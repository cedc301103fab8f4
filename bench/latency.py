"""The latency of each swap from produce() to the patch on NATS, with coalescing included.

    python -m bench.latency [--rates 1000,10000] [--seconds 20]

The latency of a swap is the time from its produce() call to the arrival of the first patch of its
token that covers its offset. A separate process produces the swaps at an even rate, with tokens in
a Zipf distribution. This process subscribes as a web node does and decodes what it received only
after everything is sent. Every swap must be covered. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import msgspec
import nats
import numpy as np
from nats.aio.msg import Msg

from aggregator.contracts.names import ALL_TOKENS_SUBJECT
from bench import command
from bench.command import percentile
from bench.cpu import CpuMeter
from bench.paced import LINGER_MS, Sent
from bench.service import BenchService, Logged, WrongResult, say

_QUIET_S = 1.0
_PENDING_BYTES = 2**31


class MeasuredPatch(msgspec.Struct):
    """The fields of a patch that the measurement reads."""

    token_id: str
    next_offset: int


Arrival = tuple[float, bytes]


async def listen(url: str, process: Logged) -> list[Arrival]:
    """Return every patch with its arrival (epoch seconds) until the feed ends and NATS is quiet."""
    client = await nats.connect(url)
    arrivals: list[Arrival] = []

    async def arrived(message: Msg) -> None:
        arrivals.append((time.time(), message.data))

    await client.subscribe(
        ALL_TOKENS_SUBJECT,
        cb=arrived,
        pending_msgs_limit=-1,
        pending_bytes_limit=_PENDING_BYTES,
    )
    await client.flush()
    await asyncio.to_thread(process.wait)
    if not process.lines("sent"):
        raise WrongResult(f"the feed failed:\n{process.tail()}")
    await asyncio.sleep(_QUIET_S)
    await client.close()
    return arrivals


def latencies(sent: Sent, arrivals: list[Arrival], since: float) -> list[float]:
    """Return the latencies, in seconds, of the swaps sent at `since` or later.

    Raises WrongResult for a swap that no patch covers.
    """
    decode = msgspec.json.Decoder(MeasuredPatch).decode
    at: defaultdict[str, list[float]] = defaultdict(list)
    offsets: defaultdict[str, list[int]] = defaultdict(list)
    for instant, payload in arrivals:
        patch = decode(payload)
        at[patch.token_id].append(instant)
        offsets[patch.token_id].append(patch.next_offset)
    seconds = []
    by_token: defaultdict[str, list[int]] = defaultdict(list)
    for index, token_id in enumerate(sent.token_ids):
        if sent.sent_at[index] >= since:
            by_token[token_id].append(index)
    for token_id, indexes in by_token.items():
        # A patch covers the offsets below its next_offset.
        places = np.searchsorted(
            offsets[token_id], [sent.offsets[index] for index in indexes], side="right"
        )
        for index, place in zip(indexes, places.tolist(), strict=True):
            if place == len(at[token_id]):
                raise WrongResult(f"no patch covers offset {sent.offsets[index]} of {token_id}")
            seconds.append(at[token_id][place] - sent.sent_at[index])
    return seconds


def measure(
    service: BenchService, pids: dict[str, int], rate: int, options: argparse.Namespace
) -> Any:
    """Measure one rate and return a row of the result."""
    file = service.directory / f"sent-{rate}"
    events = rate * (options.warm_up + options.seconds)
    feed = service.helper(
        "bench.paced",
        *(service.stack.kafka.address, service.config.kafka_topic, str(rate), str(events)),
        *(str(options.tokens), str(options.seed), f"{rate:x}", file),
    )
    with CpuMeter(pids) as meter:
        arrivals = asyncio.run(listen(service.config.nats_url, feed))
    return row(rate, read_sent(file), arrivals, meter, options)


def read_sent(file: Path) -> Sent:
    """Read what bench.paced wrote."""
    return msgspec.msgpack.decode(file.read_bytes(), type=Sent)


def row(
    rate: int, sent: Sent, arrivals: list[Arrival], meter: CpuMeter, options: argparse.Namespace
) -> dict[str, Any]:
    """Return the figures of one rate."""
    first = sent.sent_at[0] + options.warm_up
    last = sent.sent_at[-1]
    ms = [1_000 * value for value in latencies(sent, arrivals, first)]
    measured = last - first
    result = {
        "events_per_s": rate,
        "sent_per_s": round(len(ms) / measured),
        "events": len(ms),
        "p50_ms": round(percentile(ms, 0.5), 1),
        "p90_ms": round(percentile(ms, 0.9), 1),
        "p99_ms": round(percentile(ms, 0.99), 1),
        "p999_ms": round(percentile(ms, 0.999), 1),
        "max_ms": round(max(ms), 1),
        "patches_per_s": round(sum(first <= at <= last for at, _ in arrivals) / measured),
        "bytes_per_patch": round(sum(len(data) for _, data in arrivals) / len(arrivals)),
        "cores_used": {
            name: round(used / measured, 2) for name, used in meter.between(first, last).items()
        },
    }
    say(f"{rate:,} events/s: p50 {result['p50_ms']} ms, p99 {result['p99_ms']} ms")
    return result


def run(options: argparse.Namespace) -> dict[str, Any]:
    with BenchService("latency") as service:
        aggregator = service.aggregator()
        aggregator.wait_live()
        pids = {"aggregator": aggregator.pid, "client": os.getpid()}
        pids |= {engine.name: engine.pid for engine in service.stack.engines}
        rows = [measure(service, pids, int(rate), options) for rate in options.rates.split(",")]
        stopped = aggregator.end("stopped")
        events = sum(int(rate) for rate in options.rates.split(",")) * (
            options.warm_up + options.seconds
        )
        if stopped["counted"] != events:
            raise WrongResult(f"counted were {stopped['counted']:,}, sent were {events:,}")
        return {
            "rates": rows,
            "seconds": options.seconds,
            "warm_up_s": options.warm_up,
            "tokens": options.tokens,
            "coalesce_ms": service.config.coalesce_ms,
            "producer_linger_ms": LINGER_MS,
        }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.latency", description=(__doc__ or "").strip())
    parser.add_argument("--rates", default="1000,10000", help="events/s, one after the other")
    parser.add_argument("--seconds", type=int, default=20, help="measured, at each rate")
    parser.add_argument("--warm-up", type=int, default=5, help="seconds before, at each rate")
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
