"""The channel `overview`: totals and top tokens, computed once for all equal subscriptions.

An overview is a pass over every row of the board. So each is computed at most once per flush, and
all of them together take no more than a share of the event loop. The others wait, and the subjects
take turns: the many overviews of one client delay those of another by one computation.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any, ClassVar, Final

from aggregator.contracts.intervals import FLUSH_MS
from api.auth.ratelimit import COST_OVERVIEW
from api.board.board import Board
from api.board.overview import Overview, OverviewReader
from api.sockets.connection import Connection
from api.sockets.fair import Turns
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.source import COST_SUBSCRIBE, Source
from api.sockets.topic import Topic, TopicKey

# After an overview that took t the next one waits 4 t: overviews use at most a fifth of the loop.
REST_FACTOR: Final = 4


class _State:
    """Hold a topic's newest overview, when it was computed, and the subscribers' subjects."""

    def __init__(self) -> None:
        self.overview: Overview | None = None
        self.read_at = 0
        self.due_at = 0
        self.subjects: Counter[str] = Counter()
        self.waiting: dict[Connection, None] = {}

    def fresh(self, now_ms: int) -> bool:
        return self.overview is not None and now_ms - self.read_at < FLUSH_MS


class OverviewSource(Source):
    """Publish overviews; `clock` measures in seconds what they cost."""

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
        self._dirty: Turns[Topic] = Turns()
        self._changed: set[str] = set()
        self._not_before = 0.0
        board.listen(self._changed.add)

    def cost(self, subject: Any) -> int:
        """Return a low cost for an overview that is computed for others already."""
        known = self._hub.topic(TopicKey(self.channel, subject)) is not None
        return COST_SUBSCRIBE if known else COST_OVERVIEW

    def opened(self, topic: Topic) -> None:
        """Start without a computed overview."""
        topic.state = _State()

    def closed(self, topic: Topic) -> None:
        """Stop computing the overview."""
        self._dirty.discard(topic)

    def left(self, topic: Topic, connection: Connection) -> None:
        """Remove the subscriber and its subject's claim on a turn."""
        state: _State = topic.state
        state.waiting.pop(connection, None)
        subject = _subject(connection)
        state.subjects[subject] -= 1
        if not state.subjects[subject]:
            del state.subjects[subject]

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue the overview that the others have, or a new one if that is older than a flush.

        If overviews have used up their share of the loop, the subscriber waits.
        """
        state: _State = topic.state
        state.subjects[_subject(connection)] += 1
        if state.fresh(now_ms) or self._clock() >= self._not_before:
            if not state.fresh(now_ms):
                self._compute(topic, now_ms)
            connection.push(self._message(topic, "snapshot"))
        else:
            state.waiting[connection] = None
            self._add(topic, now_ms)
        return True

    def tick(self, now_ms: int) -> None:
        """Compute what changed again, in turns by subject."""
        if self._changed:
            self._changed.clear()
            self._mark(now_ms)
        while self._dirty and self._clock() >= self._not_before:
            topic = next((t for t in self._dirty.heads() if t.state.due_at <= now_ms), None)
            if topic is None:
                return
            self._dirty.take(topic)
            state: _State = topic.state
            before = state.overview
            self._compute(topic, now_ms)
            if state.overview != before:
                self._hub.publish(topic, self._message(topic, "update"), now_ms)
            self._start_waiting(topic)

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Compute every overview again."""
        self._mark(now_ms)

    def _mark(self, now_ms: int) -> None:
        for topic in self._hub.topics(self.channel):
            if topic not in self._dirty:
                self._add(topic, now_ms)

    def _start_waiting(self, topic: Topic) -> None:
        waiting: dict[Connection, None] = topic.state.waiting
        if waiting:
            snapshot = self._message(topic, "snapshot")
            for connection in waiting:
                # Do not send the update too: it has the same content.
                connection.drop(topic)
                connection.push(snapshot)
            waiting.clear()

    def _add(self, topic: Topic, now_ms: int) -> None:
        state: _State = topic.state
        state.due_at = max(now_ms, state.read_at + FLUSH_MS)
        self._dirty.add(topic, state.subjects)

    def _compute(self, topic: Topic, now_ms: int) -> None:
        begun = self._clock()
        state: _State = topic.state
        state.overview, state.read_at = self._reader.read(topic.subject, now_ms), now_ms
        ended = self._clock()
        self._not_before = ended + REST_FACTOR * (ended - begun)

    @staticmethod
    def _message(topic: Topic, kind: str) -> bytes:
        overview: Overview = topic.state.overview
        return write(
            Message(
                channel="overview",
                type=kind,
                params=topic.labels["params"],
                as_of=overview.as_of,
                data=overview,
            )
        )


def _subject(connection: Connection) -> str:
    return "" if connection.claims is None else connection.claims.subject
