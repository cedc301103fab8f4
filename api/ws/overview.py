"""The channel `overview`: totals and top tokens, computed once for all who asked for the same.

An overview is a pass over every row of the board, so it is computed at most once in a flush, and
all of them together may take no more than a share of the event loop: the rest waits its turn.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import ClassVar, Final

from api.board.board import Board
from api.board.overview import Overview, OverviewReader
from api.ws.connection import Connection
from api.ws.hub import Hub
from api.ws.protocol import FLUSH_MS, Message, Resume, write
from api.ws.topic import Source, Topic

# After an overview that took t, the next one waits 4 t: a fifth of the loop at most.
REST_FACTOR: Final = 4


class OverviewSource(Source):
    """Publishes overviews; `clock` measures what they cost, in seconds."""

    channel: ClassVar[str] = "overview"

    def __init__(
        self,
        board: Board,
        reader: OverviewReader,
        hub: Hub,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._reader = reader
        self._hub = hub
        self._clock = clock
        self._dirty: dict[Topic, int] = {}
        self._changed: set[str] = set()
        self._not_before = 0.0
        board.listen(self._changed.add)

    def closed(self, topic: Topic) -> None:
        """Compute it no more."""
        self._dirty.pop(topic, None)

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """The overview that the others have, or a new one where it is older than a flush."""
        if topic.state is None or now_ms - topic.state[1] >= FLUSH_MS:
            topic.state = (self._read(topic, now_ms), now_ms)
        connection.push(self._message(topic, "snapshot"))
        return True

    def tick(self, now_ms: int) -> None:
        """Compute again what changed, in the order in which it became due."""
        if self._changed:
            self._changed.clear()
            self._mark(now_ms)
        begun = self._clock()
        while self._dirty and begun >= self._not_before:
            topic, due_at = next(iter(self._dirty.items()))
            if due_at > now_ms:
                return
            del self._dirty[topic]
            before = topic.state[0] if topic.state is not None else None
            overview = self._read(topic, now_ms)
            topic.state = (overview, now_ms)
            if overview != before:
                self._hub.publish(topic, self._message(topic, "update"), now_ms)
            ended = self._clock()
            self._not_before = ended + REST_FACTOR * (ended - begun)
            begun = ended

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Compute all of them again."""
        self._mark(now_ms)

    def _mark(self, now_ms: int) -> None:
        for topic in self._hub.topics(self.channel):
            if topic not in self._dirty:
                read_at = topic.state[1] if topic.state is not None else 0
                self._dirty[topic] = max(now_ms, read_at + FLUSH_MS)

    def _read(self, topic: Topic, now_ms: int) -> Overview:
        return self._reader.read(topic.subject, now_ms)

    @staticmethod
    def _message(topic: Topic, kind: str) -> bytes:
        overview: Overview = topic.state[0]
        return write(
            Message(
                channel="overview",
                type=kind,
                params=topic.labels["params"],
                as_of=overview.as_of,
                data=overview,
            )
        )
