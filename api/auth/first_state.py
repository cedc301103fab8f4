"""Whether a part of the operators' decisions has arrived since the process started.

Before the first state nobody may be let in: a revoked token would pass. A request that comes right
after the start waits for it, a bounded time and only then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

# Longer than Redis may take to be connected to.
WITHIN_S: Final = 3.0


class FirstState:
    """Nothing is missing before `begin`: what was never started serves nobody."""

    def __init__(self) -> None:
        self._arrived = asyncio.Event()
        self._waits_until: float | None = None

    @property
    def missing(self) -> bool:
        """Whether no state has arrived since `begin`."""
        return self._waits_until is not None and not self._arrived.is_set()

    def begin(self) -> None:
        """Count from now, in the running event loop."""
        if self._waits_until is None:
            self._waits_until = asyncio.get_running_loop().time() + WITHIN_S

    def arrived(self) -> None:
        """A state is in force, or it is known that there is none."""
        self._arrived.set()

    async def wait(self) -> None:
        """Return when a state has arrived, at the latest WITHIN_S after `begin`."""
        if self._waits_until is None or self._arrived.is_set():
            return
        left_s = self._waits_until - asyncio.get_running_loop().time()
        if left_s > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left_s)
