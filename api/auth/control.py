"""Keeps the operators' decisions of this process up to date.

Changes arrive in two ways, because either may fail. A message over the channel layer announces a
new state immediately; the same way carries notices to all sockets. A poll of the revision in Redis
every second finds a state whose message was lost (`api.auth.revision`).

The database is the source of truth: it is published to Redis every 10 s and after every outage of
Redis. While Redis is unreachable the state is read from the database. A process that has reached
neither since its start reports that (`unknown`) and lets no caller in.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final, Protocol

import msgspec
import structlog
from channels.layers import BaseChannelLayer
from redis.exceptions import RedisError

from aggregator.contracts.names import ACCESS_REVISION_KEY, ACCESS_STATE_KEY
from aggregator.runtime.errors import Retry
from api.auth.access import Access, AccessState, RevocationEntry
from api.auth.first_state import FirstState
from api.auth.redis_link import RedisLink
from api.auth.revision import newer_state

GROUP: Final = "control"
CHANGED: Final = "access.changed"
NOTICE: Final = "notice"
REVOKED_CODE: Final = 4003
LOOK_EVERY_S: Final = 1.0
RECONCILE_EVERY_S: Final = 10.0
FIRST_LOOK_EVERY_S: Final = 0.05
RECALL_WITHIN_S: Final = 2.0
_LISTEN_AGAIN_S: Final = 1.0
_CANCEL_AGAIN_S: Final = 0.1

log = structlog.get_logger(__name__)

_decode_state = msgspec.json.Decoder(AccessState).decode


class Sockets(Protocol):
    """The open sockets of this process."""

    def close_where(
        self, *, jti: str | None = None, sub: str | None = None, code: int, reason: str
    ) -> int:
        """Close the sockets of the token or of the subject; return how many."""
        ...

    def notice(self, text: str) -> object:
        """Send the text to every client."""
        ...


class Control:
    """Keeps `access` at the newest state. Call `start` in the server's event loop.

    `reconcile` publishes the database's state to Redis if it is newer, `recall` reads it; both
    raise Retry if they cannot.
    """

    def __init__(
        self,
        access: Access,
        link: RedisLink,
        layer: Callable[[], BaseChannelLayer],
        reconcile: Callable[[], Awaitable[None]],
        recall: Callable[[], Awaitable[AccessState]],
    ) -> None:
        self._access = access
        self._link = link
        self._layer = layer
        self._reconcile = reconcile
        self._recall = recall
        self._recall_at = 0.0
        self._compared = False
        self._first = FirstState()
        self._sockets: list[Sockets] = []
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._faults: dict[str, str] = {}
        self._was_away = False
        access.listen(self._close_revoked)

    @property
    def faults(self) -> list[str]:
        """What keeps decisions from arriving, one sentence each."""
        return list(self._faults.values())

    @property
    def unknown(self) -> str | None:
        """Why this process knows no decision of the operators; None after the first state."""
        if not self._first.missing:
            return None
        return self._faults.get("follow", "revocations and limits have not been read yet")

    async def settled(self) -> None:
        """Wait for the first state, for a bounded time after the start."""
        await self._first.wait()

    def serve(self, sockets: Sockets) -> None:
        """Send notices to these sockets, and close those of revoked tokens and subjects."""
        self._sockets.append(sockets)

    def start(self) -> None:
        """Start the tasks in the running event loop; a second call does nothing."""
        if not self._tasks:
            self._first.begin()
            loop = asyncio.get_running_loop()
            work = (self._follow(), self._listen(), self._compare())
            self._tasks = [loop.create_task(each, name="access-control") for each in work]
            for task in self._tasks:
                task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop the tasks."""
        tasks, self._tasks = self._tasks, []
        while left := [each for each in tasks if not each.done()]:
            # repeatedly, because the channel layer's `flush` swallows a cancellation
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._faults["ended"] = f"revocations and limits are not followed: {error!r}"
            log.error("access_control_ended", exc_info=error)

    def obey(self, message: dict[str, Any]) -> None:
        """Obey a control message; log and drop one that is not understood."""
        match message:
            case {"type": "access.changed"}:
                self._changed.set()
            case {"type": "notice", "text": str(text)}:
                for each in self._sockets:
                    each.notice(text)
            case _:
                log.warning("control_message_unknown", kind=str(message.get("type"))[:32])

    async def _follow(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._look()
            except (Retry, RedisError) as error:
                # The last state stays in force.
                self._faults["follow"] = f"revocations and limits are not followed: {error}"
                self._was_away = True
                await self._ask_database()
            else:
                self._faults.pop("follow", None)
                self._faults.pop("recall", None)
            pause_s = FIRST_LOOK_EVERY_S if self._first.missing else LOOK_EVERY_S
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), pause_s)

    async def _look(self) -> None:
        known = self._access.revision
        keys = ACCESS_REVISION_KEY, ACCESS_STATE_KEY
        state = await newer_state(self._link, *keys, _decode_state, known)
        if state is not None:
            self._take(state)
        elif self._compared:
            # An empty Redis means "no decisions" only after the database had a chance to fill it.
            self._first.arrived()

    async def _ask_database(self) -> None:
        """Read the state from the database while Redis is unreachable, at a limited rate."""
        now_s = time.monotonic()
        # Try Redis first: its state may be newer.
        if now_s < self._recall_at or not self._link.tried:
            return
        self._recall_at = now_s + (LOOK_EVERY_S if self._first.missing else RECONCILE_EVERY_S)
        try:
            async with asyncio.timeout(RECALL_WITHIN_S):
                self._take(await self._recall())
        except (Retry, TimeoutError) as error:
            why = str(error) or f"the database did not answer within {RECALL_WITHIN_S:.0f} s"
            self._faults["recall"] = f"revocations and limits are not read: {why}"
        else:
            self._faults.pop("recall", None)

    def _take(self, state: AccessState) -> None:
        """Put the state in force, unless a newer one is."""
        if state.revision > self._access.revision:
            self._access.take(state)
            log.info(
                "access_state_taken",
                revision=state.revision,
                revoked=len(state.revoked),
                limits=len(state.limits),
            )
        self._first.arrived()

    async def _listen(self) -> None:
        while True:
            layer: Any = self._layer()
            try:
                channel = await layer.new_channel()
                await layer.group_add(GROUP, channel)
                self._faults.pop("listen", None)
                while True:
                    self.obey(await layer.receive(channel))
            except (RedisError, OSError) as error:
                self._faults["listen"] = f"control messages are not received: {error}"
                with contextlib.suppress(RedisError, OSError):
                    await layer.flush()
            await asyncio.sleep(_LISTEN_AGAIN_S)

    async def _compare(self) -> None:
        while True:
            try:
                await self._reconcile()
            except Retry as error:
                self._faults["compare"] = f"revocations and limits were not compared: {error}"
            else:
                self._faults.pop("compare", None)
            self._compared = True
            self._was_away = False
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RECONCILE_EVERY_S):
                    await self._until_redis_is_back()

    async def _until_redis_is_back(self) -> None:
        """Wait for the end of the next outage of Redis, which may have lost its data."""
        while not self._was_away or self._link.fault:  # noqa: ASYNC110 - nothing signals it
            await asyncio.sleep(LOOK_EVERY_S)

    def _close_revoked(self, revoked: RevocationEntry) -> None:
        jti = revoked.value if revoked.kind == "jti" else None
        sub = revoked.value if revoked.kind == "sub" else None
        reason = revoked.reason or "revoked"
        closed = sum(
            each.close_where(jti=jti, sub=sub, code=REVOKED_CODE, reason=reason)
            for each in self._sockets
        )
        if closed:
            log.info("sockets_closed", kind=revoked.kind, code=REVOKED_CODE, count=closed)
