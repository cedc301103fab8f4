"""The tokens' streams on this node: which are held, when their owners are asked, who hears of it.

A token is held while somebody is subscribed to its trades or candles, and for a while after the
last one left or asked (REST reads the newest trades here). The node subscribes to the token's
trades first and asks the owner then, over the feed's connection. A stream that nobody uses asks
nothing: it stays current as long as nothing is missed, and is dropped after IDLE_MS, or earlier
where too many or too large ones are kept. Knows NATS's subjects, but no socket.
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
    Question,
    QuestionPause,
    Questions,
)
from api.trades.stream import Step, TokenStream

IDLE_KEPT: Final = 500
IDLE_MS: Final = 60_000
IDLE_BYTES: Final = 64 * 1024 * 1024
"""Most streams without users, how long each is kept, and the memory of all of them."""
LOOK_MS: Final = 5_000
"""How long a single look at a stream has its owner asked."""
CHECK_EVERY_MS: Final = 1_000
TRIM_EVERY_MS: Final = 60_000
# A patch may arrive before the trades that it counts.
SETTLE_MS: Final = 1_000

_decode_batch = msgspec.json.Decoder(TradeBatch).decode
_decode_history = msgspec.json.Decoder(TokenHistory).decode


class StreamListener(Protocol):
    """Hears what happens to the streams."""

    def stepped(self, stream: TokenStream, step: Step, now_ms: int) -> None:
        """Something was taken in, which may have changed nothing."""


class _Held:
    """A stream, its users by how many minutes each needs, and the question that is out."""

    def __init__(self, token_id: str, now_ms: int) -> None:
        self.trim_at = now_ms + TRIM_EVERY_MS
        self.stream = TokenStream(token_id)
        self.users: Counter[int] = Counter()
        self.subject = ""
        self.question: Question | None = None
        self.pause = QuestionPause()
        self.idle_since = now_ms
        self.looked_until = 0
        self.row_epoch = 0
        self.lag_seen: tuple[int, int] | None = None
        self.doubted = False

    @property
    def minutes(self) -> int:
        """How many minutes the users need."""
        return max(self.users, default=0)

    def wants_history(self, now_ms: int) -> bool:
        """Whether the owner must be asked, and somebody waits for the answer."""
        if not self.users and now_ms >= self.looked_until:
            return False
        return self.stream.wants_history or self.stream.minutes < self.minutes


class Streams:
    """The streams that this node holds. All `now_ms` are of one monotonic clock."""

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
        """Have the listener told of every step."""
        self._listeners.append(listener)

    def ready(self, token_id: str, minutes: int = 0) -> bool:
        """Whether the token's trades and newest `minutes` are here, so that nobody is asked."""
        held = self._held.get(token_id)
        if held is None:
            return False
        return not held.stream.wants_history and held.stream.minutes >= minutes

    def hold(self, token_id: str, minutes: int = 0) -> TokenStream:
        """The token's stream with its newest `minutes`, kept up to date until `release`."""
        held = self._open(token_id)
        held.users[minutes] += 1
        self._idle.pop(token_id, None)
        self._note_wanting(held, self._now_ms())
        return held.stream

    def release(self, token_id: str, minutes: int = 0) -> None:
        """One user of so many minutes less; the stream stays a while."""
        held = self._held[token_id]
        held.users[minutes] -= 1
        if not held.users[minutes]:
            del held.users[minutes]
        if not held.users:
            held.subject = ""
            self._rest(held)
            self._wanting.pop(token_id, None)

    def wait(self, token_id: str, subject: str) -> None:
        """A client of `subject` waits for the held stream: its share of the questions pays."""
        held = self._held[token_id]
        if not held.subject:
            held.subject = subject

    def doubt(self, token_id: str) -> None:
        """A client has more than the held stream: ask the owner at the next check.

        Not at once, so that no client can have it asked more often than once a second.
        """
        self._held[token_id].doubted = True

    def recent(self, token_id: str) -> TokenStream:
        """The token's stream for a single look; it is not `live` when nobody looked before."""
        held, now_ms = self._open(token_id), self._now_ms()
        held.looked_until = now_ms + LOOK_MS
        if not held.users:
            self._rest(held)
        self._note_wanting(held, now_ms)
        return held.stream

    def tick(self, now_ms: int) -> None:
        """Ask what must be asked; the wire calls it some times a second."""
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

    # Streams without users.

    def _rest(self, held: _Held) -> None:
        """Put it behind the others without users."""
        token_id = held.stream.token_id
        held.idle_since = self._now_ms()
        self._idle.pop(token_id, None)
        self._idle[token_id] = None
        if len(self._idle) > IDLE_KEPT:
            self._drop(next(iter(self._idle)))

    def _drop_idle(self, now_ms: int) -> None:
        """Drop what was idle for too long, and the oldest where all are too large."""
        size = sum(self._held[token_id].stream.size for token_id in self._idle)
        for token_id in list(self._idle):
            held = self._held[token_id]
            if size <= IDLE_BYTES and now_ms - held.idle_since < IDLE_MS:
                break
            size -= held.stream.size
            self._drop(token_id)
        metrics.WS_STREAM_BYTES.set(sum(held.stream.size for held in self._held.values()))

    def _drop(self, token_id: str) -> None:
        """Drop a stream without users.

        Its question, if one is out, keeps its place: the owner still works on it.
        """
        del self._idle[token_id]
        del self._held[token_id]
        self._wanting.pop(token_id, None)
        self._wire.unwatch(trades_subject(token_id))

    # What the owners send.

    def _on_batch(self, held: _Held, data: bytes) -> None:
        now_ms, batch = self._now_ms(), _decode_batch(data)
        if batch.epoch > held.stream.newest_epoch:
            # Another owner: the one before answers no more, this one may be asked.
            if held.question is not None:
                self._withdraw(held, held.question)
            held.pause.allow()
        self._tell(held, held.stream.batch(batch, now_ms), now_ms)

    def _on_answer(self, question: Question, data: bytes | None) -> None:
        now_ms, held = self._now_ms(), self._held.get(question.token_id)
        if data is None:
            self._questions.withdraw(question)
            metrics.WS_QUESTIONS.labels("unavailable").inc()
        else:
            self._questions.answered(question)
            metrics.WS_QUESTIONS.labels("answered").inc()
        if held is None or held.question is not question:
            # The stream was dropped meanwhile. A later one may have missed trades in between.
            return
        held.question = None
        held.pause.unavailable(now_ms)
        step = Step()
        if data is not None:
            as_of = self._board.as_of() or 0
            step = held.stream.history(_decode_history(data), as_of, now_ms, question.minutes)
        if step.loaded:
            held.pause.reset(now_ms)
        self._tell(held, step, now_ms)

    def _tell(self, held: _Held, step: Step, now_ms: int) -> None:
        self._note_wanting(held, now_ms)
        for listener in self._listeners:
            listener.stepped(held.stream, step, now_ms)

    def _note_wanting(self, held: _Held, now_ms: int) -> None:
        token_id = held.stream.token_id
        if held.wants_history(now_ms):
            self._wanting[token_id] = None
        else:
            self._wanting.pop(token_id, None)

    # Questions.

    def _ask_due(self, now_ms: int) -> None:
        """Ask for those whose pause is over, as far as the windows have room."""
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
        question = Question(
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

    def _time_out(self, question: Question, now_ms: int) -> None:
        self._wire.forget(question.id)
        self._questions.timed_out(question)
        metrics.WS_QUESTIONS.labels("timeout").inc()
        held = self._held.get(question.token_id)
        if held is not None and held.question is question:
            held.question = None
            held.pause.timed_out(now_ms)

    def _withdraw(self, held: _Held, question: Question) -> None:
        self._wire.forget(question.id)
        self._questions.withdraw(question)
        held.question = None

    def _begin_empty(self, held: _Held, now_ms: int) -> None:
        """No partition has the token, so it has no trades yet."""
        held.stream.begin_empty()
        self._tell(held, Step(loaded=True), now_ms)

    def _partition(self, stream: TokenStream) -> int | None:
        row = self._board.rows.get(stream.token_id)
        return row.partition if row is not None else stream.partition

    def _check(self, held: _Held, now_ms: int) -> None:
        """Let go of what is too old; ask where the board knows of a newer trade than the stream.

        NATS may have dropped it. Once for each such trade, because the board also knows trades
        that the stream never gets.
        """
        stream, row = held.stream, self._board.rows.get(held.stream.token_id)
        if now_ms >= held.trim_at:
            held.trim_at = now_ms + TRIM_EVERY_MS
            stream.candles.forget_before(self._board.as_of() or 0)
        if held.doubted:
            held.doubted = False
            stream.doubt()
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
        """A new connection: what was out on the old one is lost."""
        for question in list(self._questions.out.values()):
            self._questions.withdraw(question)
        for held in self._held.values():
            held.question = None
            self._suspect(held, self._now_ms())
