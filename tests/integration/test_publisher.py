"""The publisher on a real NATS that comes and goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from prometheus_client import REGISTRY

from aggregator.contracts.names import ALL_HEARTBEATS_SUBJECT, history_subject, resync_subject
from aggregator.contracts.stats import Heartbeat, ResyncChunk, ResyncRequest
from aggregator.contracts.trades import CandleRow, HistoryRequest, TokenHistory
from aggregator.nats.histories import HistoryQuestion
from aggregator.nats.publisher import Publisher
from aggregator.nats.resync import Patch
from infra.embedded.nats import Nats
from infra.embedded.stack import Stack
from tests.support.processes import wait_until

ROW = Patch("c:t", 1, b'{"token_id":"c:t"}')


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path, only=(Nats,)) as stack:
        yield stack


@pytest.fixture
def publisher(engines: Stack) -> Iterator[Publisher]:
    running = Publisher(f"nats://{engines.nats.address}")
    running.start()
    wait_until(lambda: running.connected, 10, "the connection")
    yield running
    running.stop()


async def ask(engines: Stack, partition: int) -> ResyncChunk:
    """Ask until the owner answers; return the answer."""
    client = await nats.connect(f"nats://{engines.nats.address}")
    try:
        async with asyncio.timeout(10):
            while True:
                try:
                    request = msgspec.json.encode(ResyncRequest(0, 0))
                    answer = await client.request(resync_subject(partition), request, timeout=0.5)
                except (NatsTimeout, NoRespondersError):
                    await asyncio.sleep(0.05)
                else:
                    return msgspec.json.decode(answer.data, type=ResyncChunk)
    finally:
        await client.close()


async def test_partitions_taken_while_nats_is_down_answer_later(
    engines: Stack, publisher: Publisher
) -> None:
    publisher.take(0, 1)
    publisher.load(0, [ROW], 1, 10)
    assert (await ask(engines, 0)).epoch == 1

    engines.nats.kill()
    wait_until(lambda: not publisher.connected, 10, "the loss of the connection")
    publisher.drop(0)
    publisher.take(0, 2)
    publisher.load(0, [ROW], 1, 11)
    publisher.take(3, 7)
    publisher.load(3, [ROW], 1, 20)
    engines.nats.start()
    wait_until(lambda: publisher.connected, 10, "the connection")
    first, other = await ask(engines, 0), await ask(engines, 3)
    assert (first.epoch, first.next_offset) == (2, 11)
    assert (other.epoch, other.next_offset) == (7, 20)
    assert [bytes(row) for row in other.tokens] == [ROW.payload]
    publisher.check()


async def test_a_publisher_that_starts_before_nats_connects_later(tmp_path: Path) -> None:
    with Stack(tmp_path, only=(Nats,)) as engines:
        engines.nats.kill()
        publisher = Publisher(f"nats://{engines.nats.address}")
        publisher.start()
        publisher.take(1, 1)
        publisher.load(1, [ROW], 1, 5)
        engines.nats.start()
        assert (await ask(engines, 1)).next_offset == 5
        publisher.stop()


async def test_the_last_heartbeat_is_sent_again_on_a_new_connection(
    engines: Stack, publisher: Publisher
) -> None:
    received: asyncio.Queue[int] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        received.put_nowait(msgspec.json.decode(message.data, type=Heartbeat).seq)

    async def ignore(_: Exception) -> None:
        pass

    client = await nats.connect(
        f"nats://{engines.nats.address}",
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.01,  # type: ignore[arg-type] # takes seconds
        error_cb=ignore,
    )
    try:
        await client.subscribe(ALL_HEARTBEATS_SUBJECT, cb=hear)
        await client.flush()
        publisher.take(0, 1)
        publisher.heartbeat(Heartbeat(0, 1, 1, 7, 10, 10, "live", 0, None, 0, []))
        async with asyncio.timeout(20):
            assert await received.get() == 7
            while received.empty():  # a subscriber that reconnects too late misses it
                engines.nats.kill()
                await asyncio.to_thread(engines.nats.start)
                wait_until(lambda: publisher.connected, 10, "the connection")
                await asyncio.sleep(0.5)
            assert await received.get() == 7
    finally:
        await client.close()


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


async def test_patches_beyond_the_backlog_are_folded_and_counted(engines: Stack) -> None:
    publisher = Publisher(f"nats://{engines.nats.address}", backlog_bytes=10_000)
    publisher.start()
    wait_until(lambda: publisher.connected, 10, "the connection")
    before = counted("swaps_pubsub_dropped_total", partition="5")
    held, go_on = threading.Event(), threading.Event()

    async def hold_up() -> None:
        held.set()
        await asyncio.to_thread(go_on.wait)

    def publish(first: int) -> None:
        payload = msgspec.json.encode("x" * 98)
        rows = [Patch(f"c:{seq % 7}", seq, payload) for seq in range(first, first + 10)]
        publisher.publish(5, rows, rows[-1].seq * 10)

    try:
        publisher.take(5, 1)
        publisher.load(5, [ROW], 1, 10)
        publisher._ask(hold_up)
        assert held.wait(10)
        for first in range(2, 1_002, 10):
            publish(first)
            assert publisher._waiting_bytes <= 10_000
        assert sum(len(folded.rows) for folded in publisher._folded.values()) == 7
        sent = publisher._waiting_bytes // 100
        assert sent == 100
        go_on.set()
        wait_until(lambda: not publisher._waiting_bytes and not publisher._folded, 10, "the rest")
        chunk = await ask(engines, 5)
        assert (chunk.seq, chunk.next_offset, len(chunk.tokens)) == (1_001, 10_010, 8)
        assert counted("swaps_pubsub_dropped_total", partition="5") - before == 900
        publish(1_002)
        wait_until(lambda: not publisher._waiting_bytes, 10, "the next ones")
        assert (await ask(engines, 5)).next_offset == 10_110
    finally:
        go_on.set()
        publisher.stop()


async def test_an_answer_larger_than_nats_takes_is_shortened_and_arrives(
    engines: Stack, publisher: Publisher
) -> None:
    """Seven days of a token that trades every minute."""
    publisher.take(0, 1)
    text, minutes = "1234567.123456789", 7 * 1_440
    rows = [
        CandleRow(n * 60_000, text, text, text, text, text, text, 7, (n, -1, 0, n), (n, -1, 0, n))
        for n in range(minutes)
    ]
    assert len(msgspec.json.encode(rows)) > 1_048_576
    client = await nats.connect(f"nats://{engines.nats.address}")
    try:
        request = msgspec.json.encode(HistoryRequest("c:t", 2_880, 20_000))
        asked = [
            asyncio.create_task(client.request(history_subject(0), request, timeout=20))
            for _ in range(2)
        ]
        questions: list[HistoryQuestion] = []
        async with asyncio.timeout(10):
            while not questions:
                questions = publisher.take_questions()
                await asyncio.sleep(0.01)
        for question in questions:
            publisher.answer_history(question, 1, 9, 0, lambda: rows)
        async with asyncio.timeout(20):
            while not all(each.done() for each in asked):
                for question in publisher.take_questions():
                    publisher.answer_history(question, 1, 9, 0, lambda: rows)
                await asyncio.sleep(0.01)
        for each in asked:
            answer = msgspec.json.decode(each.result().data, type=TokenHistory)
            assert answer.shortened
            assert answer.candles
            assert answer.candles == rows[-len(answer.candles) :]
            assert answer.from_ms == answer.candles[0].minute_ms
    finally:
        await client.close()


async def test_a_question_that_an_owner_cannot_answer_yet_is_refused_immediately(
    engines: Stack, publisher: Publisher
) -> None:
    publisher.take(0, 1)
    client = await nats.connect(f"nats://{engines.nats.address}")
    try:
        request = msgspec.json.encode(HistoryRequest("c:t"))
        asked = asyncio.create_task(client.request(history_subject(0), request, timeout=10))
        async with asyncio.timeout(10):
            while not asked.done():
                for question in publisher.take_questions():
                    publisher.refuse_history(question)
                await asyncio.sleep(0.01)
        assert asked.result().data == b""
    finally:
        await client.close()
