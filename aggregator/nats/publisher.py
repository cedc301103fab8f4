"""The publisher: the NATS side of an aggregator, with a thread and an event loop for itself.

Web nodes can ask again for everything that NATS carries, so a publish never waits and never fails
the caller. What NATS cannot take is counted as dropped; the web nodes see the hole and resync. The
answers to resyncs come from what was published (`resync.py`), which only this thread touches.

Work waits in a queue that is bounded in bytes. Above the bound, patches go into the rows that
answer resyncs without being sent, and trades are dropped; both are counted. Another thread renders
the answers to history questions (`renderer.py`); they are sent one at a time while no other work
waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aggregator.contracts.names import (
    ALL_HISTORIES_SUBJECT,
    ALL_RESYNCS_SUBJECT,
    archive_subject,
    heartbeat_subject,
    token_subject,
    trades_subject,
)
from aggregator.contracts.stats import ArchiveStatus, Heartbeat, ResyncRequest
from aggregator.contracts.swaps import Swaps
from aggregator.contracts.trades import CandleRow, HistoryRequest, TokenHistory
from aggregator.nats.fitting import history_payload, trade_payloads
from aggregator.nats.histories import HistoryDesk, HistoryQuestion
from aggregator.nats.renderer import Renderer
from aggregator.nats.resync import Patch, PublishedPartition
from aggregator.nats.trades import RecentTrades, trade_batches
from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import monotonic_ms
from aggregator.runtime.errors import Fatal

log = structlog.get_logger(__name__)

_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 2.0
_PENDING_BYTES: Final = 8 * 1024 * 1024
_GONE_KEPT_S: Final = 60.0
_DRAIN_S: Final = 1.5
_BACKLOG_BYTES: Final = 64 * 1024 * 1024
_TRADE_BYTES: Final = 600
# An answer waits for other work, but no longer than this, or steady load would starve it.
_ANSWER_WAITS_S: Final = 1.0
_LOOK_AGAIN_S: Final = 0.005
_FLUSH_S: Final = 2


class _Folded:
    """Patches of one partition that are not sent: the newest of each token, in order of seq."""

    # Each patch is counted as dropped. Web nodes see the hole in seq and resync.

    def __init__(self) -> None:
        self.rows: dict[str, Patch] = {}
        self.patches = 0
        self.seq = 0
        self.next_offset = 0

    def add(self, patches: Sequence[Patch], next_offset: int) -> None:
        for patch in patches:
            self.rows.pop(patch.token_id, None)
            self.rows[patch.token_id] = patch
        self.patches += len(patches)
        self.seq, self.next_offset = patches[-1].seq, next_offset


class Publisher:
    """Publishes for the partitions that this process owns.

    `answers` is false for a process that owns no partitions: without a subscriber NATS reports
    "no responders" to the asker, which is faster than a timeout. Every method except `start` and
    `stop` returns immediately; the publisher's thread does the work in the order of the calls.
    """

    def __init__(
        self, url: str, *, answers: bool = True, backlog_bytes: int = _BACKLOG_BYTES
    ) -> None:
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
        self._backlog_bytes = backlog_bytes
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._folded: dict[int, _Folded] = {}
        self._desk = HistoryDesk(monotonic_ms)
        self._renderer = Renderer()
        self._answers_due: asyncio.Queue[tuple[HistoryQuestion, bytes]] = asyncio.Queue()

    @property
    def connected(self) -> bool:
        """Whether the connection to NATS is up."""
        return bool(self._nats.is_connected)

    def start(self) -> None:
        """Start the threads. The publisher's thread connects, and reconnects indefinitely."""
        self._thread.start()
        self._renderer.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Send pending work, as far as NATS takes it within `timeout_s`, and end the threads."""
        self._renderer.stop()
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._work.put_nowait, None)
            self._thread.join(timeout_s)

    def check(self) -> None:
        """Raise Fatal if the publisher's thread died of an exception."""
        if self._failure is not None:
            raise Fatal(f"publisher: {self._failure!r}") from self._failure

    def take(self, partition: int, epoch: int) -> None:
        """Begin to publish for `partition` under a new `epoch`, with no rows yet."""
        self._forget_folded(partition)
        self._ask(lambda: self._take(partition, epoch))

    def drop(self, partition: int) -> None:
        """Stop publishing for `partition`: this process no longer owns it."""
        self._forget_folded(partition)
        self._ask(lambda: self._drop(partition))

    def load(self, partition: int, rows: Sequence[Patch], seq: int, next_offset: int) -> None:
        """Make the first state of an epoch available to resyncs, without publishing each row."""
        self._ask(lambda: self._load(partition, rows, seq, next_offset))

    def publish(self, partition: int, patches: Sequence[Patch], next_offset: int) -> None:
        """Publish patches of contiguous seq, in order."""
        size = sum(len(patch.payload) for patch in patches)
        with self._lock:
            folded = self._folded.get(partition)
            if folded is None and self._reserve(size):
                self._ask(lambda: self._publish(partition, patches, next_offset), size)
                return
            # While older patches wait to be folded, newer ones must join them: sent directly, they
            # would overtake the older ones.
            if folded is None:
                folded = self._folded[partition] = _Folded()
                self._ask(partial(self._publish_folded, partition, folded))
            folded.add(patches, next_offset)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """Publish a partition's heartbeat after all work that was queued before."""
        self._ask(lambda: self._heartbeat(heartbeat))

    def trades(self, partition: int, epoch: int, applied: Sequence[Swaps]) -> None:
        """Publish, in order, the trades among the swaps that were applied since the last call."""
        count = sum(map(len, applied))
        size = count * _TRADE_BYTES
        with self._lock:
            if not self._reserve(size):
                metrics.PUBSUB_TRADES_DROPPED.labels(partition).inc(count)
                return
            self._ask(lambda: self._trades(partition, epoch, applied), size)

    def take_questions(self) -> list[HistoryQuestion]:
        """Return the history questions to answer now: a few, however many wait.

        Call `answer_history` or `refuse_history` for each.
        """
        return self._desk.take()

    def answer_history(
        self,
        question: HistoryQuestion,
        epoch: int,
        n: int,
        from_ms: int,
        candles: Callable[[], list[CandleRow]],
    ) -> None:
        """Answer with the token's minutes since `from_ms`, which count its trades up to `n`.

        Call it after publishing those trades.
        """
        self._ask(lambda: self._answer_history(question, epoch, n, from_ms, candles))

    def refuse_history(self, question: HistoryQuestion) -> None:
        """Refuse a question that this process cannot answer now; the asker may try again later."""
        self._ask(lambda: self._refuse_history(question))

    def archive_status(self, status: ArchiveStatus) -> None:
        """Publish how far a partition's archiver is. Thread-safe."""
        payload = msgspec.json.encode(status)
        self._ask(lambda: self._send(archive_subject(status.partition), payload))

    def _ask(self, work: Callable[[], Awaitable[object]], size: int = 0) -> None:
        done = partial(self._release_after, work, size) if size else work
        self._loop.call_soon_threadsafe(self._work.put_nowait, done)

    def _reserve(self, size: int) -> bool:
        """Reserve `size` bytes of the backlog; call it under the lock. A lone item always fits."""
        if self._waiting_bytes and self._waiting_bytes + size > self._backlog_bytes:
            return False
        self._waiting_bytes += size
        return True

    def _forget_folded(self, partition: int) -> None:
        """Keep later patches out of what was folded under the former epoch."""
        with self._lock:
            self._folded.pop(partition, None)

    # The methods below run on the publisher's thread.

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
            asyncio.create_task(self._send_answers()),
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
        backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S)
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
                await asyncio.sleep(backoff.pause_s())
        # One subscription for the questions of all partitions; handlers answer for the owned ones.
        # So it stays the same across rebalances and reconnects.
        if self._answers:
            await self._nats.subscribe(ALL_RESYNCS_SUBJECT, cb=self._on_resync)
            await self._nats.subscribe(ALL_HISTORIES_SUBJECT, cb=self._on_history)
        await self._on_connect()

    async def _on_connect(self) -> None:
        metrics.DEPENDENCY_UP.labels("nats").set(1)
        log.info("nats_connected")
        # Web nodes show numbers as fresh after the next heartbeat: this saves them a second.
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
        # All chunks are made before the first await, so that they share one (epoch, seq).
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
        # Only the hot loop may read the windows.
        self._desk.ask(partition, request, message.reply)

    async def _answer_history(
        self,
        question: HistoryQuestion,
        epoch: int,
        n: int,
        from_ms: int,
        candles: Callable[[], list[CandleRow]],
    ) -> None:
        recent = self._recent.get(question.partition)
        history = TokenHistory(
            token_id=question.token_id,
            partition=question.partition,
            epoch=epoch,
            n=n,
            candles=[],
            trades=recent.of(question.token_id, n) if recent is not None else [],
            from_ms=from_ms,
        )
        self._renderer.submit(lambda: self._render(question, history, candles))

    async def _refuse_history(self, question: HistoryQuestion) -> None:
        for reply in self._desk.close(question):
            metrics.HISTORY_QUESTIONS.labels("refused").inc()
            # An empty payload means the same as NATS's "no responders": no answer now.
            await self._send(reply, b"")

    def _render(
        self,
        question: HistoryQuestion,
        history: TokenHistory,
        candles: Callable[[], list[CandleRow]],
    ) -> None:
        """Render on the renderer's thread. The question is in flight until its answer is sent."""
        payload = b""
        try:
            if not self._desk.expired(question):
                whole = msgspec.structs.replace(history, candles=candles())
                payload = history_payload(whole, self._nats.max_payload)
        finally:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process ends
                self._loop.call_soon_threadsafe(self._answers_due.put_nowait, (question, payload))

    async def _send_answers(self) -> None:
        """Send one answer at a time, flushed before the next, so that heartbeats do not wait."""
        while True:
            question, payload = await self._answers_due.get()
            await self._let_work_pass()
            for reply in self._desk.close(question):
                outcome = "answered" if await self._send(reply, payload) else "refused"
                metrics.HISTORY_QUESTIONS.labels(outcome).inc()
                with contextlib.suppress(OSError, NatsError, TimeoutError):
                    await self._nats.flush(_FLUSH_S)
                await self._let_work_pass()

    async def _let_work_pass(self) -> None:
        until = time.monotonic() + _ANSWER_WAITS_S
        while not self._work.empty() and time.monotonic() < until:  # noqa: ASYNC110 - a pause
            await asyncio.sleep(_LOOK_AGAIN_S)

    async def _trades(self, partition: int, epoch: int, applied: Sequence[Swaps]) -> None:
        recent = self._recent.get(partition)
        if recent is None:
            return
        for batch in trade_batches(partition, epoch, applied):
            recent.add(batch.token_id, batch.trades)
            subject = trades_subject(batch.token_id)
            parts = list(trade_payloads(batch, self._nats.max_payload))
            if len(parts) > 1:
                metrics.PUBSUB_SHORTENED.labels("trades").inc()
            for count, payload in parts:
                if not await self._send(subject, payload):
                    metrics.PUBSUB_TRADES_DROPPED.labels(partition).inc(count)

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

    async def _publish_folded(self, partition: int, folded: _Folded) -> None:
        with self._lock:
            if self._folded.get(partition) is folded:
                del self._folded[partition]
        published = self._partitions.get(partition)
        if published is not None:
            published.apply(list(folded.rows.values()), folded.seq, folded.next_offset)
        metrics.PUBSUB_DROPPED.labels(partition).inc(folded.patches)

    async def _release_after(self, work: Callable[[], Awaitable[object]], size: int) -> None:
        try:
            await work()
        finally:
            with self._lock:
                self._waiting_bytes -= size
                metrics.PUBSUB_BACKLOG.set(self._waiting_bytes)

    async def _heartbeat(self, heartbeat: Heartbeat) -> None:
        published = self._partitions.get(heartbeat.partition)
        if published is not None and published.epoch == heartbeat.epoch:
            published.state = heartbeat.state
        payload = self._beats[heartbeat.partition] = msgspec.json.encode(heartbeat)
        await self._send(heartbeat_subject(heartbeat.partition), payload)

    async def _send(self, subject: str, payload: bytes) -> bool:
        """Hand one message to the connection; return false if it could not take the message."""
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
