"""The channel `status`: which partitions are fresh. Subscribers get it every second.

A change of staleness concerns everybody, so it is sent immediately to every socket, subscribed or
not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

import msgspec

from api.board.board import Board, PartitionStatus
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.source import Source
from api.sockets.topic import Topic, TopicKey

EVERY_MS: Final = 1_000
KEY: Final = TopicKey("status", None)


class PartitionFreshness(msgspec.Struct, frozen=True):
    """Describe one partition with the fields of GET /api/status."""

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
    """Describe every partition.

    `stale` says whether any number of this node may be old, `connected` whether NATS is reachable.
    """

    stale: bool
    connected: bool
    partitions: list[PartitionFreshness]


class StatusSource(Source):
    """Publish how fresh the partitions are; `connected()` returns whether NATS is reachable."""

    channel: ClassVar[str] = "status"

    def __init__(self, board: Board, hub: Hub, connected: Callable[[], bool]) -> None:
        self._board = board
        self._hub = hub
        self._connected = connected
        self._was_connected = True
        self._everyone = Topic(KEY, {})
        self._next_at = 0

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue the present status."""
        if len(self._hub.subscribers(topic)) == 1:
            self._next_at = now_ms + EVERY_MS
        connection.push(self._message("snapshot", now_ms))
        return True

    def tick(self, now_ms: int) -> None:
        """Publish every second; broadcast when the connection to NATS is lost or restored."""
        connected = self._connected()
        if connected != self._was_connected:
            self._was_connected = connected
            self._broadcast(now_ms)
        elif now_ms >= self._next_at and (topic := self._hub.topic(KEY)) is not None:
            self._next_at = now_ms + EVERY_MS
            self._hub.publish(topic, self._message("update", now_ms), now_ms)

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Broadcast the status to every socket."""
        self._broadcast(now_ms)

    def data(self, now_ms: int) -> StatusData:
        """Return the present status."""
        partitions = [_freshness(each) for each in self._board.status(now_ms)]
        stale = not partitions or any(each.stale for each in partitions)
        return StatusData(stale, self._connected(), partitions)

    def _broadcast(self, now_ms: int) -> None:
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
