"""JSON-RPC over WebSocket: calls are pipelined, and the node announces its new heads."""

from __future__ import annotations

import asyncio
from itertools import count
from typing import Any, Final

import msgspec
import structlog
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from sources.evm import wire
from sources.evm.ports import CallRefused, RateLimited, Unreachable

_CALLS: Final = 64
_TOO_BIG: Final = 1009

log = structlog.get_logger(__name__)


class SocketTransport:
    """Calls of one WebSocket endpoint. It connects at the first call, and again after a cut.

    `silent_s` is how long the node has announced nothing. `session` is another number after each
    cut: what answers then may be another node.
    """

    announces = True

    def __init__(
        self, url: str, name: str, *, timeout_s: float = 20.0, most_bytes: int = 64 << 20
    ) -> None:
        self.name = name
        self.session = 0
        self._url = url
        self._timeout_s = timeout_s
        self._most_bytes = most_bytes
        self._numbers = count(1)
        self._waiting: dict[int, asyncio.Future[wire.Reply]] = {}
        self._connecting = asyncio.Lock()
        self._connection: ClientConnection | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Event()
        self._calls = asyncio.Semaphore(_CALLS)
        self._announced_at = 0.0

    @property
    def silent_s(self) -> float:
        """Seconds since the newest announcement, or since the connection was made."""
        return asyncio.get_running_loop().time() - self._announced_at

    async def request(self, method: str, params: list[Any]) -> msgspec.Raw:
        """Return the result of a call. Raises Unreachable, RateLimited or Refused."""
        async with self._calls:
            connection = await self._connected()
            answer = await self._exchange(connection, method, params)
        return wire.result(self.name, answer)

    async def news(self, timeout_s: float) -> None:
        """Return when the node announces something or is cut off, or after `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return
        finally:
            self._news.clear()

    def reconnect(self) -> None:
        """Drop the connection; the next call makes a new one."""
        if self._reading is not None:
            self._reading.cancel()
        self._connection = None
        self.session += 1

    async def close(self) -> None:
        """Close the connection; calls under way fail."""
        reading, self._reading = self._reading, None
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        self._connection = None

    async def _exchange(
        self, connection: ClientConnection, method: str, params: list[Any]
    ) -> wire.Reply:
        number = next(self._numbers)
        future: asyncio.Future[wire.Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        try:
            async with asyncio.timeout(self._timeout_s):
                await connection.send(wire.request(number, method, params), text=True)
                return await future
        except TimeoutError as error:
            raise Unreachable(
                f"{self.name}: no answer to {method} in {self._timeout_s:.0f} s"
            ) from error
        except ConnectionClosed as error:
            raise Unreachable(f"{self.name}: the connection was cut") from error
        finally:
            self._waiting.pop(number, None)

    async def _connected(self) -> ClientConnection:
        async with self._connecting:
            if self._connection is None:
                connection = await self._connect()
                self._connection = connection
                self._announced_at = asyncio.get_running_loop().time()
                self._reading = asyncio.create_task(self._read(connection))
                await self._subscribe(connection)
            return self._connection or connection

    async def _connect(self) -> ClientConnection:
        # No error of the library may pass: it would show the URL, which holds the key.
        try:
            return await connect(
                self._url,
                open_timeout=self._timeout_s,
                close_timeout=1.0,
                max_size=self._most_bytes,
                max_queue=None,
                compression=None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            if status == 429:
                pause_s = wire.pause_of(error.response.headers.get("Retry-After"))
                raise RateLimited(f"{self.name}: too many connections (429)", pause_s) from None
            raise Unreachable(
                f"{self.name}: refused the connection ({status}): check its URL and key"
            ) from None
        except (OSError, TimeoutError, WebSocketException) as error:
            raise Unreachable(f"{self.name}: no connection: {type(error).__name__}") from None

    async def _subscribe(self, connection: ClientConnection) -> None:
        """Ask for announcements; a node that refuses is asked for its head from time to time."""
        try:
            wire.result(self.name, await self._exchange(connection, "eth_subscribe", ["newHeads"]))
        except CallRefused as error:
            log.warning("source_not_subscribed", node=self.name, error=str(error))

    async def _read(self, connection: ClientConnection) -> None:
        failure: CallRefused | Unreachable = Unreachable(f"{self.name}: the connection was cut")
        try:
            while True:
                self._take(wire.reply(self.name, await connection.recv(decode=False)))
        except ConnectionClosed as closed:
            if closed.sent is not None and closed.sent.code == _TOO_BIG:
                failure = CallRefused(
                    f"{self.name}: an answer of more than {self._most_bytes} bytes"
                )
        except Unreachable as error:
            failure = error
        finally:
            if self._connection is connection:
                self._connection = None
                self.session += 1
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(failure)
            self._news.set()
            await connection.close()

    def _take(self, answer: wire.Reply) -> None:
        if answer.id is None:
            self._announced_at = asyncio.get_running_loop().time()
            self._news.set()
        elif (future := self._waiting.get(answer.id)) is not None and not future.done():
            future.set_result(answer)
