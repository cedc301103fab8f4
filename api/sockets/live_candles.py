"""The channel `candles`: a token's candles of one interval, live.

Values are absolute: an update holds every candle that changed in the last 30 s, whole, so that a
client that gets only the newest of several updates misses none.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

import msgspec

from aggregator.contracts.trades import HISTORY_MINUTES
from aggregator.contracts.units import MINUTE_MS
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import FLUSH_MS, INTERVALS, Message, Resume, write
from api.sockets.topic import COST_QUESTION, COST_SUBSCRIBE, Source, Topic, TopicKey
from api.trades.candles import Candle
from api.trades.stream import Step, TokenStream
from api.trades.streams import Streams

SNAPSHOT_CANDLES: Final = 300


class CandlesData(msgspec.Struct, frozen=True):
    """Candles, oldest first."""

    candles: list[Candle]


class _State:
    """A topic's stream, its interval, and the subscribers that wait for the stream to be live."""

    def __init__(self, stream: TokenStream, interval: str) -> None:
        self.stream = stream
        self.interval = interval
        self.minutes = minutes_of(interval)
        self.waiting: set[Connection] = set()
        self.reload = False

    @property
    def ready(self) -> bool:
        """Whether the stream has the minutes that the candles are made of."""
        return self.stream.live and self.stream.minutes >= self.minutes


def minutes_of(interval: str) -> int:
    """How many minutes a snapshot of candles needs, with those of a candle that began before."""
    minutes = INTERVALS[interval] // MINUTE_MS
    return min((SNAPSHOT_CANDLES + 1) * minutes, HISTORY_MINUTES)


class CandlesSource(Source):
    """Publishes the streams' candles."""

    channel: ClassVar[str] = "candles"

    def __init__(self, streams: Streams, hub: Hub) -> None:
        self._streams = streams
        self._hub = hub
        self._dirty: dict[Topic, None] = {}
        streams.listen(self)

    def cost(self, subject: Any) -> int:
        """More where the owner must be asked."""
        token_id, interval = subject
        ready = self._streams.ready(token_id, minutes_of(interval))
        return COST_SUBSCRIBE if ready else COST_QUESTION

    def opened(self, topic: Topic) -> None:
        """Hold the token's stream."""
        token_id, interval = topic.subject
        stream = self._streams.hold(token_id, minutes_of(interval))
        topic.state = _State(stream, interval)

    def closed(self, topic: Topic) -> None:
        """Let the stream go."""
        self._dirty.pop(topic, None)
        self._streams.release(topic.subject[0], topic.state.minutes)

    def left(self, topic: Topic, connection: Connection) -> None:
        """The subscriber waits no more."""
        topic.state.waiting.discard(connection)

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """The newest candles; later, where the owner must be asked first."""
        state: _State = topic.state
        if state.ready:
            connection.push(self._message(topic, "snapshot", self._newest(state)))
        else:
            state.waiting.add(connection)
            if connection.claims is not None:
                self._streams.wait(state.stream.token_id, connection.claims.subject)
        return True

    def tick(self, now_ms: int) -> None:
        """Publish what was folded in, or everything where the owner was asked again."""
        if not self._dirty:
            return
        dirty, self._dirty = self._dirty, {}
        for topic in dirty:
            if now_ms - topic.published_at < FLUSH_MS:
                # An update reads every minute, so there is one a flush and not one a trade.
                self._dirty[topic] = None
                continue
            state: _State = topic.state
            if state.reload:
                state.reload = False
                message = self._message(topic, "snapshot", self._newest(state))
                for connection in topic.subscribers:
                    # In order before later updates, and never replaced by one.
                    connection.drop(topic)
                    connection.push(message)
                state.waiting.clear()
                topic.published_at = now_ms
                continue
            changed = state.stream.candles.changed(INTERVALS[state.interval], now_ms)
            if changed:
                self._hub.publish(topic, self._message(topic, "update", changed), now_ms)

    def stepped(self, stream: TokenStream, step: Step, now_ms: int) -> None:
        """Note the topics whose candles changed."""
        if not step.trades and not step.loaded:
            return
        for interval in INTERVALS:
            topic = self._hub.topic(TopicKey(self.channel, (stream.token_id, interval)))
            if topic is not None and topic.state.ready:
                topic.state.reload |= step.loaded
                self._dirty[topic] = None

    def _newest(self, state: _State) -> list[Candle]:
        return state.stream.candles.newest(INTERVALS[state.interval], SNAPSHOT_CANDLES)

    @staticmethod
    def _message(topic: Topic, kind: str, candles: list[Candle]) -> bytes:
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
