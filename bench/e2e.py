"""The latency from produce() to the message at a WebSocket client, through the whole service.

    python -m bench.e2e [--rate 1000] [--clients 500] [--seconds 20]

Runs Kafka, Redis, NATS, an aggregator and a web node under Daphne, and produces swaps at an even
rate over 2,000 tokens in a Zipf distribution. Ten clients together subscribe to every token and
record when each message arrives; each other client (bench/wsload) takes the five busiest tokens.
The latency of a swap is the time from its produce() call to the first message that covers its
offset at any of the ten clients. It includes coalescing in the aggregator and the hub's flush.
Every swap must be covered. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import subprocess
import sys
import time
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import httpx
import msgspec
import websockets

from aggregator.feed.synthetic import Shape, swaps
from api.auth.demo_issuer import ensure_keys, issue
from bench import command
from bench.command import percentile
from bench.cpu import CpuMeter
from bench.fanout import built
from bench.latency import Arrival, latencies
from bench.paced import Sent
from bench.service import BenchService, Logged, WrongResult, say
from infra.embedded.ports import free_port

ROOT = Path(__file__).parents[1]
WATCHERS, HELD_EACH, BUSIEST = 10, 200, 5
_QUIET_S = 1.0
_ISSUER = "issuer"


class _Message(msgspec.Struct):
    """The fields of a message that the measurement reads."""

    type: str
    channel: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(list[_Message]).decode


def token_of(directory: Path, subject: str) -> str:
    """Return a JWT of the demo's issuer."""
    return issue(
        ensure_keys(directory / _ISSUER),
        subject=subject,
        issuer="swaps-demo",
        audience="swaps",
        scope="stats:read ws:connect",
        issued_at=int(time.time()),
        ttl_ms=3_600_000,
    )


def start_web(service: BenchService, port: int) -> Logged:
    """Start a web node and return when it is ready."""
    web = Logged("web", service.directory / "log" / "web.log", service.stack.guard)
    ensure_keys(service.directory / _ISSUER)
    settings = {
        "JWT_PUBLIC_KEY_FILE": str(service.directory / _ISSUER / "public.pem"),
        "DJANGO_SECRET_KEY": "of-a-benchmark",
        "LOG_LEVEL": "warning",
        "RATE_LIMIT_IP": "1000000",
        "RATE_BURST_IP": "1000000",
    }
    daphne = ["daphne", "-b", "127.0.0.1", "-p", str(port), "swapsite.asgi:application"]
    web.launch([sys.executable, "-m", *daphne], service.env | settings, cwd=ROOT)

    def ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError as error:
            raise ConnectionError(str(error)) from error

    web.wait_ready(ready)
    return web


async def watch(url: str, token: str, token_ids: list[str], arrivals: list[Arrival]) -> None:
    """Subscribe and record every row that arrives, until cancelled."""
    async with websockets.connect(
        url, additional_headers={"Authorization": f"Bearer {token}"}, max_size=None
    ) as socket:
        request = {"method": "subscribe", "channel": "token_stats", "tokens": token_ids}
        await socket.send(json.dumps(request))
        async for frame in socket:
            now = time.time()
            arrivals += [
                (now, bytes(each.data))
                for each in _decode(frame)
                if each.channel == "token_stats" and bytes(each.data) not in {b"null", b""}
            ]


async def listen(url: str, directory: Path, token_ids: list[str], feed: Logged) -> list[Arrival]:
    """Return what the ten clients received until the feed ends and no more messages arrive."""
    arrivals: list[Arrival] = []
    starts = range(0, len(token_ids), HELD_EACH)
    groups = [token_ids[start : start + HELD_EACH] for start in starts]
    watching = [
        asyncio.create_task(watch(url, token_of(directory, "watcher"), group, arrivals))
        for group in groups
    ]
    over = asyncio.create_task(asyncio.to_thread(feed.wait))
    done, _ = await asyncio.wait([over, *watching], return_when=asyncio.FIRST_COMPLETED)
    if over not in done:
        raise WrongResult(f"a client was cut off: {[each.exception() for each in done]}")
    await asyncio.sleep(_QUIET_S)
    for task in watching:
        task.cancel()
    await asyncio.gather(*watching, return_exceptions=True)
    return arrivals


