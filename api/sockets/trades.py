"""The channel `trades`: every trade of a token once, in order of `n`, with gaps reported.

Trades are a stream, not a state: a newer message does not replace an older one, so all of them go
to the outbox.
"""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec

from aggregator.contracts.trades import Trade
from api.sockets.connection import Connection
from api.sockets.hub import Hub
from api.sockets.protocol import Message, Resume, write
from api.sockets.source import COST_QUESTION, COST_SUBSCRIBE, Source
from api.sockets.topic import Topic, TopicKey
from api.trades.stream import Gap, Step, TokenStream
from api.trades.streams import Streams


class TradesData(msgspec.Struct, frozen=True):
    """Trades in order of `n`, up to and including `n`; 0 means that the token has had none."""

    n: int
    trades: list[Trade]


class _State:
    """Hold a topic's stream, and the subscribers that wait for the owner's answer."""

    def __init__(self, stream: TokenStream) -> None:
        self.stream = stream
        self.waiting: dict[Connection, Resume | None] = {}


class TradesSource(Source):
    """Publish the streams' trades."""

    channel: ClassVar[str] = "trades"

    def __init__(self, streams: Streams, hub: Hub) -> None:
        self._streams = streams
        self._hub = hub
        streams.listen(self)

    def cost(self, subject: Any) -> int:
        """Return a higher cost if the owner must be asked."""
        return COST_SUBSCRIBE if self._streams.ready(subject) else COST_QUESTION

    def opened(self, topic: Topic) -> None:
        """Acquire the token's stream."""
        topic.state = _State(self._streams.hold(topic.subject))

    def closed(self, topic: Topic) -> None:
        """Release the stream."""
        self._streams.release(topic.subject)

    def left(self, topic: Topic, connection: Connection) -> None:
        """Forget a subscriber that waits for the owner's answer."""
        topic.state.waiting.pop(connection, None)

    def begin(
        self, topic: Topic, connection: Connection, resume: Resume | None, now_ms: int
    ) -> bool:
        """Queue the last trades, or those after `resume.n`; wait if the owner must be asked."""
        state: _State = topic.state
        ahead = _is_ahead(resume, state.stream)
        if state.stream.live and not ahead:
            return self._start(topic, connection, resume)
        state.waiting[connection] = resume
        if connection.claims is not None:
            self._streams.wait(topic.subject, connection.claims.subject)
        if ahead:
            # Another node was ahead of this one, or the numbering has restarted: the owner knows.
            self._streams.request_history(topic.subject)
        return True

    def stepped(self, stream: TokenStream, step: Step, now_ms: int) -> None:
        """Queue the new trades for subscribers that are up to date, then start those that wait."""
        topic = self._hub.topic(TopicKey(self.channel, stream.token_id))
        if topic is None:
            return
        state: _State = topic.state
        for message in self._news(topic, stream, step):
            for connection in self._hub.subscribers(topic):
                if connection not in state.waiting:
                    connection.push(message)
                    self._hub.request_early_flush(connection, now_ms)
        if stream.live and state.waiting:
            for connection, resume in list(state.waiting.items()):
                if step.loaded or not _is_ahead(resume, stream):
                    del state.waiting[connection]
                    self._start(topic, connection, resume)

    def _news(self, topic: Topic, stream: TokenStream, step: Step) -> list[bytes]:
        messages = []
        if step.gap is not None:
            messages.append(self._message(topic, "gap", step.gap))
            if step.gap.restarted:
                whole = TradesData(stream.n, stream.trades)
                return [*messages, self._message(topic, "snapshot", whole)]
        if step.trades:
            news = TradesData(step.trades[-1].n, step.trades)
            messages.append(self._message(topic, "update", news))
        return messages

    def _start(self, topic: Topic, connection: Connection, resume: Resume | None) -> bool:
        stream: TokenStream = topic.state.stream
        if resume is None or resume.n is None:
            whole = TradesData(stream.n, stream.trades)
            connection.push(self._message(topic, "snapshot", whole))
            return True
        given = stream.resume(resume.n, resume.offset)
        if given.gap is not None:
            connection.push(self._message(topic, "gap", given.gap))
        if given.whole or given.trades:
            kind = "snapshot" if given.whole else "update"
            connection.push(self._message(topic, kind, TradesData(stream.n, given.trades)))
        return given.gap is not None or bool(given.trades)

    @staticmethod
    def _message(topic: Topic, kind: str, data: TradesData | Gap) -> bytes:
        epoch = topic.state.stream.epoch
        return write(
            Message(channel="trades", type=kind, token=topic.subject, epoch=epoch, data=data)
        )


def _is_ahead(resume: Resume | None, stream: TokenStream) -> bool:
    """Return whether the client has trades that this node has not seen."""
    return resume is not None and resume.n is not None and resume.n > stream.n
