"""Refreshes the keys while the server runs.

A source decides when a refresh is due; the task here only calls it every second, so that rotated
keys arrive without a restart and no request waits for them.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from api.auth.keys import KeySource

ASK_EVERY_S: Final = 1.0

log = structlog.get_logger(__name__)


class KeyKeeper:
    """A background task that refreshes one source."""

    def __init__(self, keys: KeySource) -> None:
        self._keys = keys
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the task in the running event loop; a second call does nothing."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="key-keeper")

    async def stop(self) -> None:
        """Stop the task."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        said: str | None = None
        while True:
            await self._keys.refresh()
            if self._keys.fault != said:
                said = self._keys.fault
                if said is not None:
                    log.error("keys_unreadable", fault=said, serving_old=not self._keys.empty)
            await asyncio.sleep(ASK_EVERY_S)
