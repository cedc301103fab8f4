"""Hydrate, change, subscribe and read in any order: no client ends wrong or goes back.

hypothesis drives the order: patches that arrive, are lost or repeated, resyncs whose chunks come
late, owners that change, clients that subscribe, resume, leave or stop reading.
"""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.contracts.stats import ResyncChunk, TokenStats
from tests.unit.api.samples import Owner
from tests.unit.sockets.support import Client, Node

TOKENS = [f"ethereum:0x{number}" for number in range(4)]


class Watcher:
    """A client that keeps the newest (epoch, seq) of each token, as docs/websocket.md requires."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.wanted: set[str] = set()
        self.acked: set[str] = set()
        self.begun: set[str] = set()
        self.rows: dict[str, dict[str, Any]] = {}

    async def subscribe(self, token: str, resume: bool) -> None:
        have = self.rows.get(token) if resume else None
        fields = {"resume": {"epoch": have["epoch"], "seq": have["seq"]}} if have else {}
        await self.client.subscribe("token_stats", token, **fields)
        self.wanted.add(token)

    async def unsubscribe(self, token: str) -> None:
        tokens = [token]
        await self.client.send(method="unsubscribe", channel="token_stats", tokens=tokens)
        self.wanted.discard(token)

    def read(self) -> None:
        for message in self.client.messages():
            token = message.get("token")
            if message["type"] == "ack":
                if message["method"] == "unsubscribe":
                    self.acked.discard(token)
                    self.begun.discard(token)
                else:
                    self.acked.add(token)
                    if message.get("resumed"):
                        self.begun.add(token)
            elif message.get("channel") == "token_stats":
                self._take(token, message)

    def _take(self, token: str, message: dict[str, Any]) -> None:
        assert token in self.acked, "numbers before the ack, or after the end"
        if message["type"] == "snapshot":
            self.begun.add(token)
        assert token in self.begun, "an update before the snapshot"
        row, before = message["data"], self.rows.get(token)
        if row is None:
            assert before is None, "nothing, where there were numbers"
            return
        assert (row["epoch"], row["seq"]) == (message["epoch"], message["seq"])
        if before is not None:
            assert (row["epoch"], row["seq"]) >= (before["epoch"], before["seq"])
            assert row["next_offset"] >= before["next_offset"]
        self.rows[token] = row


class Play:
    """Run one schedule."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.node = Node()
        self.owner = self.node.owner
        self.watchers = [Watcher(self.node.client()) for _ in range(3)]
        self.held: list[TokenStats] = []
        self.chunks: list[tuple[int, ResyncChunk]] = []

    async def run(self, steps: int) -> None:
        for number, watcher in enumerate(self.watchers):
            await watcher.client.enter(f"user{number}")
        for _ in range(steps):
            await self.step()
        await self.settle()

    async def step(self) -> None:
        kind = self.draw.choice(
            ["trade"] * 6
            + ["hold", "beat", "ask", "chunk", "chunk", "late", "owner"]
            + ["subscribe"] * 4
            + ["unsubscribe", "block", "read", "round", "round", "round"]
        )
        await getattr(self, f"on_{kind}")()

    async def on_trade(self) -> None:
        patch = self.owner.trade(self.draw.choice(TOKENS))
        for _ in range(self.draw.choice([0, 1, 1, 1, 1, 2])):
            self.node.board.patch(patch, self.node.now)

    async def on_hold(self) -> None:
        self.held.append(self.owner.trade(self.draw.choice(TOKENS)))

    async def on_late(self) -> None:
        if self.held:
            late = self.held.pop(self.draw.randrange(len(self.held)))
            self.node.board.patch(late, self.node.now)

    async def on_beat(self) -> None:
        self.node.board.heartbeat(self.owner.heartbeat(self.node.now), self.node.now)

    async def on_ask(self) -> None:
        for ask in self.node.board.due(self.node.now):
            answer = self.owner.answer(ask.request)
            self.chunks += [(ask.request_id, each) for each in answer]

    async def on_chunk(self) -> None:
        if self.chunks:
            request_id, chunk = self.chunks.pop(self.draw.randrange(len(self.chunks)))
            self.node.board.answer(request_id, chunk, self.node.now)

    async def on_owner(self) -> None:
        successor = Owner(epoch=self.owner.epoch + 1, next_offset=self.owner.next_offset)
        for token in self.owner.rows:
            successor.trade(token)
        self.owner = self.node.owner = successor

    async def on_subscribe(self) -> None:
        watcher = self.draw.choice(self.watchers)
        await watcher.subscribe(self.draw.choice(TOKENS), self.draw.random() < 0.5)

    async def on_unsubscribe(self) -> None:
        watcher = self.draw.choice(self.watchers)
        if watcher.wanted:
            await watcher.unsubscribe(self.draw.choice(sorted(watcher.wanted)))

    async def on_block(self) -> None:
        socket = self.draw.choice(self.watchers).client.socket
        socket.blocked = not socket.blocked

    async def on_read(self) -> None:
        self.draw.choice(self.watchers).read()

    async def on_round(self) -> None:
        self.node.run(self.draw.choice([10, 30, 100]))

    async def settle(self) -> None:
        for watcher in self.watchers:
            watcher.client.socket.blocked = False
        for _ in range(40):
            self.node.beat()
            self.node.run(300)
        for watcher in self.watchers:
            watcher.read()


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32), st.integers(5, 120))
def test_every_client_ends_with_the_owners_numbers(seed: int, steps: int) -> None:
    play = Play(seed)
    asyncio.run(play.run(steps))
    for watcher in play.watchers:
        assert watcher.client.socket.closed is None
        for token in watcher.wanted:
            owned = play.owner.rows.get(token)
            shown = watcher.rows.get(token)
            if owned is None:
                assert shown is None
                continue
            assert shown is not None, token
            assert (shown["epoch"], shown["seq"]) == (owned.epoch, owned.seq)
            assert shown["windows"]["5m"]["volume_usd"] == owned.windows["5m"].volume_usd
            assert shown["stale"] is False


def test_a_change_between_the_snapshot_and_the_flush_is_an_update_after_it() -> None:
    async def play() -> list[dict[str, Any]]:
        node = Node()
        node.beat()
        node.trade(TOKENS[0])
        client = await node.client().enter()
        await client.subscribe("token_stats", TOKENS[0])
        node.trade(TOKENS[0])
        node.run(100)
        return client.messages()

    _, snapshot, update = asyncio.run(play())
    assert (snapshot["type"], snapshot["seq"]) == ("snapshot", 1)
    assert (update["type"], update["seq"]) == ("update", 2)
    assert json.dumps(update["data"]["windows"]) != json.dumps(snapshot["data"]["windows"])
