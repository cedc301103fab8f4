"""JSON-RPC over HTTP and HTTPS: keep-alive connections, each used by one thread at a time.

HTTP announces nothing, so there is news whenever the time between two questions has passed.
"""

from __future__ import annotations

import asyncio
import base64
import socket
import ssl
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import count
from time import monotonic
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from sources.evm import wire
from sources.evm.ports import CallRefused, RateLimited, Unreachable

_CONNECTIONS: Final = 8
_CHUNK: Final = 1 << 16


class HttpTransport:
    """Calls of one HTTP endpoint, up to eight at a time."""

    announces = False
    session = 0
    silent_s = 0.0

    def __init__(
        self, url: str, name: str, *, timeout_s: float = 20.0, most_bytes: int = 64 << 20
    ) -> None:
        self.name = name
        self._url = urlsplit(url)
        self._path = (self._url.path or "/") + (f"?{self._url.query}" if self._url.query else "")
        self._headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self._url.username is not None:
            user = f"{unquote(self._url.username)}:{unquote(self._url.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._numbers = count(1)
        self._threads = ThreadPoolExecutor(_CONNECTIONS, thread_name_prefix="rpc")
        self._idle: list[HTTPConnection] = []
        self._open: set[HTTPConnection] = set()
        self._lock = threading.Lock()

    async def request(self, method: str, params: list[Any]) -> msgspec.Raw:
        """Return the result of a call. Raises Unreachable, RateLimited or Refused."""
        body = wire.request(next(self._numbers), method, params)
        loop = asyncio.get_running_loop()
        status, retry_after, data = await loop.run_in_executor(self._threads, self._post, body)
        if status == 429:
            raise RateLimited(f"{self.name}: too many calls (429)", wire.pause_of(retry_after))
        if status >= 500:
            raise Unreachable(f"{self.name}: server error ({status})")
        if status == 413:
            raise CallRefused(f"{self.name}: the request or its answer is too large (413)")
        if status >= 400 and not data.lstrip().startswith(b"{"):
            raise Unreachable(f"{self.name}: refused the call ({status}): check its URL and key")
        return wire.result(self.name, wire.reply(self.name, data))

    async def news(self, timeout_s: float) -> None:
        """Return after `timeout_s` seconds."""
        await asyncio.sleep(timeout_s)

    def reconnect(self) -> None:
        """Do nothing: HTTP has no subscription that may fall silent."""

    async def close(self) -> None:
        """Cut all connections, so that no thread waits for an answer."""
        with self._lock:
            for connection in self._open:
                if connection.sock is not None:
                    with suppress(OSError):
                        connection.sock.shutdown(socket.SHUT_RDWR)
            for connection in self._idle:
                connection.close()
            self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _post(self, body: bytes) -> tuple[int, str | None, bytes]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        if connection is not None:
            # The server may have closed an idle connection: that is no failure of the call.
            with suppress(OSError, HTTPException):
                return self._exchange(connection, body)
        try:
            return self._exchange(self._connection(), body)
        except TimeoutError as error:
            raise Unreachable(f"{self.name}: no answer in {self._timeout_s:.0f} s") from error
        except (OSError, HTTPException) as error:
            raise Unreachable(f"{self.name}: {type(error).__name__}: {error}") from error

    def _connection(self) -> HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "https":
            context = ssl.create_default_context()
            return HTTPSConnection(host, port, timeout=self._timeout_s, context=context)
        return HTTPConnection(host, port, timeout=self._timeout_s)

    def _exchange(self, connection: HTTPConnection, body: bytes) -> tuple[int, str | None, bytes]:
        """Send a request and read its answer; the connection is idle again only after that."""
        with self._lock:
            self._open.add(connection)
        kept = False
        try:
            connection.request("POST", self._path, body, self._headers)
            answer = connection.getresponse()
            until = monotonic() + self._timeout_s
            data = bytearray()
            while part := answer.read(_CHUNK):
                data += part
                if len(data) > self._most_bytes:
                    raise CallRefused(
                        f"{self.name}: an answer of more than {self._most_bytes} bytes"
                    )
                if monotonic() > until:
                    raise TimeoutError
            kept = not answer.will_close
            return answer.status, answer.getheader("Retry-After"), bytes(data)
        finally:
            with self._lock:
                self._open.discard(connection)
                if kept:
                    self._idle.append(connection)
            if not kept:
                connection.close()
