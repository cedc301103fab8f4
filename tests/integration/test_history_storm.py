"""Many questions for long histories at once: the owner answers in time, or not at all.

The owner runs in a process of its own with the real publisher and two days of minutes per token;
NATS is real, and so are the web nodes' feed, board, hub and streams, in this process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.msg import Msg

from aggregator.contracts.names import ALL_HEARTBEATS_SUBJECT
from aggregator.contracts.stats import Heartbeat
from aggregator.runtime.clock import monotonic_ms
from api.auth.jwt import Claims
from api.board.board import Board
from api.board.feed import Feed
from api.board.overview import OverviewReader
from api.sockets.build import build_hub
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.limits import Limits
from api.sockets.topic import Topic, TopicKey
from api.trades.streams import Streams
from infra.embedded.nats import Nats
from infra.embedded.stack import Stack

pytestmark = pytest.mark.engines

ROOT = Path(__file__).resolve().parents[2]
TOKENS, MINUTES, FEW_MINUTES = 200, 2_880, 3


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    with Stack(tmp_path / "stack", only=(Nats,)) as stack:
        yield stack.nats.url


class OwnerProcess:
    """`history_owner.py`, filled and waiting until `go`."""

    def __init__(self, url: str, epoch: int, minutes: int) -> None:
        arguments = [url, str(epoch), str(TOKENS), str(minutes)]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.integration.history_owner", *arguments],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def wait_until_filled(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"ready\n"

    def go(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self._process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextlib.asynccontextmanager
async def owners(url: str, *minutes: int) -> AsyncIterator[list[OwnerProcess]]:
    """Owners of the epochs 1, 2 and so on, filled with so many minutes."""
    started = [OwnerProcess(url, epoch, each) for epoch, each in enumerate(minutes, 1)]
    try:
        for each in started:
            await asyncio.to_thread(each.wait_until_filled)
        yield started
    finally:
        for each in started:
            each.kill()


class Taken:
    """A socket that takes everything at once and keeps nothing."""

    blocked = False

    def write(self, frame: bytes) -> None:
        pass

    def close(self, code: int, reason: str) -> None:
        pass

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class WebNode:
    """One node's hub and what feeds it."""

    def __init__(self, url: str) -> None:
        self.board = Board(3_000)
        self.feed = Feed(self.board, url, monotonic_ms)
        streams = Streams(self.board, self.feed.wire, monotonic_ms)
        reader = OverviewReader(self.board)
        limits = Limits(queue_bytes=2**30)
        self.hub: Hub = build_hub(
            self.board, self.feed, reader, streams, limits=limits, now_ms=monotonic_ms
        )
        self.connection = Connection(Taken(), limits, monotonic_ms())
        self.topics: list[Topic] = []

    def start(self) -> None:
        self.feed.start()
        self.hub.start()
        self.hub.add(self.connection)
        scopes = frozenset({"ws:connect", "stats:read"})
        expires_at = time.time() + 3_600
        assert self.hub.admit(self.connection, Claims("one", scopes, expires_at, None), 10)
        self.hub.expect_expiry(self.connection, monotonic_ms() + 3_600_000)

    def watch(self, token_id: str) -> None:
        """Subscribe to candles that need two days of minutes."""
        key, labels = TopicKey("candles", (token_id, "15m")), {"token": token_id, "interval": "15m"}
        topic = self.hub.subscribe(self.connection, key, labels, 1_000)
        self.topics.append(topic)
        self.hub.begin(self.connection, topic, None)

    def leave(self) -> None:
        self.hub.remove(self.connection)

    def loaded(self, epoch: int) -> int:
        """The streams that have the minutes as the owner of this epoch counts them."""
        streams = [topic.state.stream for topic in self.topics]
        return sum(stream.live and stream.epoch >= epoch for stream in streams)

    async def stop(self) -> None:
        await self.hub.stop()
        await self.feed.stop()


