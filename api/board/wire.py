"""Subscriptions that come and go, and questions, over the feed's one connection to NATS.

What a view follows only while somebody looks at it (a token's trades) goes through here; what every
node follows always is in `api.board.feed`. Subscriptions outlive the connection: each new one
begins with all of them. NATS may drop, so nothing here promises an answer. Knows no message format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

PENDING_BYTES: Final = 64 * 1024 * 1024

Handler = Callable[[bytes], None]
Answered = Callable[[bytes | None], None]
Unreadable = Callable[[str, msgspec.MsgspecError], None]


class Wire:
    """Used from the event loop of the feed only; handlers must be short and never block."""

    def __init__(self) -> None:
        self._watched: dict[str, Handler] = {}
        self._following: dict[str, Subscription] = {}
        self._changed: set[str] = set()
        self._to_ask: list[tuple[int, str, bytes]] = []
        self._asked: dict[int, Answered] = {}
        self._last_id = 0
        self._on_connected: list[Callable[[], None]] = []
        self._on_step: list[Callable[[], None]] = []
        self._inbox = ""
        self.unreadable: Unreadable = lambda _subject, _error: None

    def watch(self, subject: str, handler: Handler) -> None:
        """Have `handler(data)` called for every message on the subject, in NATS's order."""
        self._watched[subject] = handler
        self._changed.add(subject)

    def unwatch(self, subject: str) -> None:
        """End it; a message that is already in this process is dropped."""
        if self._watched.pop(subject, None) is not None:
            self._changed.add(subject)

    def ask(self, subject: str, question: bytes, answered: Answered) -> int:
        """Put a question; `answered(data)` is called once, with None where nobody is there.

        Every `watch` before it is in force when the question is put. No answer may ever come:
        `forget` the returned id after a time of your own.
        """
        self._last_id += 1
        self._asked[self._last_id] = answered
        self._to_ask.append((self._last_id, subject, question))
        return self._last_id

    def forget(self, question_id: int) -> None:
        """Drop the answer to a question, should it still come."""
        self._asked.pop(question_id, None)

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called for each new connection: anything may have been missed."""
        self._on_connected.append(callback)

    def on_step(self, callback: Callable[[], None]) -> None:
        """Have `callback()` called some times a second while connected: to `ask` what is due."""
        self._on_step.append(callback)

    async def begin(self, client: Client) -> None:
        """A new connection: follow everything that is watched."""
        self._following = {}
        self._changed = set(self._watched)
        self._asked, self._to_ask = {}, []
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        for callback in self._on_connected:
            callback()
        await self.step(client)

    async def step(self, client: Client) -> None:
        """Carry out what was asked for since the last step."""
        for callback in self._on_step:
            callback()
        changed, self._changed = self._changed, set()
        for subject in changed:
            followed = self._following.pop(subject, None)
            if subject in self._watched and followed is None:
                followed = await client.subscribe(
                    subject, cb=self._on_message, pending_bytes_limit=PENDING_BYTES
                )
            elif subject not in self._watched and followed is not None:
                await followed.unsubscribe()
                followed = None
            if followed is not None:
                self._following[subject] = followed
        to_ask, self._to_ask = self._to_ask, []
        for question_id, subject, question in to_ask:
            if question_id in self._asked:
                await client.publish(subject, question, reply=f"{self._inbox}.{question_id}")

    async def _on_message(self, message: Msg) -> None:
        handler = self._watched.get(message.subject)
        if handler is None:
            return
        try:
            handler(message.data)
        except msgspec.MsgspecError as error:
            self.unreadable(message.subject, error)

    async def _on_answer(self, message: Msg) -> None:
        answered = self._asked.pop(int(message.subject.rpartition(".")[2]), None)
        if answered is None:
            return
        try:
            # The server's "no responders" is empty: nobody listens on the question's subject.
            answered(message.data or None)
        except msgspec.MsgspecError as error:
            self.unreadable(message.subject, error)
