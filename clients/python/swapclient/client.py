"""The client: keeps one connection and delivers messages to its subscriptions.

The only module that uses sockets and clocks; `session` makes the decisions.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Final, Literal, Self, overload
from urllib.parse import urlsplit, urlunsplit

import websockets
from websockets.asyncio.client import ClientConnection, connect

from swapclient.backoff import Backoff, TokenBucket
from swapclient.errors import AuthRefused, ConnectionRefused, SwapClientError
from swapclient.events import (
    CandlesUpdate,
    Gap,
    OverviewUpdate,
    Refused,
    StatsUpdate,
    StatusUpdate,
    TradesUpdate,
)
from swapclient.inbox import Inbox
from swapclient.messages import Channel, Interval
from swapclient.session import Condition, Session, State
from swapclient.subscription import Subscription
from swapclient.topics import Topic

Token = str | Callable[[], Awaitable[str]]
# The service sends a heartbeat after 1 s of silence.
SILENCE_S: Final = 3.0
FRAME_BYTES: Final = 16 * 2**20

log = logging.getLogger("swapclient")


class Client:
    """One connection to the service, kept until the `async with` block ends.

    `url` is the address of the socket (`wss://host/ws`) or of the service (`https://host`). `token`
    is a JWT, or an async function that returns a fresh one; the client calls it for each connection
    and before the token expires. `on_change` is called with each new Condition, `on_refused` when
    the service refuses the connection (a limit, an origin) and the client will retry. Both are
    called from the event loop.
    """

    def __init__(
        self,
        url: str,
        token: Token,
        *,
        on_change: Callable[[Condition], None] | None = None,
        on_refused: Callable[[ConnectionRefused], None] | None = None,
        backoff: Backoff | None = None,
        silence_s: float = SILENCE_S,
        open_timeout_s: float = 10.0,
    ) -> None:
        self._url = socket_url(url)
        self._token = token
        self._on_change = on_change
        self._on_refused = on_refused
        self._silence_s = silence_s
        self._open_timeout_s = open_timeout_s
        self._session = Session(backoff or Backoff(), random.random, callable(token))
        self._condition = self._session.condition
        self._changed = asyncio.Event()
        self._to_send = asyncio.Event()
        self._to_renew = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start to connect; the caller may subscribe immediately."""
        if self._task is not None:
            raise RuntimeError("a client serves one `async with` block: create another one")
        self._task = asyncio.create_task(self._run(), name="swapclient")
        self._task.add_done_callback(self._on_end)
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connection and end every subscription. A second call does nothing."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._session.end()
        self._note()

    @property
    def state(self) -> State:
        """The state of the connection."""
        return self._session.state

    @property
    def stale(self) -> bool:
        """Whether the last received numbers may be old: not connected, or the node reports it."""
        return self._session.stale

    @property
    def error(self) -> Exception | None:
        """The error that ended the client, or the refusal of its last connection."""
        return self._session.error or self._session.refusal

    async def wait_for(self, wanted: Callable[[Condition], bool]) -> Condition:
        """Wait until `wanted` returns true for the condition, and return the condition.

        If the client ends first, raises the error that ended it, or SwapClientError.
        """
        while not wanted(self._session.condition):
            if self._session.state is State.CLOSED:
                raise self._session.error or SwapClientError("the client is closed")
            self._changed.clear()
            await self._changed.wait()
        return self._session.condition

    @overload
    def subscribe(
        self, channel: Literal["token_stats"], *, tokens: Iterable[str], interval_ms: int = 100
    ) -> Subscription[StatsUpdate | Refused]: ...
    @overload
    def subscribe(
        self, channel: Literal["trades"], *, tokens: Iterable[str], buffer: int = 10_000
    ) -> Subscription[TradesUpdate | Gap | Refused]: ...
    @overload
    def subscribe(
        self,
        channel: Literal["candles"],
        *,
        tokens: Iterable[str],
        interval: Interval,
        interval_ms: int = 100,
    ) -> Subscription[CandlesUpdate | Refused]: ...
    @overload
    def subscribe(
        self, channel: Literal["overview"], *, interval_ms: int = 1_000, **parameters: Any
    ) -> Subscription[OverviewUpdate | Refused]: ...
    @overload
    def subscribe(
        self, channel: Literal["status"], *, interval_ms: int = 1_000
    ) -> Subscription[StatusUpdate | Refused]: ...

    def subscribe(
        self,
        channel: Channel,
        *,
        tokens: Any = (),
        interval: Any = None,
        interval_ms: int = 100,
        buffer: int = 10_000,
        **parameters: Any,
    ) -> Subscription[Any]:
        """Subscribe to the events of one channel, from now on and across reconnects.

        `tokens` are ids `chain:token`; `interval_ms` is the minimum time between two updates;
        `buffer` is how many trades wait for a slow reader before the oldest become a Gap;
        `parameters` are those of GET /api/overview. Raises ValueError if an argument that the
        channel needs is missing.
        """
        topics = _topics(channel, tokens, interval, parameters)
        inbox = Inbox(topics, interval_ms, buffer)
        subscription: Subscription[Any] = Subscription(inbox, self._leave)
        if self._session.state is State.CLOSED:
            inbox.end()
        else:
            self._session.add(inbox)
            self._to_send.set()
        return subscription

    def _leave(self, inbox: Inbox) -> None:
        self._session.remove(inbox)
        self._to_send.set()

    async def _run(self) -> None:
        while True:
            self._session.connecting()
            self._note()
            code = await self._connection()
            wait_s = self._session.lost(code, time.monotonic())
            self._note()
            refusal = self._session.refusal
            if refusal is not None:
                log.warning("refused, next attempt in %.1f s: %s", wait_s, refusal)
                if self._on_refused is not None:
                    self._on_refused(refusal)
            await asyncio.sleep(wait_s)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """End every subscription, whatever ended the task; readers would wait indefinitely."""
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            if not isinstance(error, SwapClientError):
                log.error("the client failed", exc_info=error)
            self._session.fail(error)
        else:
            self._session.end()
        self._note()

    async def _connection(self) -> int | None:
        """Run one connection to its end and return its close code, or None without a close frame.

        Raises AuthRefused if every available token was refused.
        """
        try:
            token = await self._fresh_token()
        except AuthRefused:
            raise
        except Exception as error:
            # The caller's function may raise anything; retry, as a token may be available later.
            log.warning("no token: %r", error)
            return None
        try:
            async with connect(
                self._url,
                additional_headers={"Authorization": f"Bearer {token}"},
                compression=None,
                ping_interval=None,
                max_size=FRAME_BYTES,
                open_timeout=self._open_timeout_s,
                close_timeout=1,
            ) as socket:
                await self._converse(socket)
        except websockets.ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else None
        except (OSError, TimeoutError, websockets.InvalidHandshake) as error:
            log.info("no connection: %s", error)
        return None

    async def _fresh_token(self) -> str:
        return self._token if isinstance(self._token, str) else await self._token()

    async def _converse(self, socket: ClientConnection) -> None:
        """Read, write and renew until one of them ends."""
        parts = (self._read(socket), self._write(socket), self._renew(socket))
        tasks = [asyncio.create_task(each) for each in parts]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _read(self, socket: ClientConnection) -> None:
        while True:
            try:
                async with asyncio.timeout(self._silence_s):
                    frame = await socket.recv()
            except TimeoutError:
                # A dead peer does not answer a closing handshake.
                socket.transport.abort()
                raise
            self._session.received(frame, time.monotonic())
            if self._session.renew_at is not None:
                self._to_renew.set()
            if self._session.condition != self._condition:
                self._to_send.set()
                self._note()

    async def _write(self, socket: ClientConnection) -> None:
        bucket = TokenBucket(time.monotonic())
        while True:
            self._to_send.clear()
            for request in self._session.requests():
                await asyncio.sleep(bucket.take(time.monotonic()))
                await socket.send(json.dumps(request, ensure_ascii=False))
            await self._to_send.wait()

    async def _renew(self, socket: ClientConnection) -> None:
        while True:
            renew_at = self._session.renew_at
            if renew_at is None:
                self._to_renew.clear()
                await self._to_renew.wait()
                continue
            await asyncio.sleep(max(0.0, renew_at - time.monotonic()))
            if renew_at != self._session.renew_at:
                continue
            try:
                token = await self._fresh_token()
            except Exception as error:
                # The caller's function failed; the old token is still valid for a while.
                log.warning("no newer token: %r", error)
                self._session.renewal_failed(time.monotonic())
                continue
            await socket.send(json.dumps(self._session.renewal(token)))

    def _note(self) -> None:
        """Report a changed condition."""
        condition = self._session.condition
        if condition != self._condition:
            self._condition = condition
            self._changed.set()
            if self._on_change is not None:
                self._on_change(condition)


def socket_url(url: str) -> str:
    """Return the socket's address for the address of the socket or service. Raises ValueError."""
    parts = urlsplit(url)
    scheme = {"http": "ws", "https": "wss", "ws": "ws", "wss": "wss"}.get(parts.scheme)
    if scheme is None or not parts.netloc:
        raise ValueError("url: give one such as wss://host/ws or https://host")
    path = "/ws" if parts.path in {"", "/"} else parts.path
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


def _topics(
    channel: Channel, tokens: Iterable[str], interval: str | None, parameters: dict[str, Any]
) -> list[Topic]:
    if isinstance(tokens, str):
        raise ValueError("tokens: give a list")
    if channel == "overview":
        return [Topic(channel, query=json.dumps(parameters, sort_keys=True))]
    if parameters:
        raise ValueError(f"{next(iter(parameters))}: the channel {channel} does not have it")
    if channel == "status":
        return [Topic(channel)]
    topics = [Topic(channel, token, interval) for token in tokens]
    if not topics:
        raise ValueError("tokens: give at least one id of the form chain:token")
    if (channel == "candles") != (interval is not None):
        raise ValueError("interval: give it for the channel candles, and for no other")
    return topics
