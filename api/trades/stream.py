"""One token's trades on this node: the last 200, in order of `n`, without a hole that is not told.

Pure. Batches and histories come in, in any order and as often as NATS delivers them; what comes out
is each trade once, with contiguous `n`, or a gap that says what is missing. Batches that arrive
while the history is asked for are kept aside and applied behind it, so nothing falls between.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from aggregator.contracts.batch import TRADES_A_MINUTE
from aggregator.contracts.trades import HISTORY_MINUTES, TokenHistory, Trade, TradeBatch
from aggregator.contracts.units import MINUTE_MS
from api.trades.candles import Candles

KEPT: Final = 200
KEPT_ASIDE: Final = 2_000
TRADE_BYTES: Final = 900
"""Memory of one trade with its texts, measured."""


class Gap(msgspec.Struct, frozen=True):
    """Trades from_n … to_n cannot be given; where `restarted`, the counting began again.

    `to_n` is null where it is not known.
    """

    from_n: int
    to_n: int | None
    restarted: bool


class Resumption(msgspec.Struct, frozen=True):
    """What a client that asks to resume is given: a gap first, then trades."""

    gap: Gap | None
    whole: bool
    """The trades are all that are held, a fresh start, not a continuation."""
    trades: list[Trade]


class Step(msgspec.Struct, frozen=True):
    """What one message changed, in the order in which clients must hear it."""

    gap: Gap | None = None
    trades: list[Trade] = []
    loaded: bool = False
    """A history was taken: candles may have changed anywhere."""


class TokenStream:
    """The trades and candles of one token."""

    def __init__(self, token_id: str) -> None:
        self.token_id = token_id
        self.partition: int | None = None
        self.epoch = 0
        self.n = 0
        self.live = False
        """A history has been taken at least once."""
        self.minutes = 0
        """How many of the newest minutes `candles` were asked for."""
        self.candles = Candles()
        self.newest_timestamp = 0
        """The newest event time of any trade that was taken."""
        self.newest_epoch = 0
        """The newest epoch that anything was received of."""
        self._hole = False
        self._doubted = False
        self._ring: deque[Trade] = deque(maxlen=KEPT)
        self._aside: dict[int, Trade] = {}

    @property
    def wants_history(self) -> bool:
        """Whether the owner must be asked."""
        return not self.live or self._hole or self._doubted or self.candles.wrong

    @property
    def trades(self) -> list[Trade]:
        """The last trades, oldest first."""
        return list(self._ring)

    @property
    def size(self) -> int:
        """Estimated bytes of memory."""
        return self.candles.size + (len(self._ring) + len(self._aside)) * TRADE_BYTES

    def begin_empty(self) -> None:
        """There is no such token yet, so nobody can be asked: all that comes is new."""
        self.live = True
        self.minutes = HISTORY_MINUTES
        self.candles.load([], 0)
        self._hole = False

    def suspect(self) -> None:
        """Something may have been missed: ask the owner."""
        self._hole = True

    def doubt(self) -> None:
        """Somebody has more than this: ask the owner, and go on meanwhile."""
        self._doubted = True

    def batch(self, batch: TradeBatch, now_ms: int) -> Step:
        """What the owner published."""
        self.partition = batch.partition
        if batch.epoch < self.newest_epoch:
            return Step()
        if batch.epoch > self.newest_epoch:
            # A new owner may have begun to count again: only its history tells.
            self.newest_epoch = batch.epoch
            self._aside.clear()
            self._hole = True
        fresh = []
        for trade in batch.trades:
            if not self.live or self._hole or trade.n > self.n + 1:
                self._hole = True
                self._keep_aside(trade)
            elif trade.n == self.n + 1:
                self._append(trade, now_ms)
                fresh.append(trade)
        return Step(trades=fresh)

    def history(
        self, history: TokenHistory, as_of: int, now_ms: int, minutes: int = HISTORY_MINUTES
    ) -> Step:
        """The owner's answer to a question for `minutes`.

        One that is older than what is held changes nothing. `as_of` is the instant of the board.
        """
        if history.epoch < self.newest_epoch:
            return Step()
        restarted = self.live and self._began_again(history)
        if not restarted and history.n < self.n and history.epoch > self.epoch:
            # A new owner that is behind what was shown: ask again when it has caught up.
            self.newest_epoch = history.epoch
            return Step()
        if history.epoch > self.newest_epoch:
            self._aside.clear()
        if self.live and self.n == 0 and history.n > 0:
            # There was no trade before, so all of them are new, whatever they are counted from.
            self.n = _before_the_first(history.n)
        self.partition = history.partition
        self.epoch = self.newest_epoch = history.epoch
        if not self.live or restarted:
            gap = Gap(self.n + 1, None, True) if restarted else None
            self._restart(history)
            trades: list[Trade] = []
        else:
            gap, trades = self._continue(history)
        self.live, self._hole, self._doubted = True, False, False
        self.minutes = minutes
        self._reload_candles(history, as_of, now_ms)
        trades += self._take_aside(now_ms)
        return Step(gap, trades, loaded=True)

    def resume(self, n: int, offset: int | None) -> Resumption:
        """What a client needs that has the trades up to `n`; `offset` is that of trade `n`.

        `n` 0 is a client that was told of a token without trades.
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
        """Whether the owner's `n` are others than those that are held."""
        if history.epoch == self.epoch:
            # An owner never begins again: a lower `n` is an answer that its trades overtook.
            return False
        held = {each.n: each.offset for each in self._ring}
        theirs = {each.n: each.offset for each in history.trades}
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
        """The trades behind what is held, and the gap before them."""
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

    def _take_aside(self, now_ms: int) -> list[Trade]:
        taken = []
        while (trade := self._aside.pop(self.n + 1, None)) is not None:
            self._append(trade, now_ms)
            taken.append(trade)
        self._aside = {n: trade for n, trade in self._aside.items() if n > self.n}
        self._hole = bool(self._aside)
        return taken

    def _append(self, trade: Trade, now_ms: int) -> None:
        self._ring.append(trade)
        self.n = trade.n
        self._note_newest([trade])
        self._fold(trade, now_ms)

    def _fold(self, trade: Trade, now_ms: int) -> None:
        if self.minutes:
            self.candles.fold(trade, now_ms)

    def _keep_aside(self, trade: Trade) -> None:
        self._aside[trade.n] = trade
        if len(self._aside) > KEPT_ASIDE:
            del self._aside[min(self._aside)]

    def _note_newest(self, trades: list[Trade]) -> None:
        for trade in trades:
            self.newest_timestamp = max(self.newest_timestamp, trade.timestamp)


def _before_the_first(n: int) -> int:
    """What comes before a token's first trade, of any of its trades' `n`."""
    return (n - 1) // TRADES_A_MINUTE * TRADES_A_MINUTE
