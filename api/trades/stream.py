"""One token's trades on this node: the last 200, in order of `n`, with every gap reported.

Pure. Batches and histories come in, in any order and as often as NATS delivers them. Each trade
comes out once, with contiguous `n`, or else a gap that states what is missing. Batches that arrive
while the history is requested are buffered and applied after it, so no trade is lost between the
two.

`n` numbers the trades of one token from an arbitrary start. It is contiguous as long as the state
of the owner survives, so a jump of `n` is a hole: a message was lost, and the owner's history fills
it. If the owner's state is lost, numbering restarts under a newer epoch. Then the same `n` may
name another trade, and only the trade's `offset` distinguishes the two.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from aggregator.contracts.swaps import TRADES_A_MINUTE
from aggregator.contracts.trades import HISTORY_MINUTES, TokenHistory, Trade, TradeBatch
from aggregator.contracts.units import MINUTE_MS
from api.trades.candles import LiveCandles

KEPT: Final = 200
MAX_BUFFERED: Final = 2_000
TRADE_BYTES: Final = 900
"""The measured memory of one trade with its texts."""


class Gap(msgspec.Struct, frozen=True):
    """Trades from_n … to_n are missing; if `restarted`, the numbering has restarted.

    `to_n` is null if it is unknown.
    """

    from_n: int
    to_n: int | None
    restarted: bool


class Resumption(msgspec.Struct, frozen=True):
    """What a client that resumes receives: the gap first, then the trades."""

    gap: Gap | None
    whole: bool
    """True if the trades are all that are held: a fresh start, not a continuation."""
    trades: list[Trade]


class Step(msgspec.Struct, frozen=True):
    """What one message changed, in the order in which clients must receive it."""

    gap: Gap | None = None
    trades: list[Trade] = []
    loaded: bool = False
    """True if a history was applied: any candle may have changed."""


class TokenStream:
    """Follow the trades and candles of one token."""

    def __init__(self, token_id: str) -> None:
        self.token_id = token_id
        self.partition: int | None = None
        self.epoch = 0
        self.n = 0
        self.live = False
        """True after the first history was applied."""
        self.minutes = 0
        """How many of the newest minutes `candles` were requested for."""
        self.candles = LiveCandles()
        self.newest_timestamp = 0
        """The newest event time of any trade that was applied."""
        self.newest_epoch = 0
        """The newest epoch of any message received."""
        self._hole = False
        self._requested = False
        self._ring: deque[Trade] = deque(maxlen=KEPT)
        self._buffered: dict[int, Trade] = {}

    @property
    def wants_history(self) -> bool:
        """Return whether the owner must be asked for its history."""
        return not self.live or self._hole or self._requested or self.candles.wrong

    @property
    def trades(self) -> list[Trade]:
        """Return the last trades, oldest first."""
        return list(self._ring)

    @property
    def size(self) -> int:
        """Return the estimated memory in bytes."""
        return self.candles.size + (len(self._ring) + len(self._buffered)) * TRADE_BYTES

    def begin_empty(self) -> None:
        """Start live and empty: the token does not exist yet, so no owner has a history of it."""
        self.live = True
        self.minutes = HISTORY_MINUTES
        self.candles.load([], 0)
        self._hole = False

    def suspect(self) -> None:
        """Treat what follows as after a hole, because a message may have been lost."""
        self._hole = True

    def request_history(self) -> None:
        """Ask the owner, and keep applying batches meanwhile: a client has later trades."""
        self._requested = True

    def batch(self, batch: TradeBatch, now_ms: int) -> Step:
        """Apply a batch that the owner published."""
        self.partition = batch.partition
        if batch.epoch < self.newest_epoch:
            return Step()
        if batch.epoch > self.newest_epoch:
            # A new owner may have restarted the numbering; only its history shows that.
            self.newest_epoch = batch.epoch
            self._buffered.clear()
            self._hole = True
        fresh = []
        for trade in batch.trades:
            if not self.live or self._hole or trade.n > self.n + 1:
                self._hole = True
                self._buffer(trade)
            elif trade.n == self.n + 1:
                self._append(trade, now_ms)
                fresh.append(trade)
        return Step(trades=fresh)

    def history(
        self, history: TokenHistory, as_of: int, now_ms: int, minutes: int = HISTORY_MINUTES
    ) -> Step:
        """Apply the owner's answer to a question for `minutes`.

        An answer of an older epoch changes nothing. `as_of` is the instant of the board.
        """
        if history.epoch < self.newest_epoch:
            return Step()
        restarted = self.live and self._began_again(history)
        if not restarted and history.n < self.n and history.epoch > self.epoch:
            # The new owner still replays and lags what was shown: ask again until it has caught up.
            self.newest_epoch = history.epoch
            return Step()
        if history.epoch > self.newest_epoch:
            self._buffered.clear()
        if self.live and self.n == 0 and history.n > 0:
            # The token had no trades before, so all are new, whatever number they start from.
            self.n = _before_the_first(history.n)
        self.partition = history.partition
        self.epoch = self.newest_epoch = history.epoch
        if not self.live or restarted:
            gap = Gap(self.n + 1, None, True) if restarted else None
            self._restart(history)
            trades: list[Trade] = []
        else:
            gap, trades = self._continue(history)
        self.live, self._hole, self._requested = True, False, False
        self.minutes = minutes
        self._reload_candles(history, as_of, now_ms)
        trades += self._take_buffered(now_ms)
        return Step(gap, trades, loaded=True)

    def resume(self, n: int, offset: int | None) -> Resumption:
        """Return what a client needs that has the trades up to `n`; `offset` is that of trade `n`.

        A client with `n` 0 subscribed when the token had no trades.
        """
        held = self.trades
        first = held[0].n if held else self.n + 1
        n = n or _before_the_first(first)
        same = next((each for each in held if each.n == n), None)
        if n > self.n or (same is not None and offset not in {None, same.offset}):
            return Resumption(Gap(n + 1, None, True), True, held)
        if n + 1 < first:
            return Resumption(Gap(n + 1, first - 1, False), False, held)
        return Resumption(None, False, [each for each in held if each.n > n])

    def _began_again(self, history: TokenHistory) -> bool:
        """Return whether the owner numbers other trades with the `n` that are held."""
        if history.epoch == self.epoch:
            # Within one epoch the numbering never restarts: a lower `n` means that trades overtook
            # the answer.
            return False
        held = {each.n: each.offset for each in self._ring}
        theirs = {each.n: each.offset for each in history.trades}
        # The same `n` at another offset is another trade. Without a common `n`, a lower number is
        # either a replay that lags, or a restart: in a restart its trades are newer than ours.
        common = held.keys() & theirs.keys()
        if common or history.n >= self.n:
            return any(held[n] != theirs[n] for n in common)
        if not history.trades or not self._ring:
            return True
        return history.trades[-1].timestamp > self._ring[-1].timestamp

    def _restart(self, history: TokenHistory) -> None:
        self._ring = deque(history.trades, maxlen=KEPT)
        self.n = history.n
        self._note_newest(history.trades)

    def _continue(self, history: TokenHistory) -> tuple[Gap | None, list[Trade]]:
        """Append the trades after those held; return the gap before them, and the trades."""
        newer = [each for each in history.trades if each.n > self.n]
        gap = None
        first = newer[0].n if newer else history.n + 1
        if first > self.n + 1:
            gap = Gap(self.n + 1, first - 1, False)
        self._ring.extend(newer)
        self.n = max(self.n, history.n)
        self._note_newest(newer)
        return gap, newer

    def _reload_candles(self, history: TokenHistory, as_of: int, now_ms: int) -> None:
        depth_ms = self.minutes * MINUTE_MS
        from_ms = history.from_ms
        self.candles.load(
            history.candles, as_of - depth_ms if from_ms is None else from_ms, depth_ms
        )
        for trade in self._ring:
            if trade.n > history.n:
                self._fold(trade, now_ms)

    def _take_buffered(self, now_ms: int) -> list[Trade]:
        taken = []
        while (trade := self._buffered.pop(self.n + 1, None)) is not None:
            self._append(trade, now_ms)
            taken.append(trade)
        self._buffered = {n: trade for n, trade in self._buffered.items() if n > self.n}
        self._hole = bool(self._buffered)
        return taken

    def _append(self, trade: Trade, now_ms: int) -> None:
        self._ring.append(trade)
        self.n = trade.n
        self._note_newest([trade])
        self._fold(trade, now_ms)

    def _fold(self, trade: Trade, now_ms: int) -> None:
        if self.minutes:
            self.candles.fold(trade, now_ms)

    def _buffer(self, trade: Trade) -> None:
        self._buffered[trade.n] = trade
        if len(self._buffered) > MAX_BUFFERED:
            del self._buffered[min(self._buffered)]

    def _note_newest(self, trades: list[Trade]) -> None:
        for trade in trades:
            self.newest_timestamp = max(self.newest_timestamp, trade.timestamp)


def _before_the_first(n: int) -> int:
    """Return the number before a token's first `n`, from the `n` of any of its early trades."""
    return (n - 1) // TRADES_A_MINUTE * TRADES_A_MINUTE