class Beats:
    """How late the heartbeats arrive. This process and the owner share one clock."""

    def __init__(self) -> None:
        self.latest_s = 0.0
        self.newest: Heartbeat | None = None
        self._arrived_at = time.time()

    async def hear(self, message: Msg) -> None:
        self.newest = msgspec.json.decode(message.data, type=Heartbeat)
        self._arrived_at = time.time()
        self.latest_s = max(self.latest_s, self._arrived_at - self.newest.as_of / 1_000)

    def begin(self) -> None:
        """Measure from here on."""
        self.latest_s, self._arrived_at = 0.0, time.time()

    @property
    def silent_s(self) -> float:
        return time.time() - self._arrived_at


@contextlib.asynccontextmanager
async def heartbeats(url: str) -> AsyncIterator[Beats]:
    connection, beats = await nats.connect(url), Beats()
    await connection.subscribe(ALL_HEARTBEATS_SUBJECT, cb=beats.hear)
    await connection.flush()
    try:
        yield beats
    finally:
        await connection.close()


async def until(holds: Callable[[], bool], within_s: float, say: Callable[[], object]) -> float:
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < within_s, say()
        await asyncio.sleep(0.05)
    return time.monotonic() - begun


async def test_a_restarted_owner_serves_every_busy_token_again(nats_url: str) -> None:
    """Two nodes watch 100 busy tokens each when the owner is replaced."""
    async with contextlib.AsyncExitStack() as closing:
        # The first one's answers are short, so that it serves all of them however slow it is.
        first, second = await closing.enter_async_context(owners(nats_url, FEW_MINUTES, MINUTES))
        beats = await closing.enter_async_context(heartbeats(nats_url))
        nodes = [WebNode(nats_url), WebNode(nats_url)]
        for node in nodes:
            node.start()
            closing.push_async_callback(node.stop)
        first.go()
        await until(lambda: all(n.board.complete() for n in nodes), 20, lambda: "no board")
        for partition, node in enumerate(nodes):
            for number in range(TOKENS // 2):
                node.watch(f"ethereum:T{partition}-{number}")
        await until(
            lambda: all(node.loaded(1) == TOKENS // 2 for node in nodes),
            20,
            lambda: [node.loaded(1) for node in nodes],
        )
        first.kill()
        before_mb = second.rss_mb()
        second.go()
        beats.begin()
        most_mb = before_mb

        def loaded() -> bool:
            nonlocal most_mb
            most_mb = max(most_mb, second.rss_mb())
            return all(node.loaded(2) == TOKENS // 2 for node in nodes)

        def state() -> str:
            streams = [node.loaded(2) for node in nodes]
            grown_mb = most_mb - before_mb
            return (
                f"loaded {streams}, heartbeats {beats.latest_s:.1f} s late, silent for "
                f"{beats.silent_s:.1f} s, owner +{grown_mb:.0f} MB"
            )

        try:
            took_s = await until(loaded, 60, state)
        finally:
            print(state())
        print(f"every stream loaded after {took_s:.1f} s")
        assert beats.latest_s < 3, state()
        assert most_mb - before_mb < 150, state()


async def test_a_client_that_asks_for_much_and_leaves_costs_nothing_after(nats_url: str) -> None:
    async with contextlib.AsyncExitStack() as closing:
        (owner,) = await closing.enter_async_context(owners(nats_url, MINUTES))
        beats = await closing.enter_async_context(heartbeats(nats_url))
        node = WebNode(nats_url)
        node.start()
        closing.push_async_callback(node.stop)
        owner.go()
        await until(node.board.complete, 20, lambda: "no board")
        before_mb = owner.rss_mb()
        for partition in range(2):
            for number in range(TOKENS // 2):
                node.watch(f"ethereum:T{partition}-{number}")
        await until(lambda: node.loaded(1) >= 20, 20, lambda: node.loaded(1))
        node.leave()
        left_at = time.time()
        streams = [topic.state.stream for topic in node.topics]
        await until(lambda: time.time() - left_at > 8, 20, lambda: "")
        quiet = sum(stream.live for stream in streams)
        await until(lambda: time.time() - left_at > 10, 20, lambda: "")
        assert sum(stream.live for stream in streams) == quiet, "nobody waits for the others"
        assert quiet < TOKENS, "all were loaded before the client left: too few for this test"
        assert beats.latest_s < 3
        assert beats.silent_s < 3
        assert owner.rss_mb() - before_mb < 150
