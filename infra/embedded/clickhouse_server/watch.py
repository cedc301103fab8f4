"""Notices what a client does while its query runs: it cancels, or it disconnects.

The thread that runs a query waits inside the engine and cannot read its connection meanwhile.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Final

_RETRY_S: Final = 0.02


class Watch:
    """A thread that calls back when a watched connection has something to read.

    A callback that returns False is called again shortly after: the engine may not know the query
    yet.
    """

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._waiting: dict[socket.socket, Callable[[], bool]] = {}
        self._due: dict[socket.socket, Callable[[], bool]] = {}
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    @contextlib.contextmanager
    def readable(self, connection: socket.socket, callback: Callable[[], bool]) -> Iterator[None]:
        """Call `callback` in the watch's thread within the block, and never after it."""
        with self._lock:
            self._waiting[connection] = callback
            self._selector.register(connection, selectors.EVENT_READ)
        os.write(self._wake_write, b"\0")
        try:
            yield
        finally:
            with self._lock:
                self._due.pop(connection, None)
                if self._waiting.pop(connection, None) is not None:
                    self._selector.unregister(connection)

    def _run(self) -> None:
        while True:
            for key, _ in self._selector.select(_RETRY_S if self._due else None):
                if key.fd == self._wake_read:
                    os.read(self._wake_read, 4096)
                    continue
                assert isinstance(key.fileobj, socket.socket)
                with self._lock:
                    callback = self._waiting.pop(key.fileobj, None)
                    if callback is not None:
                        self._selector.unregister(key.fileobj)
                        self._due[key.fileobj] = callback
            # under the lock, so that no callback can reach the query after the watched one
            with self._lock:
                self._due = {at: callback for at, callback in self._due.items() if not callback()}
