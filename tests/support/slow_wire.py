"""A proxy of one TCP address that delivers late, like a slow network or a queue."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

_LOOK_S = 0.01


class SlowWire:
    """Listen on any port; each byte to the client arrives `delay_s` after it was sent.

    `delay_s` may change at any moment, also for bytes in flight. The other direction is fast.
    """

    def __init__(self, host: str, port: int) -> None:
        self.delay_s = 0.0
        self.port = 0
        self._target = (host, port)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> SlowWire:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        while self._tasks:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        # A closed transport gives its socket back in a later turn of the loop, which may not come.
        for writer in self._writers:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _serve(self, near: asyncio.StreamReader, answer: asyncio.StreamWriter) -> None:
        serving = asyncio.current_task()
        assert serving is not None
        self._tasks.add(serving)
        serving.add_done_callback(self._tasks.discard)
        self._writers.append(answer)
        far, ask = await asyncio.open_connection(*self._target)
        self._writers.append(ask)
        for work in (self._fast(near, ask), self._slow(far, answer)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _fast(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError), contextlib.closing(sink):
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()

    async def _slow(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop, waiting = asyncio.get_running_loop(), deque[tuple[float, bytes]]()
        reading = asyncio.create_task(source.read(65_536))
        try:
            with contextlib.suppress(OSError), contextlib.closing(sink):
                while True:
                    await asyncio.wait([reading], timeout=_LOOK_S)
                    if reading.done():
                        if not (data := reading.result()):
                            return
                        waiting.append((loop.time(), data))
                        reading = asyncio.create_task(source.read(65_536))
                    while waiting and waiting[0][0] <= loop.time() - self.delay_s:
                        sink.write(waiting.popleft()[1])
                    await sink.drain()
        finally:
            reading.cancel()
