"""Numbers are stale whatever queued them: their owner, NATS, or the web node's own event loop."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import msgspec
import nats
import pytest

from aggregator.contracts.names import heartbeat_subject
from aggregator.contracts.stats import Heartbeat
from aggregator.runtime.clock import monotonic_ms
from api.auth.demo_issuer import ensure_keys
from api.board.board import Board
from api.board.feed import Feed
from infra.embedded.nats import Nats
from infra.embedded.stack import Stack
from tests.integration.test_web import LiveOwner, live_owner
from tests.integration.ws_node import (
    WebNode,
    WsClient,
    client,
    eventually_async,
    token_of,
    web_node,
)
from tests.support.plain import PLAIN
from tests.support.slow_wire import SlowWire
from tests.unit.api.samples import AS_OF, Owner

pytestmark = [pytest.mark.engines, pytest.mark.timeout(120)]

A = "ethereum:0xaa"
STALE_AFTER_MS = 3_000
DELAY_S = 5.0
WITHIN_S = 30


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Nats]:
    with Stack(tmp_path / "stack", only=(Nats,)) as stack:
        yield stack.nats


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("issuer")
    ensure_keys(directory)
    return directory


class Reader:
    """REST and a socket of one node."""

    def __init__(self, node: WebNode, token: str, socket: WsClient) -> None:
        self._url = f"http://127.0.0.1:{node.port}"
        self._token = token
        self.socket = socket

    async def get(self, path: str) -> httpx.Response:
        async with httpx.AsyncClient(verify=PLAIN, timeout=5) as http:
            return await http.get(
                self._url + path, headers={"Authorization": f"Bearer {self._token}"}
            )

    async def partition(self) -> dict[str, Any]:
        found: dict[str, Any] = (await self.get("/api/status")).json()["partitions"][0]
        return found

    async def late(self) -> bool:
        """Heartbeats arrive, and what they say is old: not the silence before the first."""
        return bool((await self.partition())["state"] == "late")

    async def fresh(self) -> bool:
        return (await self.get("/readyz")).status_code == 200

    async def told(self, *, stale: bool) -> None:
        """The socket is told so by itself."""
        async with asyncio.timeout(WITHIN_S):
            while True:
                message = await self.socket.next(WITHIN_S, channel="status")
                if message["data"]["stale"] is stale:
                    return

    async def says_late_everywhere(self) -> None:
        await eventually_async(self.late, WITHIN_S, "late")
        partition = await self.partition()
        assert partition["stale"] is True
        assert partition["age_ms"] > STALE_AFTER_MS
        overview = (await self.get("/api/overview")).json()
        assert overview["stale"] is True
        assert (await self.get(f"/api/tokens/{A}/stats")).json()["stale"] is True
        ready = await self.get("/readyz")
        assert ready.status_code == 503
        assert any("old when they arrive" in reason for reason in ready.json()["reasons"])
        await self.told(stale=True)

    async def says_fresh_everywhere(self) -> None:
        await eventually_async(self.fresh, WITHIN_S, "fresh again")
        assert (await self.get(f"/api/tokens/{A}/stats")).json()["stale"] is False
        await self.told(stale=False)


async def test_what_waits_in_nats_is_stale(tmp_path: Path, issuer: Path, nats_server: Nats) -> None:
    owner, place = Owner(), urlsplit(nats_server.url)
    owner.trade(A)
    assert place.hostname is not None and place.port is not None
    async with SlowWire(place.hostname, place.port) as wire:
        url = f"nats://127.0.0.1:{wire.port}"
        async with web_node(tmp_path, issuer, url) as node, live_owner(nats_server.url, owner):
            await eventually_async(lambda: node.answers("/readyz", 200), WITHIN_S, "readiness")
            token = token_of(issuer, scope="stats:read ws:connect ops:read")
            async with client(node, token) as socket:
                reader = Reader(node, token, socket)
                wire.delay_s = DELAY_S
                await reader.says_late_everywhere()
                wire.delay_s = 0.0
                await reader.says_fresh_everywhere()


class QueueingOwner(LiveOwner):
    """Its publisher sends each heartbeat `delay_s` after the heartbeat was made."""

    delay_s = 0.0

    async def speak(self) -> None:
        made: deque[tuple[float, bytes]] = deque()
        while True:
            made_at = time.time_ns() // 1_000_000 - AS_OF
            beat = msgspec.json.encode(self.owner.heartbeat(made_at))
            made.append((time.monotonic(), beat))
            while made and made[0][0] <= time.monotonic() - self.delay_s:
                subject = heartbeat_subject(self.owner.partition)
                await self._client.publish(subject, made.popleft()[1])
            await asyncio.sleep(0.1)


async def test_what_waits_in_its_owner_is_stale(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner = Owner()
    owner.trade(A)
    async with (
        web_node(tmp_path, issuer, nats_server.url) as node,
        live_owner(nats_server.url, owner, kind=QueueingOwner) as live,
    ):
        await eventually_async(lambda: node.answers("/readyz", 200), WITHIN_S, "readiness")
        token = token_of(issuer, scope="stats:read ws:connect ops:read")
        async with client(node, token) as socket:
            reader = Reader(node, token, socket)
            assert isinstance(live, QueueingOwner)
            live.delay_s = DELAY_S
            await reader.says_late_everywhere()
            live.delay_s = 0.0
            await reader.says_fresh_everywhere()


class Elsewhere:
    """An owner in a thread of its own, whose heartbeats go on while the test's loop stands."""

    def __init__(self, url: str, owner: Owner) -> None:
        self._url = url
        self._owner = owner
        self._done = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Elsewhere:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    async def _run(self) -> None:
        async with live_owner(self._url, self._owner):
            await asyncio.to_thread(self._done.wait)


