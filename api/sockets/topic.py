"""A topic: one thing that sockets subscribe to, such as the stats of one token.

Pure. `api.sockets.hub` owns the topics and their subscriptions; the `Source` of the channel
(`api.sockets.source`) fills them.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, NamedTuple


class TopicKey(NamedTuple):
    """`subject` is a token id, a token id and an interval, or an overview query."""

    channel: str
    subject: Hashable


class Topic:
    """Hold a topic's key, the fields that identify it to a client, and its source's state."""

    __slots__ = ("key", "labels", "published_at", "state")

    def __init__(self, key: TopicKey, labels: dict[str, Any]) -> None:
        self.key = key
        self.labels = labels
        self.published_at = 0
        self.state: Any = None
        """Belongs to the source; the hub does not read it."""

    @property
    def subject(self) -> Any:
        """Return the key's subject."""
        return self.key.subject
