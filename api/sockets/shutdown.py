"""SIGTERM: say goodbye to the clients first, then let the server stop as it would have.

Daphne cancels its applications at once and uvicorn closes sockets without a word, and Daphne tells
an application nothing beforehand; so the signal is taken before the server's own handler, which is
called when the goodbye is over. A second SIGTERM goes straight to the server.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from types import FrameType

_installed: list[Callable[[], Awaitable[None]]] = []


def on_sigterm(goodbye: Callable[[], Awaitable[None]]) -> None:
    """Have `goodbye()` awaited in the running event loop before the server sees SIGTERM.

    Only the first call counts, and only in the main thread: Python takes signals nowhere else.
    """
    if _installed or threading.current_thread() is not threading.main_thread():
        return
    _installed.append(goodbye)
    loop = asyncio.get_running_loop()
    server = signal.getsignal(signal.SIGTERM)

    async def part() -> None:
        try:
            await goodbye()
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    parting: list[asyncio.Task[None]] = []

    def taken(_number: int, _frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, server)
        loop.call_soon_threadsafe(lambda: parting.append(loop.create_task(part())))

    signal.signal(signal.SIGTERM, taken)
