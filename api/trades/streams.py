"""The tokens' streams on this node: which are held, when owners are asked, who is notified.

A stream is held while a socket is subscribed to the token's trades or candles, and for a while
after the last subscriber left or the last REST request read it. The node subscribes to the token's
trades first and then asks the owner, over the feed's connection. An idle stream asks no questions:
it stays current as long as no message is missed. It is dropped after IDLE_MS, or earlier if idle
streams are too many or too large. This module knows the subjects of NATS, but no socket.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from aggregator.contracts.names import history_subject, trades_subject
from aggregator.contracts.trades import HistoryRequest, TokenHistory, TradeBatch
from aggregator.runtime import metrics
from api.board.board import Board
from api.board.wire import Wire
from api.trades.questions import (
    ANSWER_WITHIN_MS,
    PATIENCE_MS,
    Candidate,
    OpenQuestion,
    QuestionPause,
    Questions,
)
from api.trades.stream import Step, TokenStream

IDLE_KEPT: Final = 500
IDLE_MS: Final = 60_000
IDLE_BYTES: Final = 64 * 1024 * 1024
"""The most idle streams, how long each is kept, and the memory of all of them."""
LOOK_MS: Final = 5_000
"""How long after a single read of a stream its owner may still be asked."""
CHECK_EVERY_MS: Final = 1_000
TRIM_EVERY_MS: Final = 60_000
# A patch may arrive before the trades that it includes.
SETTLE_MS: Final = 1_000

_decode_batch = msgspec.json.Decoder(TradeBatch).decode
_decode_history = msgspec.json.Decoder(TokenHistory).decode


class StreamListener(Protocol):
    """Is notified of every step of the streams."""

    def stepped(self, stream: TokenStream, step: Step, now_ms: int) -> None:
        """Handle a step, which may have changed nothing."""


class _Held:
    """Hold a stream, its users by how many minutes each needs, and its question in flight."""

    def __init__(self, token_id: str, now_ms: int) -> None:
        self.trim_at = now_ms + TRIM_EVERY_MS
        self.stream = TokenStream(token_id)
        self.users: Counter[int] = Counter()
        self.subject = ""
        self.question: OpenQuestion | None = None
        self.pause = QuestionPause()
        self.idle_since = now_ms
        self.looked_until = 0
        self.row_epoch = 0
        self.lag_seen: tuple[int, int] | None = None
        self.history_requested = False

    @property
    def minutes(self) -> int:
        """Return how many minutes the users need."""
        return max(self.users, default=0)

    def wants_history(self, now_ms: int) -> bool:
        """Return whether the owner must be asked, and somebody waits for the answer."""
        if not self.users and now_ms >= self.looked_until:
            return False
        return self.stream.wants_history or self.stream.minutes < self.minutes


class Streams:
    """Hold this node's streams. Every `now_ms` comes from one monotonic clock."""

    def __init__(self, board: Board, wire: Wire, now_ms: Callable[[], int]) -> None:
        self._board = board
        self._wire = wire
        self._now_ms = now_ms
        self._held: dict[str, _Held] = {}
        self._idle: dict[str, None] = {}
        self._wanting: dict[str, None] = {}
        self._questions = Questions()
        self._listeners: list[StreamListener] = []
        self._check_at = 0
        wire.on_connected(self._suspect_all)
        wire.on_step(lambda: self.tick(self._now_ms()))

    def listen(self, listener: StreamListener) -> None:
        """Notify the listener of every step."""
        self._listeners.append(listener)

    def ready(self, token_id: str, minutes: int = 0) -> bool:
        """Return whether the token's trades and newest `minutes` are here without asking."""
        held = self._held.get(token_id)
        if held is None:
            return False
        return not held.stream.wants_history and held.stream.minutes >= minutes

    def hold(self, token_id: str, minutes: int = 0) -> TokenStream:
        """Return the token's stream with its newest `minutes`, kept current until `release`."""
        held = self._open(token_id)
        held.users[minutes] += 1
        self._idle.pop(token_id, None)
        self._note_wanting(held, self._now_ms())
        return held.stream

    def release(self, token_id: str, minutes: int = 0) -> None:
        """Release one hold of this many minutes; an unused stream is kept for a while."""
        held = self._held[token_id]
        held.users[minutes] -= 1
        if not held.users[minutes]:
            del held.users[minutes]
        if not held.users:
            held.subject = ""
            self._rest(held)
            self._wanting.pop(token_id, None)

    def wait(self, token_id: str, subject: str) -> None:
        """Charge the held stream's question to `subject`, one of whose clients waits for it."""
        held = self._held[token_id]
        if not held.subject:
            held.subject = subject

    def request_history(self, token_id: str) -> None:
        """Ask the owner at the next check: a client has later trades than the held stream.

        The delay keeps clients from causing more than one question a second.
        """
        self._held[token_id].history_requested = True

    def recent(self, token_id: str) -> TokenStream:
        """Return the token's stream for a single read; it is not `live` at the first one."""
        held, now_ms = self._open(token_id), self._now_ms()
        held.looked_until = now_ms + LOOK_MS
        if not held.users:
            self._rest(held)
        self._note_wanting(held, now_ms)
        return held.stream

    def tick(self, now_ms: int) -> None:
        """Send the questions that are due; the wire calls this several times a second."""
        for question in self._questions.expired(now_ms):
            self._time_out(question, now_ms)
        self._ask_due(now_ms)
        if now_ms >= self._check_at:
            self._check_at = now_ms + CHECK_EVERY_MS
            for held in list(self._held.values()):
                self._check(held, now_ms)
            self._drop_idle(now_ms)

    def _open(self, token_id: str) -> _Held:
        held = self._held.get(token_id)
        if held is None:
            held = self._held[token_id] = _Held(token_id, self._now_ms())
            self._wire.watch(trades_subject(token_id), lambda data: self._on_batch(held, data))
        return held

    def _rest(self, held: _Held) -> None:
        """Append the stream to the idle ones, and drop the oldest if there are too many."""
        token_id = held.stream.token_id
        held.idle_since = self._now_ms()
        self._idle.pop(token_id, None)
        self._idle[token_id] = None
        if len(self._idle) > IDLE_KEPT:
            self._drop(next(iter(self._idle)))

    def _drop_idle(self, now_ms: int) -> None:
        """Drop what was idle for too long, and the oldest while all together are too large."""
        size = sum(self._held[token_id].stream.size for token_id in self._idle)
        for token_id in list(self._idle):
            held = self._held[token_id]
            if size <= IDLE_BYTES and now_ms - held.idle_since < IDLE_MS:
                break
            size -= held.stream.size
            self._drop(token_id)
        metrics.WS_STREAM_BYTES.set(sum(held.stream.size for held in self._held.values()))

    def _drop(self, token_id: str) -> None:
        """Drop an idle stream.

        Its question in flight still counts in the window: the owner is working on it.
        """
        del self._idle[token_id]
        del self._held[token_id]
        self._wanting.pop(token_id, None)
        self._wire.unwatch(trades_subject(token_id))

    def _on_batch(self, held: _Held, data: bytes) -> None:
        now_ms, batch = self._now_ms(), _decode_batch(data)
        if batch.epoch > held.stream.newest_epoch:
            # The owner has changed: the old one will not answer, the new one may be asked.
            if held.question is not None:
                self._withdraw(held, held.question)
            held.pause.allow()
        self._notify(held, held.stream.batch(batch, now_ms), now_ms)

    def _on_answer(self, question: OpenQuestion, data: bytes | None) -> None:
        now_ms, held = self._now_ms(), self._held.get(question.token_id)
        if data is None:
            self._questions.withdraw(question)
            metrics.WS_QUESTIONS.labels("unavailable").inc()
        else:
            self._questions.answered(question)
            metrics.WS_QUESTIONS.labels("answered").inc()
        if held is None or held.question is not question:
            # The stream was dropped meanwhile. A newer stream of the token may have missed trades
            # since the answer was made.
            return
        held.question = None
        held.pause.unavailable(now_ms)
        step = Step()
        if data is not None:
            as_of = self._board.as_of() or 0
            step = held.stream.history(_decode_history(data), as_of, now_ms, question.minutes)
        if step.loaded:
            held.pause.reset(now_ms)
        self._notify(held, step, now_ms)

    def _notify(self, held: _Held, step: Step, now_ms: int) -> None:
        self._note_wanting(held, now_ms)
        for listener in self._listeners:
            listener.stepped(held.stream, step, now_ms)

    def _note_wanting(self, held: _Held, now_ms: int) -> None:
        token_id = held.stream.token_id
        if held.wants_history(now_ms):
            self._wanting[token_id] = None
        else:
            self._wanting.pop(token_id, None)

    def _ask_due(self, now_ms: int) -> None:
        """Ask for the streams whose pause is over, as far as the windows have room."""
        candidates = []
        for token_id in list(self._wanting):
            held = self._held[token_id]
            if now_ms < held.pause.not_before or token_id in self._questions.out:
                continue
            if not held.wants_history(now_ms):
                del self._wanting[token_id]
                continue
            partition = self._partition(held.stream)
            if partition is not None:
                candidates.append(Candidate(token_id, partition, held.subject))
            elif self._board.complete():
                self._begin_empty(held, now_ms)
        for candidate in self._questions.choose(candidates):
            self._ask(self._held[candidate.token_id], candidate, now_ms)

    def _ask(self, held: _Held, candidate: Candidate, now_ms: int) -> None:
        question = OpenQuestion(
            candidate.token_id,
            candidate.partition,
            candidate.subject,
            held.minutes,
            now_ms + ANSWER_WITHIN_MS,
        )
        request = HistoryRequest(candidate.token_id, question.minutes, PATIENCE_MS)
        question.id = self._wire.ask(
            history_subject(candidate.partition),
            msgspec.json.encode(request),
            lambda data: self._on_answer(question, data),
        )
        held.question = question
        self._questions.add(question)

    def _time_out(self, question: OpenQuestion, now_ms: int) -> None:
        self._wire.forget(question.id)
        self._questions.timed_out(question)
        metrics.WS_QUESTIONS.labels("timeout").inc()
        held = self._held.get(question.token_id)
        if held is not None and held.question is question:
            held.question = None
            held.pause.timed_out(now_ms)

    def _withdraw(self, held: _Held, question: OpenQuestion) -> None:
        self._wire.forget(question.id)
        self._questions.withdraw(question)
        held.question = None

    def _begin_empty(self, held: _Held, now_ms: int) -> None:
        """Start the stream empty: no partition has the token, so it has no trades yet."""
        held.stream.begin_empty()
        self._notify(held, Step(loaded=True), now_ms)

    def _partition(self, stream: TokenStream) -> int | None:
        row = self._board.rows.get(stream.token_id)
        return row.partition if row is not None else stream.partition

    def _check(self, held: _Held, now_ms: int) -> None:
        """Drop what is too old; ask if the board knows a newer trade than the stream.

        NATS may have dropped that trade. Ask once per such trade, because the board also knows
        trades that the stream never gets.
        """
        stream, row = held.stream, self._board.rows.get(held.stream.token_id)
        if now_ms >= held.trim_at:
            held.trim_at = now_ms + TRIM_EVERY_MS
            stream.candles.forget_before(self._board.as_of() or 0)
        if held.history_requested:
            held.history_requested = False
            stream.request_history()
            self._note_wanting(held, now_ms)
        if row is not None and row.epoch != held.row_epoch:
            held.row_epoch = row.epoch
            held.pause.allow()
        if row is None or row.last_trade_at is None or not stream.live:
            return
        if row.last_trade_at <= stream.newest_timestamp:
            return
        if held.lag_seen is None or held.lag_seen[0] != row.last_trade_at:
            held.lag_seen = (row.last_trade_at, now_ms + SETTLE_MS)
        elif 0 < held.lag_seen[1] <= now_ms:
            held.lag_seen = (row.last_trade_at, 0)
            self._suspect(held, now_ms)

    def _suspect(self, held: _Held, now_ms: int) -> None:
        held.stream.suspect()
        held.pause.allow()
        self._note_wanting(held, now_ms)

    def _suspect_all(self) -> None:
        """Ask for every stream again on a new connection: messages may have been missed."""
        for question in list(self._questions.out.values()):
            self._questions.withdraw(question)
        for held in self._held.values():
            held.question = None
            self._suspect(held, self._now_ms())
