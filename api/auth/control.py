"""Decisions of the operators, brought to this process while it runs.

Two ways, because either may fail. The state of `api.auth.access` lies in Redis beside its
revision, and a look at the revision every second finds what was missed. A message over the channel
layer says at once that there is a new one; the same way come a notice to all sockets and the order
to close some. The database is the truth: every 10 s, and whenever Redis was away, it is compared
with what Redis holds. While Redis cannot be asked, the state comes from the database. A process
that could ask neither since its start says so (`unknown`), and then nobody is let in.
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

GROUP: Final = "control"
CHANGED: Final = "access.changed"
NOTICE: Final = "notice"
CLOSE: Final = "close"
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
        """Close those of the token or of the subject; how many there were."""
        ...

    def notice(self, text: str) -> object:
        """Tell every client something."""
        ...


class Control:
    """Keeps `access` at the newest state; `start` it in the server's event loop.

    `reconcile` compares the database with Redis, `recall` reads the database's state; both raise
    Retry where they cannot.
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
        """What keeps decisions from coming in, a sentence each."""
        return list(self._faults.values())

    @property
    def unknown(self) -> str | None:
        """Why no decision of the operators is known here; None once one state was taken."""
        if not self._first.missing:
            return None
        return self._faults.get("follow", "revocations and limits were not read yet")

    async def settled(self) -> None:
        """Return when the first state was taken; soon after the start also without one."""
        await self._first.wait()

    def serve(self, sockets: Sockets) -> None:
        """Have these sockets told and closed too."""
        self._sockets.append(sockets)

    def start(self) -> None:
        """Begin, in the running event loop; a second call does nothing."""
        if not self._tasks:
            self._first.begin()
            loop = asyncio.get_running_loop()
            work = (self._follow(), self._listen(), self._compare())
            self._tasks = [loop.create_task(each, name="access-control") for each in work]
            for task in self._tasks:
                task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """End the tasks."""
        tasks, self._tasks = self._tasks, []
        while left := [each for each in tasks if not each.done()]:
            # again and again: the channel layer's `flush` swallows a cancellation
            for task in left:
                task.cancel()
            await asyncio.wait(left, timeout=_CANCEL_AGAIN_S)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._faults["ended"] = f"revocations and limits are not followed: {error!r}"
            log.error("access_control_ended", exc_info=error)

    def obey(self, message: dict[str, Any]) -> None:
        """Do what a control message says; one that cannot be understood is logged and dropped."""
        match message:
            case {"type": "access.changed"}:
                self._changed.set()
            case {"type": "notice", "text": str(text)}:
                for each in self._sockets:
                    each.notice(text)
            case {
                "type": "close",
                "kind": "jti" | "sub" as kind,
                "value": str(value),
                "code": int(code),
                "reason": str(reason),
            }:
                self._close(RevocationEntry(kind, value, reason=reason), code)
            case _:
                log.warning("control_message_unknown", kind=str(message.get("type"))[:32])

    async def _follow(self) -> None:
        while True:
            self._changed.clear()
            try:
                await self._look()
            except (Retry, RedisError) as error:
                # A state that was taken stays in force.
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
        revision = await self._link.revision(ACCESS_REVISION_KEY)
        state = None
        if revision is not None and revision > self._access.revision:
            state = await self._link.call("GET", ACCESS_STATE_KEY)
        if state is not None:
            try:
                self._take(_decode_state(state))
            except msgspec.MsgspecError as error:
                raise Retry(f"the state in Redis cannot be read: {error}") from error
        elif self._compared:
            # An empty Redis says nothing before the database had its chance to fill it.
            self._first.arrived()

    async def _ask_database(self) -> None:
        """While Redis cannot be asked: the state from the database, if this node has one."""
        now_s = time.monotonic()
        # Redis may hold what is newer: it is tried first.
        if now_s < self._recall_at or not self._link.tried:
            return
        self._recall_at = now_s + (LOOK_EVERY_S if self._first.missing else RECONCILE_EVERY_S)
        try:
            async with asyncio.timeout(RECALL_WITHIN_S):
                self._take(await self._recall())
        except (Retry, TimeoutError) as error:
            said = str(error) or f"the database did not answer within {RECALL_WITHIN_S:.0f} s"
            self._faults["recall"] = f"revocations and limits are not read: {said}"
        else:
            self._faults.pop("recall", None)

    def _take(self, decoded: AccessState) -> None:
        """Put the state in force, unless a newer one is."""
        if decoded.revision > self._access.revision:
            self._access.take(decoded)
            log.info(
                "access_state_taken",
                revision=decoded.revision,
                revoked=len(decoded.revoked),
                limits=len(decoded.limits),
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
                self._faults["listen"] = f"control messages are not heard: {error}"
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
        """Return a moment after Redis was away: it may have lost what it held."""
        while not self._was_away or self._link.fault:  # noqa: ASYNC110 - looked at, not told
            await asyncio.sleep(LOOK_EVERY_S)

    def _close_revoked(self, revoked: RevocationEntry) -> None:
        self._close(revoked, REVOKED_CODE)

    def _close(self, revoked: RevocationEntry, code: int) -> None:
        jti = revoked.value if revoked.kind == "jti" else None
        sub = revoked.value if revoked.kind == "sub" else None
        closed = sum(
            each.close_where(jti=jti, sub=sub, code=code, reason=revoked.reason or "revoked")
            for each in self._sockets
        )
        if closed:
            log.info("sockets_closed", kind=revoked.kind, code=code, count=closed)
