"""Many WebSocket clients in one process: they reconnect with jitter and resume, as documented.

Raw clients (`Member`) check every message against the protocol's promises; those of the Python
client (`Reader`) see what an application sees. All run on one event loop in a separate thread, so
that a test can kill things meanwhile.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Self, TypeVar

import msgspec
import nats
from swapclient import Backoff, Gap, StatsUpdate, TokenStats, TradesUpdate
from swapclient import Client as SwapClient

from aggregator.contracts.names import ALL_HEARTBEATS_SUBJECT
from aggregator.contracts.stats import Heartbeat
from tests.support import ws_wire
from tests.support.balancer import Balancer
from tests.support.loop_thread import LoopThread
from tests.support.promises import Client

T = TypeVar("T")

SILENCE_S = 3.0
FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 2.0


class Member:
    """One raw client. It tries the nodes in turn, and reconnects however it was closed."""

    def __init__(
        self, ports: Sequence[int], token: str, tokens: list[str], trade_tokens: list[str]
    ) -> None:
        self.client = Client(tokens, trade_tokens)
        self.port = ports[0]
        self.codes: list[int | None] = []
        self.silences = 0
        self._ports = list(ports)
        self._token = token
        self._wire: ws_wire.Wire | None = None

    async def run(self) -> None:
        """Connect and reconnect until cancelled."""
        attempt = 0
        while True:
            try:
                code = await self._connection()
            except (OSError, TimeoutError):
                attempt += 1
            else:
                attempt = 0
                self.codes.append(code)
            self._ports.append(self._ports.pop(0))
            self.client.lost(time.monotonic())
            await asyncio.sleep(self._wait_s(attempt))

    def _wait_s(self, attempt: int) -> float:
        retry_ms = self.client.retry_after_ms
        if retry_ms is not None:
            return retry_ms / 1_000
        return random.uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**attempt))

    async def _connection(self) -> int | None:
        client = self.client
        client.connected()
        self.port = self._ports[0]
        wire = self._wire = await ws_wire.connect(self.port, self._token, self._on_frame)
        try:
            for request in client.requests():
                wire.send(**request)
            return await wire.closed
        finally:
            wire.abort()

    def _on_frame(self, frame: bytes) -> None:
        self.client.take(frame, time.monotonic())

    def check_silence(self, now: float) -> None:
        """Cut the connection after 3 s without a frame."""
        wire = self._wire
        if wire is None or not wire.opened.done() or wire.closed.done():
            return
        if now - wire.received_at > SILENCE_S:
            self.silences += 1
            wire.abort()

    def drop(self) -> None:
        """Cut the connection."""
        if self._wire is not None:
            self._wire.abort()


class Reader:
    """One application on the Python client, connected through the balancer."""

    def __init__(
        self, url: str, token: str, tokens: list[str], trade_tokens: list[str], nap_s: float
    ) -> None:
        self.tokens = tokens
        self.rows: dict[str, TokenStats] = {}
        self.trades: dict[str, list[tuple[int, int]]] = {token: [] for token in trade_tokens}
        self.gaps = 0
        self.broken: list[str] = []
        self.stale: bool | None = True
        self.stale_since = 0.0
        self._url = url
        self._token = token
        self._nap_s = nap_s
        self._after_gap: set[str] = set()

    async def run(self) -> None:
        """Read until cancelled."""
        await asyncio.sleep(self._nap_s)
        backoff = Backoff(first_s=FIRST_WAIT_S, longest_s=LONGEST_WAIT_S)
        async with SwapClient(
            self._url, self._token, backoff=backoff, on_change=self._on_change
        ) as client:
            stats = client.subscribe("token_stats", tokens=self.tokens)
            trades = client.subscribe("trades", tokens=list(self.trades))
            await asyncio.gather(self._read(stats), self._read(trades))

    def _on_change(self, now: Any) -> None:
        if now.stale != self.stale:
            self.stale, self.stale_since = now.stale, time.monotonic()

    async def _read(self, updates: Any) -> None:
        async for update in updates:
            match update:
                case StatsUpdate(token, _, stats):
                    self._row(token, stats)
                case TradesUpdate(token, snapshot, trades):
                    self._take(token, snapshot, [(each.n, each.offset) for each in trades])
                case Gap(token, _, _, restarted, _):
                    self.gaps += 1
                    self._after_gap.add(token)
                    if restarted:
                        self.trades[token] = []
                case other:
                    self.broken.append(f"{other}")

    def _row(self, token: str, stats: TokenStats | None) -> None:
        before = self.rows.get(token)
        if stats is None:
            if before is not None:
                self.broken.append(f"{token}: None, where there were numbers")
            return
        if before is not None and (stats.epoch, stats.seq) < (before.epoch, before.seq):
            self.broken.append(f"{token}: back to {stats.epoch}, {stats.seq}")
        self.rows[token] = stats

    def _take(self, token: str, snapshot: bool, trades: list[tuple[int, int]]) -> None:
        held = self.trades[token]
        if snapshot:
            held.clear()
        given = [n for n, _ in [*held[-1:], *trades]]
        if token in self._after_gap:
            self._after_gap.discard(token)
            del given[:1]
        if given and given != list(range(given[0], given[0] + len(given))):
            self.broken.append(f"{token}: trades {given}")
        held += trades


class Crowd:
    """The loop, every client on it, and the owners' heartbeats on NATS."""

    def __init__(self, nats_url: str, ports: Sequence[int]) -> None:
        self.members: list[Member] = []
        self.readers: list[Reader] = []
        self.balancer = Balancer(ports)
        self.beats: dict[int, tuple[float, Heartbeat]] = {}
        """The first heartbeat of each partition in its present state and epoch, with its time."""
        self.failed: list[str] = []
        self._nats_url = nats_url
        self._thread = LoopThread("crowd")
        self._tasks: set[asyncio.Task[Any]] = set()

    def __enter__(self) -> Self:
        self._thread.__enter__()
        self.call(self.balancer.start())
        self.begin(self._listen())
        self.begin(self._watch_silence())
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.call(self._end())
        finally:
            self._thread.__exit__()

    def call(self, work: Coroutine[Any, Any, T], within_s: float = 60) -> T:
        """Run a coroutine on the loop and wait for it."""
        return self._thread.call(work, within_s)

    def look(self, at: Callable[[], T]) -> T:
        """Evaluate between two steps of the loop, while nothing else changes."""

        async def seen() -> T:
            return at()

        return self.call(seen())

    def begin(self, work: Coroutine[Any, Any, Any]) -> None:
        """Run a coroutine on the loop, and record its failure."""

        async def begin() -> None:
            self._spawn(work)

        self.call(begin())

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.failed.append(repr(error))

    def enter(self, member: Member) -> None:
        """Add a raw client; call it from the loop only."""
        self.members.append(member)
        self._spawn(member.run())

    def join_reader(self, token: str, tokens: list[str], trade_tokens: list[str]) -> Reader:
        """Add an application."""
        url = f"ws://127.0.0.1:{self.balancer.port}/ws"
        reader = Reader(url, token, tokens, trade_tokens, random.uniform(0, 1))
        self.readers.append(reader)
        self.begin(reader.run())
        return reader

    def everybody(self) -> list[Client | Reader]:
        """Return what each application holds."""
        return [each.client for each in self.members] + list(self.readers)

    async def _listen(self) -> None:
        """Follow the owners' heartbeats, over any number of connections."""
        decode = msgspec.json.Decoder(Heartbeat).decode

        async def record(message: Any) -> None:
            beat = decode(message.data)
            before = self.beats.get(beat.partition)
            state = (beat.epoch, beat.state)
            if before is None or (before[1].epoch, before[1].state) != state:
                self.beats[beat.partition] = (time.monotonic(), beat)

        async def ignore(_: Exception) -> None:
            pass

        client = await nats.connect(
            self._nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=ignore
        )
        try:
            await client.subscribe(ALL_HEARTBEATS_SUBJECT, cb=record)
            await asyncio.Event().wait()
        finally:
            await client.close()

    async def _watch_silence(self) -> None:
        while True:
            await asyncio.sleep(0.25)
            now = asyncio.get_running_loop().time()
            for member in self.members:
                member.check_silence(now)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.balancer.stop()
