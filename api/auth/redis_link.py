"""One connection to Redis that all requests of a web node share, with a short deadline per call.

Calls are pipelined: they are written as they come and answered in that order, so one connection
carries all calls of a busy node and a request never opens one. A connection that breaks, or that
leaves a call without an answer for 250 ms, is dropped and opened again with backoff and jitter;
meanwhile every call fails immediately. redis-py does the handshake (password, TLS, database).
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from aggregator.runtime.backoff import Backoff
from aggregator.runtime.errors import Retry
from aggregator.runtime.lua import LuaScript
from aggregator.runtime.redis_client import async_redis_client

ANSWER_WITHIN_S: Final = 0.25
CONNECT_WITHIN_S: Final = 2.0
FIRST_BACKOFF_S: Final = 0.1
LONGEST_BACKOFF_S: Final = 2.0
_LOOK_EVERY_S: Final = 0.05

log = structlog.get_logger(__name__)


class _Call(NamedTuple):
    answer: asyncio.Future[Any]
    sent_s: float


class RedisLink:
    """The connection to the Redis at `url`. Call `start` in the event loop that uses it."""

    def __init__(self, url: str) -> None:
        # A lost answer is noticed here, after ANSWER_WITHIN_S, and not by a timeout of the socket.
        self._pool = async_redis_client(
            url,
            timeout_s=None,
            connect_timeout_s=CONNECT_WITHIN_S,
            retries=False,
            protocol=2,
            health_check_interval=0,
        ).connection_pool
        self._address = urlsplit(url).netloc.rpartition("@")[2]
        self._task: asyncio.Task[None] | None = None
        self._connection: AbstractConnection | None = None
        self._calls: deque[_Call] = deque()
        self._fault = "not tried yet"
        self.tried = False
        """Whether an attempt to connect has succeeded or failed since the start."""

    @property
    def fault(self) -> str | None:
        """Why Redis is unreachable; None while the connection is up."""
        if self._connection is not None:
            return None
        return f"Redis at {self._address} is unreachable: {self._fault}"

    def start(self) -> None:
        """Start the task in the running event loop; a second call does nothing."""
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="redis-link")

    async def stop(self) -> None:
        """Stop the task and close the connection."""
        if self._task is None:
            return
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = None
        self._fault = "stopped"

    async def call(self, *words: str | bytes | float) -> Any:
        """Return the answer to one command. Raises Retry if none arrives, and ResponseError."""
        connection = self._connection
        if connection is None:
            raise Retry(self.fault or "")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        # no await before the write: answers are matched to calls by their order
        self._calls.append(_Call(answer, loop.time()))
        try:
            await connection.send_packed_command(
                connection.pack_command(*words), check_health=False
            )
        except (RedisError, OSError) as error:
            self._lose(connection, error)
        return await answer

    async def run(
        self, script: LuaScript, keys: Sequence[str], arguments: Sequence[str | bytes | float]
    ) -> Any:
        """Run the script, which Redis loads if it has not cached it. Raises Retry."""
        words = (len(keys), *keys, *arguments)
        try:
            try:
                return await self.call("EVALSHA", script.sha, *words)
            except NoScriptError:
                return await self.call("EVAL", script.text, *words)
        except ResponseError as error:
            raise Retry(f"Redis at {self._address} refused a script: {error}") from error

    async def _run(self) -> None:
        backoff = Backoff(FIRST_BACKOFF_S, LONGEST_BACKOFF_S, spread=(0.5, 1.0))
        try:
            while True:
                logged = self._fault
                if await self._session():
                    backoff.reset()
                if self._fault != logged:
                    log.warning("redis_unreachable", address=self._address, fault=self._fault)
                await asyncio.sleep(backoff.pause_s())
        finally:
            if self._connection is not None:
                self._lose(self._connection, ConnectionError("stopped"))

    async def _session(self) -> bool:
        """Serve one connection until it is lost; return whether it could be opened."""
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
            except (RedisError, OSError) as error:
                self.tried = True
                self._fault = str(error) or type(error).__name__
                return False
            await self._serve(connection)
            return True
        finally:
            # Closes the socket of a handshake that was cancelled, too.
            await connection.disconnect(nowait=True)

    async def _serve(self, connection: AbstractConnection) -> None:
        log.info("redis_connected", address=self._address)
        self._connection, self.tried = connection, True
        reading = asyncio.get_running_loop().create_task(self._read(connection))
        try:
            while self._connection is connection and not reading.done():
                await asyncio.sleep(_LOOK_EVERY_S)
                self._look_at_the_clock(connection)
        finally:
            self._lose(connection, ConnectionError("closed"))
            reading.cancel()
            # An `await reading` could not tell a cancellation of this task from that of `reading`.
            await asyncio.wait([reading])
        if not reading.cancelled():
            reading.result()

    async def _read(self, connection: AbstractConnection) -> None:
        while True:
            try:
                answer = await connection.read_response(timeout=math.inf, disconnect_on_error=False)
            except ResponseError as error:
                answer = error
            except (RedisError, OSError) as error:
                self._lose(connection, error)
                return
            future = self._calls.popleft().answer
            if future.done():
                pass  # the caller was cancelled
            elif isinstance(answer, ResponseError):
                future.set_exception(answer)
            else:
                future.set_result(answer)
            if isinstance(answer, ReadOnlyError):
                # The server was demoted. A new connection resolves the master's name again.
                self._lose(connection, answer)
                return

    def _look_at_the_clock(self, connection: AbstractConnection) -> None:
        now = asyncio.get_running_loop().time()
        if self._calls and now - self._calls[0].sent_s > ANSWER_WITHIN_S:
            self._lose(
                connection, TimeoutError(f"no answer within {ANSWER_WITHIN_S * 1000:.0f} ms")
            )

    def _lose(self, connection: AbstractConnection, error: Exception) -> None:
        """Drop the connection and fail every call on it, unless a newer connection replaced it."""
        if self._connection is not connection:
            return
        self._connection = None
        self._fault = str(error) or type(error).__name__
        calls, self._calls = self._calls, deque()
        for each in calls:
            if not each.answer.done():
                each.answer.set_exception(Retry(self.fault or ""))
