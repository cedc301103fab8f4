"""Keeps the token registry of this process up to date.

It polls the registry's revision in Redis twice a second, so an edit arrives within a second and no
message can be lost. While Redis is unreachable, the state is read from the database if that is
newer. A process that has reached neither since its start reports that (`unknown`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import structlog
from redis.exceptions import RedisError

from aggregator.contracts.names import REGISTRY_REVISION_KEY, REGISTRY_STATE_KEY
from aggregator.runtime.errors import Retry
from api.auth.first_state import FirstState
from api.auth.redis_link import RedisLink
from api.auth.revision import newer_state
from api.board.listing import RegistryState

LOOK_EVERY_S: Final = 0.5
FIRST_LOOK_EVERY_S: Final = 0.05
RECALL_EVERY_S: Final = 10.0
RECALL_WITHIN_S: Final = 2.0

log = structlog.get_logger(__name__)

_decode_state = msgspec.json.Decoder(RegistryState).decode


class RegistryFollower:
    """Calls `take` with each newer state. Call `start` in the server's event loop.

    `recall` reads the database's state, and raises Retry if it cannot.
    """

    def __init__(
        self,
        link: RedisLink,
        take: Callable[[RegistryState], object],
        recall: Callable[[], Awaitable[RegistryState]],
    ) -> None:
        self._link = link
        self._take = take
        self._recall = recall
        self._recall_at = 0.0
        self._first = FirstState()
        self._task: asyncio.Task[None] | None = None
        self._fault: str | None = "the token registry has not been read yet"
        self.revision: int | None = None

    @property
    def fault(self) -> str | None:
        """What keeps edits from arriving; None if nothing does."""
        return self._fault

    @property
    def unknown(self) -> str | None:
        """Why this process does not know which tokens are hidden; None after the first state."""
        return self._fault if self._first.missing else None

    async def settled(self) -> None:
        """Wait for the first state, for a bounded time after the start."""
        await self._first.wait()

    def start(self) -> None:
        """Start the task in the running event loop; a second call does nothing."""
        if self._task is None:
            self._first.begin()
            loop = asyncio.get_running_loop()
            self._task = loop.create_task(self._run(), name="token-registry")

    async def stop(self) -> None:
        """Stop the task."""
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
                await self._ask_database()
            else:
                self._fault = None
            await asyncio.sleep(FIRST_LOOK_EVERY_S if self._first.missing else LOOK_EVERY_S)

    async def _look(self) -> None:
        keys = REGISTRY_REVISION_KEY, REGISTRY_STATE_KEY
        state = await newer_state(self._link, *keys, _decode_state, self.revision)
        if state is not None:
            self._put_in_force(state)
        self._first.arrived()

    async def _ask_database(self) -> None:
        """Read the state from the database while Redis is unreachable, at a limited rate."""
        now_s = time.monotonic()
        # Try Redis first: its state may be newer.
        if now_s < self._recall_at or not self._link.tried:
            return
        self._recall_at = now_s + (LOOK_EVERY_S if self._first.missing else RECALL_EVERY_S)
        try:
            async with asyncio.timeout(RECALL_WITHIN_S):
                self._put_in_force(await self._recall())
        except (Retry, TimeoutError) as error:
            why = str(error) or f"the database did not answer within {RECALL_WITHIN_S:.0f} s"
            self._fault = f"{self._fault}; {why}"
        else:
            self._first.arrived()

    def _put_in_force(self, state: RegistryState) -> None:
        """Call `take` with the state, unless a newer one is in force."""
        if self.revision is None or state.revision > self.revision:
            self._take(state)
            self.revision = state.revision
            log.info("registry_taken", revision=state.revision, tokens=len(state.listings))
