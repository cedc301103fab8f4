"""Temporary subscriptions, and questions, over the feed's one connection to NATS.

What a view needs only while somebody looks at it (a token's trades) goes through here;
`api.board.feed` has what every node always follows. Subscriptions outlive the connection: each new
connection starts with all of them. NATS may drop messages, so an answer is never guaranteed. This
module knows no message format.
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
    """Subscribe and ask on the event loop of the feed; handlers must be short and never block."""

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
        """Call `handler(data)` for every message on the subject, in NATS's order."""
        self._watched[subject] = handler
        self._changed.add(subject)

    def unwatch(self, subject: str) -> None:
        """End the subscription; messages that are already in this process are dropped."""
        if self._watched.pop(subject, None) is not None:
            self._changed.add(subject)

    def ask(self, subject: str, question: bytes, answered: Answered) -> int:
        """Send a question and return its id; `answered(data)` is called at most once.

        `data` is None if the subject has no subscriber. Every earlier `watch` is in force before
        the question is sent. An answer may never come: call `forget` with the id after a timeout.
        """
        self._last_id += 1
        self._asked[self._last_id] = answered
        self._to_ask.append((self._last_id, subject, question))
        return self._last_id

    def forget(self, question_id: int) -> None:
        """Drop the answer to a question if it still comes."""
        self._asked.pop(question_id, None)

    def on_connected(self, callback: Callable[[], None]) -> None:
        """Call `callback()` for each new connection: messages may have been missed before it."""
        self._on_connected.append(callback)

    def on_step(self, callback: Callable[[], None]) -> None:
        """Call `callback()` several times a second while connected, to `ask` what is due."""
        self._on_step.append(callback)

    async def begin(self, client: Client) -> None:
        """Subscribe to everything that is watched on a new connection."""
        self._following = {}
        self._changed = set(self._watched)
        self._asked, self._to_ask = {}, []
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._on_answer)
        for callback in self._on_connected:
            callback()
        await self.step(client)

    async def step(self, client: Client) -> None:
        """Carry out the changes and send the questions since the last step."""
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
            # An empty message is the server's "no responders": the subject has no subscriber.
            answered(message.data or None)
        except msgspec.MsgspecError as error:
            self.unreadable(message.subject, error)
