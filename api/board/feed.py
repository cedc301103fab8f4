"""The board's connection to NATS: receive patches and heartbeats, send the board's questions.

One task runs as long as the process. It never gives up and never blocks the start: it retries an
unreachable NATS with backoff and jitter. Each new connection starts as the first one did, subscribe
and then ask, so there is one code path and not two.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import msgspec
import nats
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg

from aggregator.contracts.names import (
    ALL_ARCHIVES_SUBJECT,
    ALL_HEARTBEATS_SUBJECT,
    ALL_SOURCES_SUBJECT,
    ALL_TOKENS_SUBJECT,
    resync_subject,
)
from aggregator.contracts.sources import SourceStatus
from aggregator.contracts.stats import ArchiveStatus, Heartbeat, ResyncChunk
from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import TrustedClock
from api.board.archives import Archives
from api.board.board import Board
from api.board.rates import Rates
from api.board.row import TokenRow
from api.board.saved import SavedRowsReader
from api.board.sources import Sources
from api.board.wire import Wire

TICK_S: Final = 0.05
CONNECT_TIMEOUT_S: Final = 2
PING_INTERVAL_S: Final = 5
FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 0.5
# The most bytes that may wait while the event loop is busy. Beyond it NATS's client drops messages,
# which the board detects as a hole.
PENDING_BYTES: Final = 64 * 1024 * 1024

log = structlog.get_logger(__name__)


class Feed:
    """Keep `board` equal to what the owners publish on the NATS at `url`."""

    def __init__(
        self,
        board: Board,
        url: str,
        now_ms: Callable[[], int],
        saved: SavedRowsReader | None = None,
        clock: TrustedClock | None = None,
    ) -> None:
        """Create a stopped feed; `now_ms` is a monotonic clock, `clock` the time of day."""
        self.clock = TrustedClock() if clock is None else clock
        self.archives = Archives()
        self.sources = Sources()
        self.rates = Rates()
        self.connected_once = False
        self._board = board
        self._saved = saved
        self._saved_task: asyncio.Task[None] | None = None
        self._url = url
        self._now_ms = now_ms
        self._address = urlsplit(url).netloc.rpartition("@")[2]
        self._task: asyncio.Task[None] | None = None
        self._client: Client | None = None
        self._backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S, spread=(0.5, 1.0))
        self._fault = "not tried yet"
        self._logged_fault = ""
        self._unreadable = 0
        self._patches = 0
        self._decode_patch = msgspec.json.Decoder(TokenRow).decode
        self._decode_archive = msgspec.json.Decoder(ArchiveStatus).decode
        self._decode_source = msgspec.json.Decoder(SourceStatus).decode
        self._decode_heartbeat = msgspec.json.Decoder(Heartbeat).decode
        self._decode_chunk = msgspec.json.Decoder(ResyncChunk).decode
        self._encode = msgspec.json.Encoder().encode
        self.wire = Wire()
        self.wire.unreadable = self._note_unreadable

    @property
    def started(self) -> bool:
        """Return whether the task is running."""
        return self._task is not None and not self._task.done()

    @property
    def fault(self) -> str | None:
        """Return why NATS cannot be used now; None while it can."""
        if self._client is not None and self._client.is_connected:
            return None
        return f"NATS at {self._address} is unreachable: {self._fault}"

    @property
    def unreadable(self) -> int:
        """Return how many messages could not be decoded since the start."""
        return self._unreadable

    def start(self) -> None:
        """Start the task in the running event loop; a second call does nothing."""
        if not self.started:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="board-feed")
            if self._saved is not None:
                self._saved_task = loop.create_task(self._saved.run(), name="board-saved-rows")

    async def stop(self) -> None:
        """Stop the task and close the connection."""
        for task in (self._task, self._saved_task):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        self._task = self._saved_task = None
        self._fault = "stopped"

    async def _run(self) -> None:
        while True:
            try:
                await self._session()
            except nats.errors.NoServersError:
                pass  # The client gave up; `note` has recorded the cause already.
            except (OSError, nats.errors.Error) as error:
                self._note(error)
            if self._fault != self._logged_fault:
                self._logged_fault = self._fault
                log.warning("nats_unreachable", address=self._address, fault=self._fault)
            await asyncio.sleep(self._backoff.pause_s())

    async def _session(self) -> None:
        client = Client()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S * 3):
                await self._connect(client)
            self._backoff.reset()
            await self._follow(client)
        finally:
            self._client = None
            await _close(client)

    async def _connect(self, client: Client) -> None:
        async def note(error: Exception) -> None:
            self._note(error)

        # The client's own reconnecting is off: `_run` reconnects with backoff and jitter. One
        # immediate retry is the least that the client can be configured to make.
        await client.connect(
            self._url,
            name="swaps-web",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=CONNECT_TIMEOUT_S,
            ping_interval=PING_INTERVAL_S,
            max_outstanding_pings=2,
            error_cb=note,
        )

    async def _follow(self, client: Client) -> None:
        inbox = client.new_inbox()
        for subject, handler in (
            (ALL_TOKENS_SUBJECT, self._on_patch),
            (ALL_HEARTBEATS_SUBJECT, self._on_heartbeat),
            (ALL_ARCHIVES_SUBJECT, self._on_archive),
            (ALL_SOURCES_SUBJECT, self._on_source),
            (f"{inbox}.*", self._on_answer),
        ):
            await client.subscribe(
                subject, cb=handler, pending_msgs_limit=0, pending_bytes_limit=PENDING_BYTES
            )
        # The server processes commands in order, so a question sent from here on cannot be answered
        # before the subscriptions above are in force.
        self._client = client
        self.connected_once = True
        self._board.reconnected(self._now_ms())
        await self.wire.begin(client)
        self._fault, self._logged_fault = "the connection was lost", ""
        log.info("nats_connected", address=self._address)
        while client.is_connected:
            now_ms = self._now_ms()
            metrics.BOARD_PATCHES.inc(self._patches)
            self._patches = 0
            for ask in self._board.due(now_ms):
                await client.publish(
                    resync_subject(ask.partition),
                    self._encode(ask.request),
                    reply=f"{inbox}.{ask.request_id}",
                )
            await self.wire.step(client)
            await asyncio.sleep(TICK_S)

    async def _on_patch(self, message: Msg) -> None:
        self._patches += 1
        try:
            self._board.patch(self._decode_patch(message.data), self._now_ms())
        except msgspec.MsgspecError as error:
            self._note_unreadable(message.subject, error)

    async def _on_heartbeat(self, message: Msg) -> None:
        try:
            heartbeat, now_ms = self._decode_heartbeat(message.data), self._now_ms()
            self._board.heartbeat(heartbeat, now_ms, self.clock.now_ms())
            self.rates.record(heartbeat, now_ms)
        except msgspec.MsgspecError as error:
            self._note_unreadable(message.subject, error)

    async def _on_archive(self, message: Msg) -> None:
        try:
            self.archives.record(self._decode_archive(message.data), self._now_ms())
        except msgspec.MsgspecError as error:
            self._note_unreadable(message.subject, error)

    async def _on_source(self, message: Msg) -> None:
        try:
            self.sources.record(self._decode_source(message.data), self._now_ms())
        except msgspec.MsgspecError as error:
            self._note_unreadable(message.subject, error)

    async def _on_answer(self, message: Msg) -> None:
        request_id = int(message.subject.rpartition(".")[2])
        if not message.data:
            # An empty message is the server's "no responders": the subject has no subscriber.
            self._board.refused(request_id, self._now_ms())
            return
        try:
            self._board.answer(request_id, self._decode_chunk(message.data), self._now_ms())
        except msgspec.MsgspecError as error:
            self._note_unreadable(message.subject, error)

    def _note(self, error: Exception) -> None:
        self._fault = str(error) or type(error).__name__

    def _note_unreadable(self, subject: str, error: msgspec.MsgspecError) -> None:
        self._unreadable += 1
        # Log the 1st, 2nd, 4th, 8th, ...: a line for each would flood the log.
        if self._unreadable.bit_count() == 1:
            log.error(
                "message_unreadable", subject=subject, error=str(error), count=self._unreadable
            )


async def _close(client: Client) -> None:
    with contextlib.suppress(OSError, nats.errors.Error):
        await client.close()
