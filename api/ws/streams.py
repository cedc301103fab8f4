"""The tokens' streams on this node: which are held, when their owners are asked, who hears of it.

A token is held while somebody is subscribed to its trades or candles, and for a while after the
last one left or asked (REST reads the newest trades here). Follows first and asks then, over the
feed's connection. Knows NATS's subjects, but no socket.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from aggregator.contracts.names import history_subject, trades_subject
from aggregator.contracts.trades import HistoryRequest, TokenHistory, TradeBatch
from api.board.board import Board
from api.board.wire import Wire
from api.ws.stream import Step, TokenStream

IDLE_KEPT: Final = 500
ANSWER_WITHIN_MS: Final = 2_000
FIRST_PAUSE_MS: Final = 100
LONGEST_PAUSE_MS: Final = 2_000
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
    """A stream, its users, and the question that is out."""

    def __init__(self, token_id: str, now_ms: int) -> None:
        self.trim_at = now_ms + TRIM_EVERY_MS
        self.stream = TokenStream(token_id)
        self.users = 0
        self.question: int | None = None
        self.not_before = 0
        self.pause_ms = FIRST_PAUSE_MS
        self.lag_seen: tuple[int, int] | None = None
        self.doubted = False


class Streams:
    """The streams that this node holds. All `now_ms` are of one monotonic clock."""

    def __init__(self, board: Board, wire: Wire, now_ms: Callable[[], int]) -> None:
        self._board = board
        self._wire = wire
        self._now_ms = now_ms
        self._held: dict[str, _Held] = {}
        self._idle: dict[str, None] = {}
        self._wanting: dict[str, None] = {}
        self._listeners: list[StreamListener] = []
        self._check_at = 0
        wire.on_connected(self._suspect_all)
        wire.on_step(lambda: self.tick(self._now_ms()))

    def listen(self, listener: StreamListener) -> None:
        """Have the listener told of every step."""
        self._listeners.append(listener)

    def hold(self, token_id: str) -> TokenStream:
        """The token's stream, kept up to date until as many `release`."""
        held = self._open(token_id)
        held.users += 1
        self._idle.pop(token_id, None)
        return held.stream

    def release(self, token_id: str) -> None:
        """One user less; the stream stays a while."""
        held = self._held[token_id]
        held.users -= 1
        if held.users == 0:
            self._rest(token_id)

    def doubt(self, token_id: str) -> None:
        """A client has more than the held stream: ask the owner at the next check.

        Not at once, so that no client can have it asked more often than once a second.
        """
        self._held[token_id].doubted = True

    def recent(self, token_id: str) -> TokenStream:
        """The token's stream for a single look; it is not `live` when nobody looked before."""
        held = self._open(token_id)
        if held.users == 0:
            self._rest(token_id)
        return held.stream

    def tick(self, now_ms: int) -> None:
        """Ask what must be asked; the wire calls it some times a second."""
        for token_id in list(self._wanting):
            self._ask(self._held[token_id], now_ms)
        if now_ms >= self._check_at:
            self._check_at = now_ms + CHECK_EVERY_MS
            for held in self._held.values():
                self._check(held, now_ms)

    def _open(self, token_id: str) -> _Held:
        held = self._held.get(token_id)
        if held is None:
            held = self._held[token_id] = _Held(token_id, self._now_ms())
            self._wire.watch(trades_subject(token_id), lambda data: self._on_batch(held, data))
            self._wanting[token_id] = None
        return held

    def _rest(self, token_id: str) -> None:
        """Put it behind the others without users, and let go of the one in front."""
        self._idle.pop(token_id, None)
        self._idle[token_id] = None
        while len(self._idle) > IDLE_KEPT:
            oldest = next(iter(self._idle))
            del self._idle[oldest]
            self._wanting.pop(oldest, None)
            gone = self._held.pop(oldest)
            self._wire.unwatch(trades_subject(oldest))
            if gone.question is not None:
                self._wire.forget(gone.question)

    def _on_batch(self, held: _Held, data: bytes) -> None:
        now_ms = self._now_ms()
        self._tell(held, held.stream.batch(_decode_batch(data), now_ms), now_ms)

    def _on_history(self, held: _Held, data: bytes | None) -> None:
        held.question = None
        now_ms = self._now_ms()
        step = Step()
        if data is not None:
            history = _decode_history(data)
            step = held.stream.history(history, self._board.as_of() or 0, now_ms)
        held.pause_ms = FIRST_PAUSE_MS if step.loaded else min(held.pause_ms * 2, LONGEST_PAUSE_MS)
        held.not_before = now_ms + held.pause_ms
        self._tell(held, step, now_ms)

    def _tell(self, held: _Held, step: Step, now_ms: int) -> None:
        token_id = held.stream.token_id
        if held.stream.wants_history:
            self._wanting[token_id] = None
        else:
            self._wanting.pop(token_id, None)
        for listener in self._listeners:
            listener.stepped(held.stream, step, now_ms)

    def _ask(self, held: _Held, now_ms: int) -> None:
        """Put the question unless one is out, or the pause after the last is not over."""
        if now_ms < held.not_before:
            return
        if held.question is not None:
            self._wire.forget(held.question)
        partition = self._partition(held.stream)
        if partition is None:
            if self._board.complete():
                self._begin_empty(held, now_ms)
            return
        held.not_before = now_ms + ANSWER_WITHIN_MS
        question = msgspec.json.encode(HistoryRequest(held.stream.token_id))
        held.question = self._wire.ask(
            history_subject(partition), question, lambda data: self._on_history(held, data)
        )

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
            self._wanting[stream.token_id] = None
        if row is None or row.last_trade_at is None or not stream.live:
            return
        if row.last_trade_at <= stream.newest_timestamp:
            return
        if held.lag_seen is None or held.lag_seen[0] != row.last_trade_at:
            held.lag_seen = (row.last_trade_at, now_ms + SETTLE_MS)
        elif 0 < held.lag_seen[1] <= now_ms:
            held.lag_seen = (row.last_trade_at, 0)
            self._suspect(held)

    def _suspect(self, held: _Held) -> None:
        held.stream.suspect()
        held.pause_ms = FIRST_PAUSE_MS
        held.not_before = 0
        self._wanting[held.stream.token_id] = None

    def _suspect_all(self) -> None:
        for held in self._held.values():
            self._suspect(held)
