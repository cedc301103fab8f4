"""The asyncio publisher on a client that answers when the test says so."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Sequence
from typing import Any

from confluent_kafka import KafkaError

from aggregator.contracts.records import Header
from aggregator.producing.producer import Delivered, SwapProducer
from aggregator.producing.publisher import SwapPublisher
from aggregator.runtime.config import load
from aggregator.runtime.errors import Fatal

RECORDS = [(b"k%d" % n, b"v%d" % n) for n in range(5)]
TOO_LARGE = KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)
TIMED_OUT = KafkaError(KafkaError._MSG_TIMED_OUT)


class FakeClient(SwapProducer):
    """Holds what it is sent until `answer`; `room` records fit into its queue."""

    def __init__(self, room: int = 1_000) -> None:
        self.fault = "down"
        self.room = room
        self.dead = False
        self.sent: list[tuple[bytes | None, bytes, Sequence[Header]]] = []
        self.waiting: deque[Delivered] = deque()
        self.answers: deque[KafkaError | None] = deque()
        self.changed = threading.Condition()

    def answer(self, *errors: KafkaError | None) -> None:
        with self.changed:
            self.answers.extend(errors)
            self.changed.notify()

    def send(self, key: bytes | None, value: bytes, **options: Any) -> bool:
        if self.dead:
            raise Fatal("the Kafka producer failed")
        with self.changed:
            if len(self.waiting) >= self.room:
                return False
            self.sent.append((key, value, options["headers"]))
            self.waiting.append(options["on_delivery"])
            self.changed.notify()
        return True

    def poll(self, seconds: float) -> None:
        with self.changed:
            self.changed.wait_for(lambda: self.waiting and self.answers, seconds)
            while self.waiting and self.answers:
                self.waiting.popleft()(self.answers.popleft(), None)

    def queued(self) -> int:
        return len(self.waiting)

    def flush(self, seconds: float) -> None:
        self.poll(0)

    def abandon(self) -> None:
        self.answer(*[TIMED_OUT] * len(self.waiting))
        self.poll(0)


def publisher(*clients: FakeClient) -> SwapPublisher:
    left = iter(clients)
    return SwapPublisher(load({}), producers=lambda *_, **__: next(left))


async def test_a_batch_returns_once_every_record_has_its_answer() -> None:
    client = FakeClient()
    client.answer(None, TOO_LARGE, None, TIMED_OUT, None)
    swaps = publisher(client)
    found = await swaps.publish(RECORDS, headers=[("subject", b"me")])
    assert (found.acknowledged, found.outstanding, found.complete) == (3, 0, False)
    assert {place: each.refused for place, each in found.failures.items()} == {1: True, 3: False}
    assert client.sent == [(key, value, [("subject", b"me")]) for key, value in RECORDS]
    assert swaps.fault == ""
    await swaps.close()


async def test_after_the_deadline_it_says_how_many_were_acknowledged() -> None:
    client = FakeClient()
    client.answer(None, None)
    swaps = publisher(client)
    found = await swaps.publish(RECORDS, within_s=0.5)
    assert (found.acknowledged, found.outstanding, found.complete) == (2, 3, False)
    assert swaps.queued == 3
    await swaps.close()
    assert client.queued() == 0


async def test_a_full_queue_waits_for_room() -> None:
    client = FakeClient(room=2)
    swaps = publisher(client)
    sending = asyncio.create_task(swaps.publish(RECORDS))
    client.answer(None, None, None, None, None)
    assert (await sending).complete
    assert [value for _, value, _ in client.sent] == [value for _, value in RECORDS]
    await swaps.close()


async def test_a_client_that_failed_is_replaced_and_the_batch_goes_on() -> None:
    broken, fresh = FakeClient(), FakeClient()
    swaps = publisher(broken, fresh)
    broken.answer(None)
    assert (await swaps.publish(RECORDS[:1])).complete
    broken.dead = True
    fresh.answer(*[None] * 5)
    assert (await swaps.publish(RECORDS)).complete
    assert len(fresh.sent) == 5
    await swaps.close()


async def test_an_empty_batch_is_complete() -> None:
    swaps = publisher(FakeClient())
    assert (await swaps.publish([])).complete
    await swaps.close()
