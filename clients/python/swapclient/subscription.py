"""The reader's side of a subscription: an async iterator over its inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Generic, Self, TypeVar, cast

from swapclient.inbox import Inbox

E_co = TypeVar("E_co", covariant=True)


class Subscription(AsyncIterator[E_co], Generic[E_co]):
    """Yields the events of its channel until it, or the client, is closed.

    For one reader at a time. Raises AuthRefused if the service no longer accepts the token,
    RequestRefused if the service refuses the subscription, and ProtocolFault if the service speaks
    another version of the protocol.
    """

    def __init__(self, inbox: Inbox, leave: Callable[[Inbox], None]) -> None:
        self._inbox = inbox
        self._leave = leave
        self._more = asyncio.Event()
        inbox.wake = self._more.set
        self._closed = False

    @property
    def conflated(self) -> int:
        """How many events were replaced by newer ones or dropped because the reader was slower."""
        return self._inbox.conflated

    async def __anext__(self) -> E_co:
        """Return the next event."""
        while not self._closed:
            self._more.clear()
            event = self._inbox.pop()
            if event is not None:
                return cast("E_co", event)
            if self._inbox.ended:
                break
            await self._more.wait()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Unsubscribe and end the iteration. A second call does nothing."""
        if not self._closed:
            self._closed = True
            self._leave(self._inbox)
            self._more.set()

    async def __aenter__(self) -> Self:
        """Return the subscription, which is closed at the end of the block."""
        return self

    async def __aexit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        await self.aclose()