class WatchedBoard(Board):
    """Notes what a reader would have seen with each heartbeat of a backlog."""

    def __init__(self) -> None:
        super().__init__(STALE_AFTER_MS)
        self.seen: list[tuple[int, bool]] = []

    def heartbeat(self, heartbeat: Heartbeat, now_ms: int, wall_ms: int | None = None) -> None:
        super().heartbeat(heartbeat, now_ms, wall_ms)
        made_ago = time.time_ns() // 1_000_000 - heartbeat.as_of
        self.seen.append((made_ago, bool(self.stale_partitions(now_ms))))


async def test_what_waits_for_the_nodes_own_loop_is_stale(nats_server: Nats) -> None:
    owner = Owner()
    owner.trade(A)
    board = WatchedBoard()
    feed = Feed(board, nats_server.url, monotonic_ms)

    async def fresh() -> bool:
        return board.complete() and not board.stale_partitions(monotonic_ms())

    with Elsewhere(nats_server.url, owner):
        feed.start()
        try:
            await eventually_async(fresh, WITHIN_S, "fresh")
            time.sleep(DELAY_S)  # noqa: ASYNC251 - the fault itself: a loop that stands still
            board.seen.clear()
            assert board.stale_partitions(monotonic_ms())
            await eventually_async(fresh, WITHIN_S, "fresh again")
        finally:
            await feed.stop()
    old = [stale for made_ago, stale in board.seen if made_ago > STALE_AFTER_MS + 100]
    assert old, "nothing had waited"
    assert all(old)


async def test_a_node_that_starts_during_a_backlog_says_so(nats_server: Nats) -> None:
    """All it ever hears is 14 s old, so no delay looks longer than another."""
    owner = Owner()
    owner.trade(A)
    board = Board(STALE_AFTER_MS)
    feed = Feed(board, nats_server.url, monotonic_ms)
    connection = await nats.connect(nats_server.url)

    async def late() -> bool:
        made_at = time.time_ns() // 1_000_000 - 14_000 - AS_OF
        beat = msgspec.json.encode(owner.heartbeat(made_at))
        await connection.publish(heartbeat_subject(0), beat)
        return [each.state for each in board.status(monotonic_ms())] == ["late"]

    feed.start()
    try:
        await eventually_async(late, WITHIN_S, "late")
    finally:
        await feed.stop()
        await connection.close()
