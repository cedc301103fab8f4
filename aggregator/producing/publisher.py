"""Publishes batches of swaps from asyncio: a batch returns once the broker has answered for it.

One publisher serves a process. A thread takes the client's delivery reports, so the event loop only
fills the client's queue and is woken once a batch.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import structlog
from confluent_kafka import KafkaError, KafkaException, Message

from aggregator.contracts.records import Header
from aggregator.producing.producer import Delivered, SwapProducer, Undelivered, undelivered
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

_POLL_S: Final = 0.5
_FLUSH_S: Final = 10.0
_READY_S: Final = 10.0
_FULL_S: Final = 0.01
# The event loop serves other work between so many records, which take about a millisecond.
_SLICE: Final = 500

log = structlog.get_logger(__name__)


class Publication(NamedTuple):
    """The broker's answers for one batch.

    `failures` has the records that were not delivered by their place in the batch. `outstanding`
    records had no answer when the time was over: they may or may not arrive later.
    """

    acknowledged: int
    failures: Mapping[int, Undelivered]
    outstanding: int

    @property
    def complete(self) -> bool:
        """Whether the broker has acknowledged every record."""
        return not self.failures and not self.outstanding


class SwapPublisher:
    """Publishes to the topic of `config` from one event loop. Connects at `start`."""

    def __init__(
        self,
        config: Config,
        *,
        timeout_ms: int = 30_000,
        linger_ms: float = 1,
        producers: Callable[..., SwapProducer] = SwapProducer,
    ) -> None:
        """`timeout_ms` is how long the client tries to deliver a record that nobody waits for."""
        self._ready = threading.Event()
        self._open = partial(
            producers,
            config,
            timeout_ms=timeout_ms,
            linger_ms=linger_ms,
            on_ready=self._ready.set,
        )
        self._producer: SwapProducer | None = None
        self._polling: threading.Thread | None = None
        self._closing = threading.Event()

    @property
    def fault(self) -> str:
        """Why no broker can be reached, "" while one can."""
        return "" if self._producer is None else self._producer.fault

    @property
    def queued(self) -> int:
        """The number of records that wait for the broker."""
        return 0 if self._producer is None else self._producer.queued()

    async def start(self) -> None:
        """Connect, and return once a first record would not have to wait for the client.

        Raises Fatal where no broker answers within 5 s or the topic does not exist. The publisher
        can be used all the same: the client goes on connecting.
        """
        producer = self._started()
        if not await asyncio.to_thread(producer.topic_exists):
            raise Fatal(
                "the swap topic (KAFKA_TOPIC) does not exist: run manage.py ensure_topology"
            )
        if not await asyncio.to_thread(self._ready.wait, _READY_S):
            raise Fatal("kafka gave the producer no id: is the broker overloaded?")
        producer.note_reached()

    async def publish(
        self,
        records: Sequence[tuple[bytes, bytes]],
        *,
        headers: Sequence[Header] = (),
        within_s: float | None = None,
    ) -> Publication:
        """Send (key, value) records in order, and wait for the broker's answers.

        Every record gets `headers` and the time of sending as its timestamp. Returns after
        `within_s` seconds with what is known by then; without it, once every record has its answer,
        at the latest when the client gives up (`timeout_ms`).
        """
        batch = _Batch(len(records))
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._send(batch, records, headers)
                await batch.answered.wait()
        publication = batch.publication()
        if publication.acknowledged and self._producer is not None:
            self._producer.note_reached()
        return publication

    async def close(self) -> None:
        """Wait for up to 10 s for the broker's answers, then drop what is left."""
        self._closing.set()
        if self._polling is not None:
            await asyncio.to_thread(self._polling.join)
        self._producer = self._polling = None

    def _started(self) -> SwapProducer:
        if self._producer is None:
            self._producer, self._closing = self._open(), threading.Event()
            self._polling = threading.Thread(
                target=_serve,
                args=(self._producer, self._closing),
                name="swap-publisher",
                daemon=True,
            )
            self._polling.start()
        return self._producer

    async def _send(
        self, batch: _Batch, records: Sequence[tuple[bytes, bytes]], headers: Sequence[Header]
    ) -> None:
        for place, (key, value) in enumerate(records):
            if place % _SLICE == 0 and place:
                await asyncio.sleep(0)
            # The client does not say when its queue has room again.
            while not self._give(key, value, headers, partial(batch.answer, place)):  # noqa: ASYNC110
                await asyncio.sleep(_FULL_S)

    def _give(
        self, key: bytes, value: bytes, headers: Sequence[Header], on_delivery: Delivered
    ) -> bool:
        """Queue one record; False where it must be tried again."""
        try:
            return self._started().send(key, value, headers=headers, on_delivery=on_delivery)
        except Fatal as error:
            # The client delivers nothing any more: its records are reported, a new one takes over.
            log.error("producer_replaced", error=str(error))
            self._closing.set()
            self._producer = self._polling = None
            return False


class _Batch:
    """The answers for one batch; `answer` is called from the polling thread too."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._left = count
        self._acknowledged = 0
        self._failures: dict[int, Undelivered] = {}
        self.answered = asyncio.Event()
        if not count:
            self.answered.set()

    def answer(self, place: int, error: KafkaError | None, _message: Message | None) -> None:
        with self._lock:
            if error is None:
                self._acknowledged += 1
            else:
                self._failures[place] = undelivered(error)
            self._left -= 1
            if self._left:
                return
        with suppress(RuntimeError):
            # The loop may have ended meanwhile, and nobody waits any more.
            self._loop.call_soon_threadsafe(self.answered.set)

    def publication(self) -> Publication:
        with self._lock:
            return Publication(self._acknowledged, dict(self._failures), self._left)


def _serve(producer: SwapProducer, closing: threading.Event) -> None:
    while not closing.is_set():
        # A fatal error of the client comes out here too, as a SystemError where there are reports;
        # `send` raises it as Fatal. The reports of what was sent still come.
        with suppress(KafkaException, SystemError):
            producer.poll(_POLL_S)
    producer.flush(_FLUSH_S)
    if producer.queued():
        producer.abandon()
