"""The channel `token_stats`: the board's row of a token, as REST returns it.

The board adds each row that changes to a set; a round serialises each changed row that has a
subscriber once. Values are absolute, so a client needs only the newest. While a partition is not
loaded, a token without a row may still have one, so its subscribers wait.
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Final

from aggregator.contracts.stats import TokenStats
from api.board.board import Board
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.source import Source
from api.sockets.topic import Topic, TopicKey

# Keeps a round to a few ms: a board that is replaced as a whole is published over several rounds.
ROWS_A_ROUND: Final = 500


class TokenStatsSource(Source):
    """Publish the board's rows."""

    channel: ClassVar[str] = "token_stats"

    def __init__(self, board: Board, hub: Hub) -> None:
        self._board = board
        self._hub = hub
        self._changed: set[str] = set()
        self._waiting: dict[Topic, dict[Connection, None]] = {}
        board.listen(self._changed.add)

    def left(self, topic: Topic, connection: Connection) -> None:
        """Forget a subscriber that waits for its row."""
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[topic]

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue the present row, or `data: null` for a token without trades.

        If the node does not know yet whether there are any, the subscriber waits.
        """
        if topic.subject not in self._board.rows and not self._board.complete():
            self._waiting.setdefault(topic, {})[connection] = None
            return True
        return self._start(topic, connection, resume, now_ms)

    def _start(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        row = self._board.get(topic.subject, now_ms)
        if topic.subject in self._changed:
            # Publish the change to the other subscribers now; the next round would send it to the
            # new one a second time.
            self._changed.discard(topic.subject)
            topic.state = row
            self._hub.publish(topic, self._message(topic, "update", row), now_ms)
        connection.drop(topic)
        # A client with a later (epoch, seq) got it from a node that is ahead, or from a state that
        # was lost since. Send the row in both cases: the client can distinguish them by it.
        if row is not None and not row.stale and resume is not None:
            at = (resume.epoch, resume.seq or 0)
            if at == (row.epoch, row.seq):
                return False
        connection.push(self._message(topic, "snapshot", row))
        return True

    def tick(self, now_ms: int) -> None:
        """Publish the changed rows that have subscribers, at most ROWS_A_ROUND."""
        if self._waiting:
            self._start_waiting(now_ms)
        if not self._changed:
            return
        channel, topic_of = self.channel, self._hub.topic
        wanted = (
            (token_id, topic)
            for token_id in self._changed
            if (topic := topic_of(TopicKey(channel, token_id))) is not None
        )
        published = list(islice(wanted, ROWS_A_ROUND))
        for token_id, topic in published:
            row = self._board.get(token_id, now_ms)
            if row is not None and row == topic.state:
                continue  # A resync repeats rows that have not changed.
            topic.state = row
            self._hub.publish(topic, self._message(topic, "update", row), now_ms)
        if len(published) < ROWS_A_ROUND:
            self._changed.clear()
        else:
            self._changed.difference_update(token_id for token_id, _ in published)

    def _start_waiting(self, now_ms: int) -> None:
        """Start the subscribers whose row, or whose lack of one, is known by now."""
        complete = self._board.complete()
        known = [t for t in self._waiting if complete or t.subject in self._board.rows]
        for topic in known:
            for connection in self._waiting.pop(topic):
                self._start(topic, connection, None, now_ms)

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Publish every row of these partitions again, with the new value of `stale`."""
        for topic in self._hub.topics(self.channel):
            row = self._board.rows.get(topic.subject)
            if row is not None and row.partition in partitions:
                self._changed.add(topic.subject)

    @staticmethod
    def _message(topic: Topic, kind: str, row: TokenStats | None) -> bytes:
        if row is None:
            return write(Message(channel="token_stats", type=kind, token=topic.subject, data=None))
        return write(
            Message(
                channel="token_stats",
                type=kind,
                token=row.token_id,
                epoch=row.epoch,
                seq=row.seq,
                as_of=row.as_of,
                watermark=row.watermark,
                data=row,
            )
        )
