"""A source: fills the topics of one channel.

Pure. A source gives a new subscriber the present state and publishes what changes; the hub calls
it and delivers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

from api.sockets.connection import Connection
from api.sockets.protocol import Resume
from api.sockets.topic import Topic

COST_SUBSCRIBE: Final = 1
COST_QUESTION: Final = 5
"""The cost of a subscription for which an owner must be asked for a history."""


class Source:
    """Fill the topics of one channel. The hub makes all calls, on its event loop.

    A subclass omits the calls for which it has nothing to do.
    """

    channel: ClassVar[str]

    def cost(self, subject: Any) -> int:
        """Return what a subscription to this subject takes from the client's rate limit."""
        return COST_SUBSCRIBE

    def opened(self, topic: Topic) -> None:
        """Set up a topic that gets its first subscriber."""

    def closed(self, topic: Topic) -> None:
        """Clean up a topic that has lost its last subscriber."""

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue the initial state for a new subscriber.

        Return False if the client already has everything that `resume` names. Whatever the source
        publishes after this call is newer than what it queued here.
        """
        raise NotImplementedError

    def left(self, topic: Topic, connection: Connection) -> None:
        """Forget a subscriber that has left the topic."""

    def tick(self, now_ms: int) -> None:
        """Publish what has changed since the last call."""

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Handle partitions that have become stale, or fresh again."""
