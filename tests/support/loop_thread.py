"""An event loop on a thread of its own, for tests that block meanwhile."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from typing import Any, Self, TypeVar

T = TypeVar("T")

_START_WITHIN_S = 10


class LoopThread:
    """Runs an event loop inside `with`.

    At the end it cancels the tasks that are left and gives closed transports the turns of the loop
    in which they close their sockets, as `asyncio.run` does.
    """

    def __init__(self, name: str) -> None:
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run()), name=name, daemon=True
        )
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._over = asyncio.Event()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop; wait until it runs."""
        return self._started.result(_START_WITHIN_S)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()

    def call(self, work: Coroutine[Any, Any, T], within_s: float = 60) -> T:
        """Run a coroutine on the loop and wait for its result. Raises TimeoutError."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(within_s)

    async def _run(self) -> None:
        self._started.set_result(asyncio.get_running_loop())
        await self._over.wait()
