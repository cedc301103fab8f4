"""Ingest of a web node: loads the writer when it is needed, and bounds what waits for Kafka.

A node that takes no swaps must not pay for this, and one that does must serve readers as before. So
nothing is loaded before the first request (INGEST=auto), a Kafka that is away is a degraded state
and never a reason to remove the node, and the bodies that wait for the broker are bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import structlog

from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal
from api.problem import Problem

if TYPE_CHECKING:
    from api.ingest.writer import SwapWriter

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 10.0
_LOADED_WITHIN_S: Final = 5.0
_LOOK_EVERY_S: Final = 5.0
# Records that a request has given up waiting for leave the producer's queue seconds later.
_MOST_QUEUED: Final = 50_000

log = structlog.get_logger(__name__)


class IngestRoom:
    """The bytes of bodies that are being answered, with a bound for all requests together."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._used = 0

    @contextlib.contextmanager
    def hold(self, size: int) -> Iterator[None]:
        """Hold so many bytes for the block. Raises Problem 503 if they do not fit now."""
        if self._used + size > self._most_bytes:
            raise busy()
        self._add(size)
        try:
            yield
        finally:
            self._add(-size)

    def _add(self, size: int) -> None:
        self._used += size
        metrics.INGEST_WAITING.set(self._used)


class Ingest:
    """The writer of a web node, which the first request or `start` loads."""

    def __init__(self, config: Config, load: Callable[[Config], SwapWriter] | None = None) -> None:
        self.room = IngestRoom(config.ingest_bytes)
        self._config = config
        self._load = load or _load_writer
        self._writer: SwapWriter | None = None
        self._ready = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._fault = ""

    @property
    def fault(self) -> str | None:
        """Why swaps cannot be written now; None where they can, or nobody has sent any yet."""
        fault = self._fault or (self._writer.publisher.fault if self._writer is not None else "")
        return f"ingest: swaps cannot be written to Kafka: {fault}" if fault else None

    def start(self) -> None:
        """Begin to load the writer if INGEST=on; otherwise the first request does."""
        if self._config.ingest == "on":
            self._begin()

    async def stop(self) -> None:
        """End the task and the producer."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._writer is not None:
            await self._writer.publisher.close()

    def require_on(self) -> None:
        """Raise Problem 404 if INGEST=off."""
        if self._config.ingest == "off":
            raise Problem(404, "ingest_off", "This node takes no swaps: INGEST is off.")

    async def writer(self) -> SwapWriter:
        """Return the writer. Raises Problem 503 while it cannot write."""
        self._begin()
        try:
            async with asyncio.timeout(_LOADED_WITHIN_S):
                await self._ready.wait()
        except TimeoutError:
            raise unavailable(self._fault or "the decoder is being loaded", 0) from None
        assert self._writer is not None
        if self._writer.publisher.queued > _MOST_QUEUED:
            raise busy()
        return self._writer

    def _begin(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep(), name="ingest")

    async def _keep(self) -> None:
        """Load the writer, connect, and go on looking whether a broker that was away is back."""
        if self._writer is None:
            self._writer = await asyncio.to_thread(self._load, self._config)
        publisher, backoff = self._writer.publisher, Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            if not self._ready.is_set() or publisher.fault:
                await self._connect(self._writer, backoff)
            await asyncio.sleep(_LOOK_EVERY_S)

    async def _connect(self, writer: SwapWriter, backoff: Backoff) -> None:
        while True:
            try:
                await writer.publisher.start()
            except Fatal as error:
                if not self._fault:
                    log.warning("ingest_unavailable", error=str(error))
                self._fault = str(error)
                await asyncio.sleep(backoff.pause_s())
            else:
                self._fault = ""
                self._ready.set()
                return


def busy() -> Problem:
    """Return the 503 for a node whose room for bodies is used up."""
    return Problem(
        503,
        "ingest_busy",
        "Too many swaps wait for Kafka on this node: send the whole body again.",
        headers={"Retry-After": "1"},
        accepted=0,
    )


def unavailable(why: str, accepted: int) -> Problem:
    """Return the 503 for swaps of which only `accepted` are known to be written."""
    return Problem(
        503,
        "ingest_unavailable",
        f"Kafka did not acknowledge every swap in time ({why}): send the whole body again, repeats "
        "are harmless.",
        headers={"Retry-After": "2"},
        accepted=accepted,
    )


def _load_writer(config: Config) -> SwapWriter:
    # Here, so that a node that takes no swaps never loads numba and the Kafka client.
    from api.ingest.writer import load_writer  # noqa: PLC0415

    return load_writer(config)
