"""A topic: one thing that sockets subscribe to, such as the stats of one token.

Pure. `api.sockets.hub` keeps the topics, a `Source` fills them: it gives a subscriber what there
is now, and publishes what changes.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple

from api.sockets.protocol import Resume

if TYPE_CHECKING:
    from api.sockets.connection import Connection, Subscription


COST_SUBSCRIBE: Final = 1
COST_QUESTION: Final = 5
"""A subscription for which an owner must be asked for a history."""


class TopicKey(NamedTuple):
    """`subject` is a token id, a token id and an interval, or an overview query."""

    channel: str
    subject: Hashable


class Topic:
    """Its subscribers, and the fields by which a client knows it again."""

    __slots__ = ("key", "labels", "published_at", "source", "state", "subscribers")

    def __init__(self, key: TopicKey, source: Source, labels: dict[str, Any]) -> None:
        self.key = key
        self.source = source
        self.labels = labels
        self.published_at = 0
        self.subscribers: dict[Connection, Subscription] = {}
        self.state: Any = None
        """The source's own."""

    @property
    def subject(self) -> Any:
        """The key's subject."""
        return self.key.subject


class Source:
    """Fills the topics of one channel. All calls come from the hub's event loop.

    A subclass that has nothing to do for a call leaves it out.
    """

    channel: ClassVar[str]

    def cost(self, subject: Any) -> int:
        """What a subscription to this subject takes from the client's rate."""
        return COST_SUBSCRIBE

    def opened(self, topic: Topic) -> None:
        """The topic has its first subscriber."""

    def closed(self, topic: Topic) -> None:
        """The topic has lost its last subscriber."""

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue what a new subscriber starts from; False where `resume` leaves nothing to send.

        Whatever the source publishes after this call is newer than what it queued here.
        """
        raise NotImplementedError

    def left(self, topic: Topic, connection: Connection) -> None:
        """The subscriber is gone."""

    def tick(self, now_ms: int) -> None:
        """Publish what has changed since the last call."""

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """These partitions have become stale, or fresh again."""
