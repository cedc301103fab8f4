"""Publishes a source's status on NATS once a second, for web nodes and operators.

Nothing waits for it: a source works without NATS, and its metrics and log say the same.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from typing import Final
from urllib.parse import urlsplit

import msgspec
import nats.errors
import structlog
from nats.aio.client import Client

from aggregator.contracts.names import source_subject
from aggregator.contracts.sources import SourceStatus
from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.version import VERSION

_EVERY_S: Final = 1.0
_CONNECT_S: Final = 2
_PING_S: Final = 5
_FLUSH_S: Final = 2

log = structlog.get_logger(__name__)


class SourceHeartbeat:
    """The heartbeat of one source; `status` is asked for each message."""

    def __init__(
        self, url: str, status: Callable[[], SourceStatus], *, every_s: float = _EVERY_S
    ) -> None:
        """`url` is NATS_URL."""
        self._url = url
        self._status = status
        self._every_s = every_s
        self._owner = f"{socket.gethostname()}:{os.getpid()}"
        self._fault = ""

    async def run(self) -> None:
        """Publish until the task is cancelled; connect again whenever NATS is lost.

        The last message has the status as of the cancellation: why the source stopped.
        """
        backoff = Backoff(longest_s=2.0)
        while True:
            client = Client()
            try:
                await self._connect(client)
                backoff.reset()
                await self._beat(client)
            except (OSError, nats.errors.Error) as error:
                self._note(error)
            finally:
                metrics.DEPENDENCY_UP.labels("nats").set(0)
                await client.close()
            await asyncio.sleep(backoff.pause_s())

    async def _connect(self, client: Client) -> None:
        async def note(error: Exception) -> None:
            self._note(error)

        # `run` connects again, with backoff and jitter.
        await client.connect(
            self._url,
            name="swaps-source",
            allow_reconnect=False,
            max_reconnect_attempts=1,
            reconnect_time_wait=0,
            connect_timeout=_CONNECT_S,
            ping_interval=_PING_S,
            max_outstanding_pings=2,
            error_cb=note,
        )

    async def _beat(self, client: Client) -> None:
        metrics.DEPENDENCY_UP.labels("nats").set(1)
        self._fault = ""
        try:
            while client.is_connected:
                await self._publish(client)
                await asyncio.sleep(self._every_s)
        except asyncio.CancelledError:
            await self._publish(client)
            await client.flush(_FLUSH_S)
            raise

    async def _publish(self, client: Client) -> None:
        status = msgspec.structs.replace(self._status(), owner=self._owner, version=VERSION)
        await client.publish(source_subject(status.source), msgspec.json.encode(status))

    def _note(self, error: Exception) -> None:
        fault = str(error) or type(error).__name__
        if fault != self._fault:
            self._fault = fault
            # The address without a password.
            address = urlsplit(self._url).netloc.rpartition("@")[2]
            log.warning("nats_unreachable", address=address, fault=fault)
