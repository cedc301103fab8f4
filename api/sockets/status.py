"""The channel `status`: which partitions are fresh. Subscribers get it every second.

What everybody must know, that numbers have become stale or fresh again, goes to every socket the
moment it changes, subscribed or not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from api.board.board import Board, PartitionStatus
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.topic import Source, Topic, TopicKey

EVERY_MS: Final = 1_000
KEY: Final = TopicKey("status", None)


class PartitionFreshness(msgspec.Struct, frozen=True):
    """One partition; the fields are those of GET /api/status."""

    partition: int
    state: str
    stale: bool
    epoch: int
    seq: int
    next_offset: int
    as_of: int | None
    watermark: int | None
    lag: int | None
    age_ms: int | None


class StatusData(msgspec.Struct, frozen=True):
    """`stale` is whether any number of this node may be old; `connected` is to NATS."""

    stale: bool
    connected: bool
    partitions: list[PartitionFreshness]


class StatusSource(Source):
    """Publishes the partitions' freshness; `connected()` is whether NATS can be reached."""

    channel: ClassVar[str] = "status"

    def __init__(self, board: Board, hub: Hub, connected: Callable[[], bool]) -> None:
        self._board = board
        self._hub = hub
        self._connected = connected
        self._was_connected = True
        self._everyone = Topic(KEY, self, {})
        self._next_at = 0

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """The status as it is now."""
        if len(topic.subscribers) == 1:
            self._next_at = now_ms + EVERY_MS
        connection.push(self._message("snapshot", now_ms))
        return True

    def tick(self, now_ms: int) -> None:
        """To subscribers every second; to everybody when the connection is lost or back."""
        connected = self._connected()
        if connected != self._was_connected:
            self._was_connected = connected
            self._tell_everyone(now_ms)
        elif now_ms >= self._next_at and (topic := self._hub.topic(KEY)) is not None:
            self._next_at = now_ms + EVERY_MS
            self._hub.publish(topic, self._message("update", now_ms), now_ms)

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Tell every socket."""
        self._tell_everyone(now_ms)

    def data(self, now_ms: int) -> StatusData:
        """The status as it is now."""
        partitions = [_freshness(each) for each in self._board.status(now_ms)]
        stale = not partitions or any(each.stale for each in partitions)
        return StatusData(stale, self._connected(), partitions)

    def _tell_everyone(self, now_ms: int) -> None:
        self._next_at = now_ms + EVERY_MS
        topic = self._hub.topic(KEY) or self._everyone
        self._hub.broadcast(topic, self._message("update", now_ms))

    def _message(self, kind: str, now_ms: int) -> bytes:
        as_of = self._board.as_of()
        return write(Message(channel="status", type=kind, as_of=as_of, data=self.data(now_ms)))


def _freshness(status: PartitionStatus) -> PartitionFreshness:
    return PartitionFreshness(
        **{name: getattr(status, name) for name in PartitionFreshness.__struct_fields__}
    )
