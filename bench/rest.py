"""Requests per second of one web node, with tokens and limits checked, and where its time goes.

    python -m bench.rest [--tokens 20000] [--seconds 8]

Runs one Daphne with its Redis and NATS. The aggregator's publisher fills the board and keeps
changing 100 tokens every 100 ms. A separate process (`bench.rest_load`) sends the requests: over 32
connections for the peak, then at half of the peak rate for the latency. At the peak py-spy samples
the node. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import msgspec

from aggregator.contracts.stats import (
    Heartbeat,
    PreviousWindow,
    Quality,
    TokenStats,
    WindowStats,
    usd_text,
)
from aggregator.nats.publisher import Publisher
from aggregator.nats.resync import Patch
from aggregator.runtime.clock import wall_ms
from api.auth.demo_issuer import ensure_keys, issue
from bench import command
from bench.service import ROOT, WrongResult, say
from infra.embedded.engine import Process
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack

_WITHIN_S = 60
_CHANGED = 100
# The variants of the overview that callers request.
_OVERVIEWS = 40
_ROUTES = {
    "stats": "/api/tokens/ethereum:0x{:040x}/stats",
    "overview": "/api/overview?window=24h&limit=50&min_trades={}",
}
# The innermost frame of a sample that is listed here decides where the sample's time is counted.
_PLACES = (
    ("limit", ("api/auth/ratelimit.py", "api/auth/redis_link.py", "redis/")),
    ("auth", ("api/auth/",)),
    ("view", ("api/http/routes.py", "api/board/", "aggregator/contracts/")),
    ("feed", ("api/board/feed.py", "nats/")),
    ("middleware", ("api/http/", "ninja/", "django/")),
    ("server", ("daphne/", "twisted/", "asgiref/", "asyncio/", "swapsite/")),
)


class Owner:
    """Publishes one partition with that many tokens as an aggregator does."""

    def __init__(self, url: str, tokens: int) -> None:
        self._publisher = Publisher(url)
        self._tokens = tokens
        self._seq = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="owner")

    def start(self) -> None:
        self._publisher.start()
        self._publisher.take(0, 1)
        rows = [self._patch(number) for number in range(self._tokens)]
        self._publisher.load(0, rows, self._seq, self._seq)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._publisher.stop()

    def _run(self) -> None:
        beat_at, number = 0.0, 0
        while not self._done.wait(0.1):
            numbers = [(number + i) % self._tokens for i in range(_CHANGED)]
            number += _CHANGED
            self._publisher.publish(0, [self._patch(n) for n in numbers], self._seq)
            if time.monotonic() - beat_at >= 1:
                beat_at = time.monotonic()
                self._publisher.heartbeat(self._heartbeat())

    def _heartbeat(self) -> Heartbeat:
        now = wall_ms()
        return Heartbeat(0, 1, 1, self._seq, self._seq, self._seq, "live", now, now, 0, [])

    def _patch(self, number: int) -> Patch:
        self._seq += 1
        now = wall_ms()
        token = f"0x{number:040x}"
        trades = number % 997 + 1
        volume = (number * 7_919 % 10**9 + self._seq) * 1_000
        windows = {name: _window(now, trades, volume) for name in ("5m", "1h", "24h")}
        row = TokenStats(
            token_id=f"ethereum:{token}", chain="ethereum", token=token, symbol=f"T{number}",
            partition=0, epoch=1, seq=self._seq, next_offset=self._seq, as_of=now, watermark=now,
            stale=False, last_price_usd="1.234", last_trade_at=now, quality=Quality(),
            windows=windows,
        )  # fmt: skip
        return Patch(row.token_id, row.seq, msgspec.json.encode(row))


def _window(now: int, trades: int, volume: int) -> WindowStats:
    return WindowStats(
        open_time=now - 300_000, close_time=now, complete=True, trades=trades, buys=trades // 2,
        sells=trades - trades // 2, traders=trades, buyers=trades // 2, sellers=trades // 2,
        volume_usd=usd_text(volume), buy_volume_usd=usd_text(volume // 2),
        sell_volume_usd=usd_text(volume - volume // 2), net_volume_usd="0.000000",
        volume_token="1000", open_usd="1.2", high_usd="1.3", low_usd="1.1", close_usd="1.25",
        vwap_usd="1.2345", price_change_pct=4.1667, largest_trade_usd=usd_text(volume // 3),
        previous=PreviousWindow(usd_text(volume), trades, -1.25), approximate=False,
    )  # fmt: skip


class Node:
    """Daphne and its engines; all of them end with the `with` block."""

    def __init__(self, tokens: int) -> None:
        self._tokens = tokens
        self._closing = ExitStack()

    def __enter__(self) -> Node:
        directory = Path(self._closing.enter_context(tempfile.TemporaryDirectory("bench-rest")))
        stack = self._closing.enter_context(Stack(directory, only=(Redis, Nats)))
        key = ensure_keys(directory / "issuer")
        self.token = issue(
            key, subject="bench", issuer="swaps-demo", audience="swaps",
            scope="stats:read ops:read", issued_at=int(time.time()), ttl_ms=3_600_000,
        )  # fmt: skip
        self.port = free_port()
        limits = dict.fromkeys(("RATE_LIMIT", "RATE_BURST"), "1000000")
        env = {
            **os.environ, **stack.env(), **limits,
            "RATE_LIMIT_IP": "1000000", "RATE_BURST_IP": "1000000",
            "JWT_PUBLIC_KEY_FILE": str(directory / "issuer" / "public.pem"),
            "DJANGO_SECRET_KEY": "bench" * 12, "DJANGO_SETTINGS_MODULE": "swapsite.settings",
            "DATABASE_FILE": str(directory / "db.sqlite3"),
            "LOG_FORMAT": "json",
        }  # fmt: skip
        subprocess.run(
            [sys.executable, "manage.py", "migrate", "-v", "0"], cwd=ROOT, env=env, check=True
        )
        owner = Owner(stack.env()["NATS_URL"], self._tokens)
        self._closing.callback(owner.stop)
        owner.start()
        self.process = Process("daphne", directory / "daphne.log", stack.guard)
        self._closing.callback(self.process.kill)
        self.process.launch(
            [sys.executable, "-m", "daphne", "-v", "0", "-b", "127.0.0.1",
             "-p", str(self.port), "swapsite.asgi:application"], env, ROOT,
        )  # fmt: skip
        self.process.wait_ready(self._full)
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _full(self) -> bool:
        try:
            answer = httpx.get(
                f"http://127.0.0.1:{self.port}/api/overview?limit=1",
                headers={"Authorization": f"Bearer {self.token}"},
                timeout=5,
            )
        except httpx.TransportError:
            return False
        ready = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=5).json()
        limited = not any("rate limits" in each for each in ready["degraded"])
        return limited and bool(answer.json().get("totals", {}).get("tokens") == self._tokens)

    def load(self, route: str, seconds: float, rate: float = 0) -> dict[str, Any]:
        """Send requests for that many seconds; without a rate, as many as possible."""
        numbers = self._tokens if route == "stats" else _OVERVIEWS
        arguments = [str(self.port), _ROUTES[route], str(numbers), str(seconds), str(rate)]
        done = subprocess.run(
            [sys.executable, "-m", "bench.rest_load", *arguments],
            cwd=ROOT, input=self.token, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise WrongResult(f"the callers failed: {done.stderr}")
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def profile(self, route: str, seconds: float) -> dict[str, float]:
        """Return the share of the node's CPU time at its peak by purpose, from py-spy's samples."""
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "stacks"
            sampling = subprocess.Popen(
                ["py-spy", "record", "-p", str(self.process.pid), "-d", str(int(seconds)),
                 "-r", "250", "-f", "raw", "-F", "--gil", "--full-filenames", "-o", str(file)],
                env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.load(route, seconds + 2)
            if sampling.wait(_WITHIN_S) or not file.exists():
                say("py-spy could not sample the node: no shares")
                return {}
            return shares(file.read_text().splitlines())


def shares(stacks: list[str]) -> dict[str, float]:
    """Turn lines of `frame;frame;... count`, outermost first, into the share of each place."""
    counts: Counter[str] = Counter()
    for line in stacks:
        frames, _, count = line.rpartition(" ")
        counts[_place(frames.split(";"))] += int(count)
    total = sum(counts.values())
    return (
        {place: round(count / total, 3) for place, count in counts.most_common()} if total else {}
    )


def _place(frames: list[str]) -> str:
    for frame in reversed(frames):
        for place, parts in _PLACES:
            if any(part in frame for part in parts):
                return place
    return "other"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both routes."""
    result: dict[str, Any] = {"tokens": options.tokens}
    with Node(options.tokens) as node:
        for route in _ROUTES:
            say(f"{route}: peak")
            peak = node.load(route, options.seconds)
            say(f"{route}: half of {peak['per_s']:.0f} a second")
            half = node.load(route, options.seconds, peak["per_s"] / 2)
            result[route] = {
                "per_s": round(peak["per_s"]),
                "peak_p99_ms": peak["p99_ms"],
                "half_p50_ms": half["p50_ms"],
                "half_p99_ms": half["p99_ms"],
                "share": node.profile(route, 5) if options.profile else {},
            }
    return result


def main() -> None:
    """Run the benchmark that the module's docstring describes."""
    parser = argparse.ArgumentParser(prog="bench.rest", description="requests/s of a web node")
    parser.add_argument("--tokens", type=int, default=20_000, help="tokens on the board")
    parser.add_argument("--seconds", type=float, default=8, help="length of each measurement")
    parser.add_argument("--no-profile", dest="profile", action="store_false", help="no py-spy")
    command.main(parser, run)


if __name__ == "__main__":
    main()
