"""The registry, brought to this process while it runs.

A look at its revision in Redis twice a second, so an edit is here within a second whatever message
is lost; while Redis is away, what was taken stays in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from aggregator.contracts.names import REGISTRY_REVISION_KEY, REGISTRY_STATE_KEY
from aggregator.errors import Retry
from api.registry.listing import RegistryState
from api.security.redis_link import RedisLink

LOOK_EVERY_S: Final = 0.5

log = structlog.get_logger(__name__)

_decode_state = msgspec.json.Decoder(RegistryState).decode


class RegistryFollower:
    """Calls `take` with each newer state; `start` it in the server's event loop."""

    def __init__(self, link: RedisLink, take: Callable[[RegistryState], object]) -> None:
        self._link = link
        self._take = take
        self._task: asyncio.Task[None] | None = None
        self._fault: str | None = "the token registry was not read yet"
        self.revision: int | None = None

    @property
    def fault(self) -> str | None:
        """What keeps edits from coming in."""
        return self._fault

    def start(self) -> None:
        """Begin, in the running event loop; a second call does nothing."""
        if self._task is None:
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="token-registry")

    async def stop(self) -> None:
        """End the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        while True:
            try:
                await self._look()
            except (Retry, RedisError) as error:
                self._fault = f"the token registry is not followed: {error}"
            else:
                self._fault = None
            await asyncio.sleep(LOOK_EVERY_S)

    async def _look(self) -> None:
        revision = await self._link.call("GET", REGISTRY_REVISION_KEY)
        if revision is None or int(revision) == self.revision:
            return
        state = await self._link.call("GET", REGISTRY_STATE_KEY)
        if state is None:
            return
        try:
            decoded = _decode_state(state)
        except msgspec.MsgspecError as error:
            raise Retry(f"its state in Redis cannot be read: {error}") from error
        self._take(decoded)
        self.revision = decoded.revision
        log.info("registry_taken", revision=decoded.revision, tokens=len(decoded.listings))
