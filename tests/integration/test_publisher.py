"""The publisher on a real NATS that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import msgspec
import nats
import pytest
from nats.aio.msg import Msg
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout

from aggregator.contracts.names import ALL_HEARTBEATS_SUBJECT, resync_subject
from aggregator.contracts.stats import Heartbeat, ResyncChunk, ResyncRequest
from aggregator.pubsub.publisher import Publisher
from aggregator.pubsub.resync import Patch
from infra.embedded.nats import Nats
from infra.embedded.stack import Stack
from tests.processes import wait_until

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
    """The owner's answer; asked again until there is one."""
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


async def test_partitions_taken_while_nats_is_down_are_answered_for_after(
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


async def test_the_last_heartbeat_is_said_again_on_a_new_connection(
    engines: Stack, publisher: Publisher
) -> None:
    heard: asyncio.Queue[int] = asyncio.Queue()

    async def hear(message: Msg) -> None:
        heard.put_nowait(msgspec.json.decode(message.data, type=Heartbeat).seq)

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
            assert await heard.get() == 7
            while heard.empty():  # a listener that is back too late does not hear it
                engines.nats.kill()
                await asyncio.to_thread(engines.nats.start)
                wait_until(lambda: publisher.connected, 10, "the connection")
                await asyncio.sleep(0.5)
            assert await heard.get() == 7
    finally:
        await client.close()
