"""Handle SIGTERM: notify the clients first, then let the server stop as usual.

On SIGTERM, Daphne cancels its applications immediately and without notice, and uvicorn closes the
sockets without a message. So this handler takes the signal before the server does, awaits the
goodbye, and then hands the signal to the server's handler. A second SIGTERM goes directly to the
server.
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
    """Await `goodbye()` in the running event loop before the server sees SIGTERM.

    Only the first call has an effect, and only in the main thread, where Python handles signals.
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
