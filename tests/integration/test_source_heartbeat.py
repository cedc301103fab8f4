"""A source's heartbeat on a real NATS, as a web node receives it."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from uuid import uuid4

from aggregator.contracts.sources import SourceStatus
from aggregator.runtime.clock import monotonic_ms
from api.board.board import Board
from api.board.feed import Feed
from infra.embedded.stack import Stack
from sources.heartbeat import SourceHeartbeat
from sources.metrics import SourceMetrics
from tests.support.processes import wait_until


async def test_a_web_node_knows_the_source_from_its_heartbeat(stack: Stack) -> None:
    name = f"eth.{uuid4().hex[:8]}"  # the dot separates the tokens of a NATS subject
    url = stack.env()["NATS_URL"]
    reported = SourceMetrics(name, "evm", "ethereum")
    reported.state("live")
    reported.sent(1_000.0, block=7)
    feed = Feed(Board(stale_after_ms=3_000), url, monotonic_ms)
    feed.start()
    beat = asyncio.create_task(SourceHeartbeat(url, reported.status, every_s=0.05).run())
    try:
        await asyncio.to_thread(wait_until, lambda: _of(feed, name), 30, "the heartbeat")
        [found] = _of(feed, name)
        assert (found.state, found.sent_block) == ("live", 7)
        assert found.owner.endswith(f":{os.getpid()}")
        assert found.version
        reported.state("stopped", "the wrong chain")
        beat.cancel()
        await asyncio.wait({beat})
        stopped = ("stopped", "the wrong chain")
        await asyncio.to_thread(wait_until, lambda: said(feed, name) == stopped, 30, "its end")
    finally:
        beat.cancel()
        with suppress(asyncio.CancelledError):
            await beat
        await feed.stop()


def said(feed: Feed, name: str) -> tuple[str, str]:
    [found] = _of(feed, name)
    return found.state, found.note


def _of(feed: Feed, name: str) -> list[SourceStatus]:
    return [each for each in feed.sources.status(monotonic_ms()) if each.source == name]