def start_load(
    service: BenchService, url: str, busiest: list[str], count: int, seconds: float
) -> Any:
    """Start the load clients for that many seconds."""
    lines = [
        json.dumps({"method": "auth", "token": token_of(service.directory, f"load-{number}")})
        for number in range(math.ceil(count / 10))
    ]
    file = service.directory / "lines"
    file.write_text("\n".join(lines))
    request = {"method": "subscribe", "channel": "token_stats", "tokens": busiest}
    return subprocess.Popen(
        [
            *(built("wsload"), "-url", url, "-n", str(count), "-rate", "250", "-q"),
            *("-lines", str(file), "-send", "{line}", "-send", json.dumps(request)),
            *("-ts-field", "as_of", "-seq-field", "seq", "-key-field", "token"),
            *("-d", f"{seconds}s", "-o", service.directory / "load.json"),
        ],
        stdout=subprocess.DEVNULL,
    )


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Run the whole measurement."""
    built("wsload")
    events = options.rate * (options.warm_up + options.seconds)
    shape = Shape(tokens=options.tokens, seed=options.seed)
    records = islice(swaps(shape, itertools.repeat(0)), events)
    counts = Counter(record.key.decode() for record in records if record.key is not None)
    with BenchService("e2e") as service:
        aggregator = service.aggregator()
        aggregator.wait_live()
        port = free_port()
        web = start_web(service, port)
        url = f"ws://127.0.0.1:{port}/ws"
        busiest = [token_id for token_id, _ in counts.most_common(BUSIEST)]
        others = options.clients - WATCHERS
        load = start_load(service, url, busiest, others, options.warm_up + options.seconds)
        file = service.directory / "sent"
        feed = service.helper(
            "bench.paced",
            *(service.stack.kafka.address, service.config.kafka_topic, str(options.rate)),
            *(str(events), str(options.tokens), str(options.seed), "e2e", file),
        )
        pids = {"aggregator": aggregator.pid, "web": web.pid, "feed": feed.pid}
        try:
            with CpuMeter(pids) as meter:
                arrivals = asyncio.run(listen(url, service.directory, list(counts), feed))
            if load.wait(60):
                raise WrongResult("the load client failed")
        finally:
            load.kill()
            load.wait()
        report = json.loads((service.directory / "load.json").read_text())
        sent = msgspec.msgpack.decode(file.read_bytes(), type=Sent)
        return result(sent, arrivals, report, meter, options)


def result(
    sent: Sent,
    arrivals: list[Arrival],
    report: dict[str, Any],
    meter: CpuMeter,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Return the figures. Raises WrongResult for a swap that no message covers."""
    if report["errors"] or report["unexpected_disconnects"]:
        raise WrongResult(f"errors {report['errors']}, lost {report['unexpected_disconnects']}")
    first, last = sent.sent_at[0] + options.warm_up, sent.sent_at[-1]
    ms = [1_000 * value for value in latencies(sent, arrivals, first)]
    used = meter.between(first, last)
    say(f"{len(ms):,} swaps: p50 {percentile(ms, 0.5):.1f} ms, p99 {percentile(ms, 0.99):.1f} ms")
    return {
        "events_per_s": options.rate,
        "clients": options.clients,
        "swaps": len(ms),
        "p50_ms": round(percentile(ms, 0.5), 1),
        "p90_ms": round(percentile(ms, 0.9), 1),
        "p99_ms": round(percentile(ms, 0.99), 1),
        "max_ms": round(max(ms), 1),
        "delivered_per_s": round(report["messages_per_s"] + len(arrivals) / (last - first)),
        "from_patch_p50_ms": report["delay_ms"]["p50"],
        "from_patch_p99_ms": report["delay_ms"]["p99"],
        "cores_used": {name: round(value / (last - first), 2) for name, value in used.items()},
        "seconds": options.seconds,
    }


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.e2e", description=(__doc__ or "").strip())
    parser.add_argument("--rate", type=int, default=1_000, help="events a second")
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--seconds", type=int, default=20, help="measured")
    parser.add_argument("--warm-up", type=int, default=5, help="seconds before")
    parser.add_argument("--tokens", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=7)
    command.main(parser, run)


if __name__ == "__main__":
    main()
