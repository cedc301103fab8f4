"""The NATS side of an aggregator: its own thread and event loop, fed batches by the hot loop.

NATS carries nothing that cannot be asked for again, so a publish never waits and never fails the
caller: what NATS cannot take is counted as dropped, and the web nodes see the hole and resync. The
answers to resyncs come from what was published (`resync.py`), which only this thread touches.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from aggregator import metrics
from aggregator.contracts.names import ALL_RESYNCS_SUBJECT, heartbeat_subject, token_subject
from aggregator.contracts.stats import Heartbeat, ResyncRequest
from aggregator.errors import Fatal
from aggregator.pubsub.resync import Patch, PublishedPartition

log = structlog.get_logger(__name__)

_RECONNECT_S: Final = (0.1, 2.0)
_PENDING_BYTES: Final = 8 * 1024 * 1024
_IDLE_KEPT_S: Final = 60.0
_DRAIN_S: Final = 1.5


class Publisher:
    """Publishes for the partitions that this process owns.

    Every method but `start` and `stop` returns at once; what they ask for happens in order on the
    publisher's own thread.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._nats = Client()
        self._partitions: dict[int, PublishedPartition] = {}
        self._loop = asyncio.new_event_loop()
        self._work: asyncio.Queue[Callable[[], Awaitable[None]] | None] = asyncio.Queue()
        self._thread = threading.Thread(target=self._run, name="nats-publisher", daemon=True)
        self._failure: Exception | None = None

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

    def _ask(self, work: Callable[[], Awaitable[None]]) -> None:
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
            asyncio.create_task(self._forget_idle()),
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
        await self._nats.subscribe(ALL_RESYNCS_SUBJECT, cb=self._on_resync)
        await self._on_connect()

    async def _on_connect(self) -> None:
        metrics.DEPENDENCY_UP.labels("nats").set(1)
        log.info("nats_connected")

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

    async def _take(self, partition: int, epoch: int) -> None:
        self._partitions[partition] = PublishedPartition(partition, epoch)

    async def _drop(self, partition: int) -> None:
        self._partitions.pop(partition, None)

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
        payload = msgspec.json.encode(heartbeat)
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

    async def _forget_idle(self) -> None:
        while True:
            await asyncio.sleep(_IDLE_KEPT_S)
            for published in self._partitions.values():
                published.forget_idle()


_decode_request = msgspec.json.Decoder(ResyncRequest).decode
