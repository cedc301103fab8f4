"""The channel `candles`: a token's candles of one interval, live.

Values are absolute: an update holds every candle that changed in the last 30 s, in full. So a
client that gets only the newest of several updates misses nothing.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from aggregator.contracts.intervals import FLUSH_MS, INTERVALS_MS
from aggregator.contracts.trades import HISTORY_MINUTES
from aggregator.contracts.units import MINUTE_MS
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.source import COST_QUESTION, COST_SUBSCRIBE, Source
from api.sockets.topic import Topic, TopicKey
from api.trades.candles import LiveCandle
from api.trades.stream import Step, TokenStream
from api.trades.streams import Streams

SNAPSHOT_CANDLES: Final = 300


class CandlesData(msgspec.Struct, frozen=True):
    """List candles, oldest first."""

    candles: list[LiveCandle]


class _State:
    """Hold a topic's stream and interval, and the subscribers that wait for the stream."""

    def __init__(self, stream: TokenStream, interval: str) -> None:
        self.stream = stream
        self.interval = interval
        self.minutes = minutes_of(interval)
        self.waiting: set[Connection] = set()
        self.reload = False

    @property
    def ready(self) -> bool:
        """Return whether the stream has the minutes that the candles are made of."""
        return self.stream.live and self.stream.minutes >= self.minutes


def minutes_of(interval: str) -> int:
    """Return how many minutes a snapshot needs, including those of a candle cut at its start."""
    minutes = INTERVALS_MS[interval] // MINUTE_MS
    return min((SNAPSHOT_CANDLES + 1) * minutes, HISTORY_MINUTES)


class CandlesSource(Source):
    """Publish the streams' candles."""

    channel: ClassVar[str] = "candles"

    def __init__(self, streams: Streams, hub: Hub) -> None:
        self._streams = streams
        self._hub = hub
        self._dirty: dict[Topic, None] = {}
        streams.listen(self)

    def cost(self, subject: Any) -> int:
        """Return a higher cost if the owner must be asked."""
        token_id, interval = subject
        ready = self._streams.ready(token_id, minutes_of(interval))
        return COST_SUBSCRIBE if ready else COST_QUESTION

    def opened(self, topic: Topic) -> None:
        """Acquire the token's stream."""
        token_id, interval = topic.subject
        stream = self._streams.hold(token_id, minutes_of(interval))
        topic.state = _State(stream, interval)

    def closed(self, topic: Topic) -> None:
        """Release the stream."""
        self._dirty.pop(topic, None)
        self._streams.release(topic.subject[0], topic.state.minutes)

    def left(self, topic: Topic, connection: Connection) -> None:
        """Forget a subscriber that waits for the stream."""
        topic.state.waiting.discard(connection)

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue the newest candles; wait if the owner must be asked first."""
        state: _State = topic.state
        if state.ready:
            connection.push(self._message(topic, "snapshot", self._newest(state)))
        else:
            state.waiting.add(connection)
            if connection.claims is not None:
                self._streams.wait(state.stream.token_id, connection.claims.subject)
        return True

    def tick(self, now_ms: int) -> None:
        """Publish the candles that changed, or all of them after a reload from the owner."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        for topic in dirty:
            if now_ms - topic.published_at < FLUSH_MS:
                # An update reads every minute of the stream: make one per flush, not per trade.
                self._dirty[topic] = None
                continue
            state: _State = topic.state
            if state.reload:
                state.reload = False
                message = self._message(topic, "snapshot", self._newest(state))
                for connection in self._hub.subscribers(topic):
                    # The outbox keeps it ahead of later updates, which must not replace it.
                    connection.drop(topic)
                    connection.push(message)
                state.waiting.clear()
                topic.published_at = now_ms
                continue
            changed = state.stream.candles.changed(INTERVALS_MS[state.interval], now_ms)
            if changed:
                self._hub.publish(topic, self._message(topic, "update", changed), now_ms)

    def stepped(self, stream: TokenStream, step: Step, now_ms: int) -> None:
        """Mark the topics whose candles changed."""
        if not step.trades and not step.loaded:
            return
        for interval in INTERVALS_MS:
            topic = self._hub.topic(TopicKey(self.channel, (stream.token_id, interval)))
            if topic is not None and topic.state.ready:
                topic.state.reload |= step.loaded
                self._dirty[topic] = None

    def _newest(self, state: _State) -> list[LiveCandle]:
        return state.stream.candles.newest(INTERVALS_MS[state.interval], SNAPSHOT_CANDLES)

    @staticmethod
    def _message(topic: Topic, kind: str, candles: list[LiveCandle]) -> bytes:
        token_id, interval = topic.subject
        return write(
            Message(
                channel="candles",
                type=kind,
                token=token_id,
                interval=interval,
                epoch=topic.state.stream.epoch,
                seq=topic.state.stream.n,
                data=CandlesData(candles),
            )
        )
