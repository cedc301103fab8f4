"""The NATS side of an aggregator: its own thread and event loop, fed batches by the hot loop.

NATS carries nothing that cannot be asked for again, so a publish never waits and never fails the
caller: what NATS cannot take is counted as dropped, and the web nodes see the hole and resync. The
answers to resyncs come from what was published (`resync.py`), which only this thread touches.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aggregator import metrics
from aggregator.contracts.batch import SwapBatch
from aggregator.contracts.names import (
    ALL_HISTORIES_SUBJECT,
    ALL_RESYNCS_SUBJECT,
    archive_subject,
    heartbeat_subject,
    token_subject,
    trades_subject,
)
from aggregator.contracts.stats import ArchiveStatus, Heartbeat, ResyncRequest
from aggregator.contracts.trades import CandleRow, HistoryRequest, TokenHistory
from aggregator.errors import Fatal
from aggregator.pubsub.resync import Patch, PublishedPartition
from aggregator.pubsub.trades import RecentTrades, trade_batches

log = structlog.get_logger(__name__)

_RECONNECT_S: Final = (0.1, 2.0)
_PENDING_BYTES: Final = 8 * 1024 * 1024
_GONE_KEPT_S: Final = 60.0
_DRAIN_S: Final = 1.5
_MOST_QUESTIONS: Final = 10_000


class HistoryQuestion(msgspec.Struct, frozen=True):
    """A web node wants the history of a token; `reply` is the subject to answer on."""

    partition: int
    token_id: str
    reply: str


class Publisher:
    """Publishes for the partitions that this process owns.

    `answers` is false for a process that owns none: it must not look like one that could answer.
    Every method but `start` and `stop` returns at once; what they ask for happens in order on the
    publisher's own thread.
    """

    def __init__(self, url: str, *, answers: bool = True) -> None:
        self._url = url
        self._answers = answers
        self._nats = Client()
        self._partitions: dict[int, PublishedPartition] = {}
        self._loop = asyncio.new_event_loop()
        self._work: asyncio.Queue[Callable[[], Awaitable[object]] | None] = asyncio.Queue()
        self._thread = threading.Thread(target=self._run, name="nats-publisher", daemon=True)
        self._failure: Exception | None = None
        self._recent: dict[int, RecentTrades] = {}
        self._beats: dict[int, bytes] = {}
        self._questions: deque[HistoryQuestion] = deque(maxlen=_MOST_QUESTIONS)

    @property
    def connected(self) -> bool:
        """Whether NATS can be reached at this moment."""
        return bool(self._nats.is_connected)

    def start(self) -> None:
        """Start the thread; it connects, and reconnects for ever."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send what is pending, as far as NATS takes it within `timeout_s`, and end the thread."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._work.put_nowait, None)
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Raise Fatal where the thread has died of a fault of its own."""
        if self._failure is not None:
            raise Fatal(f"publisher: {self._failure!r}") from self._failure

    def take(self, partition: int, epoch: int) -> None:
        """This process owns `partition` under `epoch` from now on; it has published nothing yet."""
        self._ask(lambda: self._take(partition, epoch))

    def drop(self, partition: int) -> None:
        """This process no longer owns `partition`."""
        self._ask(lambda: self._drop(partition))

    def load(self, partition: int, rows: Sequence[Patch], seq: int, next_offset: int) -> None:
        """Make the first state of an epoch available to resyncs, without publishing each row."""
        self._ask(lambda: self._load(partition, rows, seq, next_offset))

    def publish(self, partition: int, patches: Sequence[Patch], next_offset: int) -> None:
        """Publish patches of contiguous seq, in order."""
        self._ask(lambda: self._publish(partition, patches, next_offset))

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Publish a partition's heartbeat, behind everything asked before."""
        self._ask(lambda: self._heartbeat(heartbeat))

    def trades(self, partition: int, epoch: int, applied: Sequence[SwapBatch]) -> None:
        """Publish the trades among what the windows have taken in since the last call, in order."""
        self._ask(lambda: self._trades(partition, epoch, applied))

    def take_questions(self) -> list[HistoryQuestion]:
        """The questions for a token's history since the last call; `answer_history` each."""
        questions = []
        while self._questions:
            questions.append(self._questions.popleft())
        return questions

    def answer_history(
        self,
        question: HistoryQuestion,
        epoch: int,
        n: int,
        candles: Callable[[], list[CandleRow]],
    ) -> None:
        """The token's minutes, which count its trades up to `n`; those were published before."""
        self._ask(lambda: self._answer_history(question, epoch, n, candles))

    def archive_status(self, status: ArchiveStatus) -> None:
        """Publish how far a partition's archiver is. May be called from any thread."""
        payload = msgspec.json.encode(status)
        self._ask(lambda: self._send(archive_subject(status.partition), payload))

    def _ask(self, work: Callable[[], Awaitable[object]]) -> None:
        self._loop.call_soon_threadsafe(self._work.put_nowait, work)

    # Below runs on the publisher's thread.

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        except Exception as error:
            self._failure = error
        finally:
            self._loop.close()

    async def _main(self) -> None:
        background = [
            asyncio.create_task(self._connect()),
            asyncio.create_task(self._forget_gone()),
        ]
        while (work := await self._work.get()) is not None:
            await work()
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if self._nats.is_connected:
            try:
                await asyncio.wait_for(self._nats.drain(), _DRAIN_S)
            except (TimeoutError, NatsError) as error:
                log.warning("nats_drain_failed", error=repr(error))

    async def _connect(self) -> None:
        low, high = _RECONNECT_S
        pause = low
        while not self._nats.is_connected:
            try:
                await self._nats.connect(
                    self._url,
                    name="swaps-aggregator",
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=0.25,  # type: ignore[arg-type] # takes seconds
                    ping_interval=2,
                    max_outstanding_pings=2,
                    pending_size=_PENDING_BYTES,
                    error_cb=self._on_error,
                    disconnected_cb=self._on_disconnect,
                    reconnected_cb=self._on_connect,
                )
            except (OSError, TimeoutError, NatsError) as error:
                metrics.DEPENDENCY_RETRIES.labels("nats").inc()
                metrics.DEPENDENCY_UP.labels("nats").set(0)
                log.warning("nats_unreachable", error=repr(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
                pause = min(high, pause * 2)
        # One subscription for all partitions, and an answer for our own: it outlives reconnects,
        # whichever partitions come and go meanwhile.
        if self._answers:
            await self._nats.subscribe(ALL_RESYNCS_SUBJECT, cb=self._on_resync)
            await self._nats.subscribe(ALL_HISTORIES_SUBJECT, cb=self._on_history)
        await self._on_connect()

    async def _on_connect(self) -> None:
        metrics.DEPENDENCY_UP.labels("nats").set(1)
        log.info("nats_connected")
        # Web nodes count on the next one to show the numbers as fresh again: a second saved.
        for partition, payload in list(self._beats.items()):
            await self._send(heartbeat_subject(partition), payload)

    async def _on_disconnect(self) -> None:
        metrics.DEPENDENCY_UP.labels("nats").set(0)
        log.warning("nats_disconnected")

    async def _on_error(self, error: Exception) -> None:
        metrics.DEPENDENCY_RETRIES.labels("nats").inc()
        log.warning("nats_error", error=repr(error))

    async def _on_resync(self, message: Msg) -> None:
        name = message.subject.rpartition(".")[2]
        partition = self._partitions.get(int(name)) if name.isdecimal() else None
        if partition is None or not message.reply:
            return
        try:
            request = _decode_request(message.data)
        except msgspec.DecodeError as error:
            log.warning("resync_unreadable", error=str(error))
            return
        # Cut whole before the first await, so that every chunk is of one (epoch, seq).
        for chunk in partition.answer(request):
            await self._send(message.reply, chunk)

    async def _on_history(self, message: Msg) -> None:
        name = message.subject.rpartition(".")[2]
        partition = int(name) if name.isdecimal() else -1
        if partition not in self._partitions or not message.reply:
            return
        try:
            request = _decode_history_request(message.data)
        except msgspec.DecodeError as error:
            log.warning("history_request_unreadable", error=str(error))
            return
        # The hot loop alone may read the windows. A question that is pushed out is asked again.
        self._questions.append(HistoryQuestion(partition, request.token_id, message.reply))

    async def _answer_history(
        self,
        question: HistoryQuestion,
        epoch: int,
        n: int,
        candles: Callable[[], list[CandleRow]],
    ) -> None:
        recent = self._recent.get(question.partition)
        history = TokenHistory(
            token_id=question.token_id,
            partition=question.partition,
            epoch=epoch,
            n=n,
            candles=candles(),
            trades=recent.of(question.token_id, n) if recent is not None else [],
        )
        await self._send(question.reply, msgspec.json.encode(history))

    async def _trades(self, partition: int, epoch: int, applied: Sequence[SwapBatch]) -> None:
        recent = self._recent.get(partition)
        if recent is None:
            return
        for batch in trade_batches(partition, epoch, applied):
            recent.add(batch.token_id, batch.trades)
            await self._send(trades_subject(batch.token_id), msgspec.json.encode(batch))

    async def _take(self, partition: int, epoch: int) -> None:
        self._partitions[partition] = PublishedPartition(partition, epoch)
        self._recent[partition] = RecentTrades()
        self._beats.pop(partition, None)

    async def _drop(self, partition: int) -> None:
        self._partitions.pop(partition, None)
        self._recent.pop(partition, None)
        self._beats.pop(partition, None)

    async def _load(
        self, partition: int, rows: Sequence[Patch], seq: int, next_offset: int
    ) -> None:
        published = self._partitions[partition]
        published.apply(rows, seq, next_offset)
        published.state = "live"

    async def _publish(self, partition: int, patches: Sequence[Patch], next_offset: int) -> None:
        self._partitions[partition].apply(patches, patches[-1].seq, next_offset)
        sent = 0
        for patch in patches:
            sent += await self._send(token_subject(patch.token_id), patch.payload)
        metrics.PUBSUB_PATCHES.labels(partition).inc(sent)
        if sent < len(patches):
            metrics.PUBSUB_DROPPED.labels(partition).inc(len(patches) - sent)

    async def _heartbeat(self, heartbeat: Heartbeat) -> None:
        published = self._partitions.get(heartbeat.partition)
        if published is not None and published.epoch == heartbeat.epoch:
            published.state = heartbeat.state
        payload = self._beats[heartbeat.partition] = msgspec.json.encode(heartbeat)
        await self._send(heartbeat_subject(heartbeat.partition), payload)

    async def _send(self, subject: str, payload: bytes) -> bool:
        """Hand one message to the connection; false where it could not take it."""
        if not self._nats.is_connected:
            return False
        try:
            await self._nats.publish(subject, payload)
        except (OSError, NatsError):
            return False
        return True

    async def _forget_gone(self) -> None:
        while True:
            await asyncio.sleep(_GONE_KEPT_S)
            for published in self._partitions.values():
                published.forget_gone()


_decode_history_request = msgspec.json.Decoder(HistoryRequest).decode
_decode_request = msgspec.json.Decoder(ResyncRequest).decode
