"""Whether a part of the operators' decisions has arrived since the process started.

Until the first state arrives no caller is let in, because a revoked token would pass. A request
that arrives right after the start waits for that state, for a bounded time.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

# Longer than a connection to Redis may take.
WITHIN_S: Final = 3.0


class FirstState:
    """The arrival of the first state. Before `begin` nothing is missing."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._waits_until: float | None = None

    @property
    def missing(self) -> bool:
        """Whether no state has arrived since `begin`."""
        return self._waits_until is not None and not self._arrived.is_set()

    def begin(self) -> None:
        """Start the bounded wait, in the running event loop."""
        if self._waits_until is None:
            self._waits_until = asyncio.get_running_loop().time() + WITHIN_S

    def arrived(self) -> None:
        """Record that a state is in force, or that there is none."""
        self._arrived.set()

    async def wait(self) -> None:
        """Wait until a state has arrived, at most until WITHIN_S after `begin`."""
        if self._waits_until is None or self._arrived.is_set():
            return
        left_s = self._waits_until - asyncio.get_running_loop().time()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left_s)
