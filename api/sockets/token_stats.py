"""The channel `token_stats`: the board's row of a token, as REST gives it.

The board calls `add` of a set for each row that changes; a round writes each changed row that
somebody is subscribed to once. Values are absolute, so the newest is all that a client needs.
While a partition has not been loaded, a token without a row may have one: nothing is said of it.
"""

from __future__ import annotations

from itertools import islice
from typing import ClassVar, Final

from aggregator.contracts.stats import TokenStats
from api.board.board import Board
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.topic import Source, Topic, TopicKey

# A round of some ms: a board that is replaced whole is published over several.
ROWS_A_ROUND: Final = 500


class TokenStatsSource(Source):
    """Publishes the board's rows."""

    channel: ClassVar[str] = "token_stats"

    def __init__(self, board: Board, hub: Hub) -> None:
        self._board = board
        self._hub = hub
        self._changed: set[str] = set()
        self._waiting: dict[Topic, dict[Connection, None]] = {}
        board.listen(self._changed.add)

    def left(self, topic: Topic, connection: Connection) -> None:
        """The subscriber waits no more."""
        waiting = self._waiting.get(topic)
        if waiting is not None:
            waiting.pop(connection, None)
            if not waiting:
                del self._waiting[topic]

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """The row as it is now, or `data: null` for a token without trades.

        Later, where the node does not know yet whether there are any.
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
            # The others get the change now, so that the newcomer is not given it twice.
            self._changed.discard(topic.subject)
            topic.state = row
            self._hub.publish(topic, self._message(topic, "update", row), now_ms)
        connection.drop(topic)
        # What the client has beyond this node's is of a node that is ahead, or of a state that was
        # lost since: the row lets it tell one from the other.
        if row is not None and not row.stale and resume is not None:
            at = (resume.epoch, resume.seq or 0)
            if at == (row.epoch, row.seq):
                return False
        connection.push(self._message(topic, "snapshot", row))
        return True

    def tick(self, now_ms: int) -> None:
        """Publish the rows that changed, at most ROWS_A_ROUND that somebody wants."""
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
                continue  # A resync gives rows again that have not changed.
            topic.state = row
            self._hub.publish(topic, self._message(topic, "update", row), now_ms)
        if len(published) < ROWS_A_ROUND:
            self._changed.clear()
        else:
            self._changed.difference_update(token_id for token_id, _ in published)

    def _start_waiting(self, now_ms: int) -> None:
        """Give those who wait what is known by now."""
        complete = self._board.complete()
        known = [t for t in self._waiting if complete or t.subject in self._board.rows]
        for topic in known:
            for connection in self._waiting.pop(topic):
                self._start(topic, connection, None, now_ms)

    def staleness_changed(self, partitions: frozenset[int], now_ms: int) -> None:
        """Publish every row of these partitions again, with `stale` as it is now."""
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
