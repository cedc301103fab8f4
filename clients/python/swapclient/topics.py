"""What a subscription is of, and what a reader has of it already.

Pure. A cursor takes the messages of one topic, in any order and as often as a reconnect repeats
them, and gives each change once; it knows what to ask for when the connection is lost.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple, Protocol

from swapclient.events import (
    CandlesUpdate,
    Event,
    Gap,
    OverviewUpdate,
    StatsUpdate,
    StatusUpdate,
    TradesUpdate,
)
from swapclient.messages import (
    Candles,
    Message,
    Missing,
    Overview,
    Status,
    TokenStats,
    Trade,
    Trades,
    read_data,
)

# Numbers of an older epoch that are this much younger are no stragglers: the service has lost its
# state and counts epochs from the start again.
RESTARTED_AFTER_MS: Final = 10_000
# A token's first trade has a number one above a multiple of this.
FIRST_N_STEP: Final = 2**20


class Topic(NamedTuple):
    """One thing to be subscribed to; `query` is the overview's parameters in canonical JSON."""

    channel: str
    token: str | None = None
    interval: str | None = None
    query: str | None = None


class Cursor(Protocol):
    """What a reader has of one topic."""

    def take(self, message: Message) -> list[Event]:
        """What the message tells that is new."""

    def resume(self) -> dict[str, int] | None:
        """The `resume` to subscribe with; None asks for a snapshot."""


class StatsCursor:
    """Absolute numbers: the highest (epoch, seq), again where it reads otherwise."""

    def __init__(self) -> None:
        self._last: TokenStats | None = None
        self._told_empty = False

    def take(self, message: Message) -> list[Event]:
        """One update, unless it is not newer."""
        token, snapshot = message.token or "", message.type == "snapshot"
        if bytes(message.data) == b"null":
            fresh = not self._told_empty
            self._told_empty = True
            return [StatsUpdate(token, snapshot, None)] if fresh else []
        stats = read_data(message, TokenStats)
        if not self._is_news(stats):
            return []
        self._last, self._told_empty = stats, False
        return [StatsUpdate(token, snapshot, stats)]

    def _is_news(self, stats: TokenStats) -> bool:
        last = self._last
        if last is None:
            return True
        here, there = (stats.epoch, stats.seq), (last.epoch, last.seq)
        if here == there:
            # Staleness, and what operators say of a token, change without a new seq.
            return self._told_empty or stats != last
        return here > there or stats.as_of >= last.as_of + RESTARTED_AFTER_MS

    def resume(self) -> dict[str, int] | None:
        """Nothing to go on from where the row was stale: that it is fresh again must be told."""
        last = self._last
        if last is None or last.stale or self._told_empty:
            return None
        return {"epoch": last.epoch, "seq": last.seq}


def _before_the_first(n: int) -> int:
    """What comes before a token's first trade, of any of its trades' `n`."""
    return (n - 1) // FIRST_N_STEP * FIRST_N_STEP


class TradesCursor:
    """A stream: each `n` once and in order; what is left out becomes a Gap."""

    def __init__(self) -> None:
        self._n: int | None = None
        self._offset: int | None = None

    def take(self, message: Message) -> list[Event]:
        """New trades, and before them what is missing."""
        token = message.token or ""
        if message.type == "gap":
            return self._gap(token, read_data(message, Missing))
        data = read_data(message, Trades)
        trades = data.trades
        snapshot = message.type == "snapshot"
        events: list[Event] = []
        first = self._n is None
        if self._n is not None and snapshot and self._began_again(trades):
            events.append(Gap(token, self._n + 1, None, True, "service"))
            self._n, first = None, True
        known = self._n
        fresh = trades if known is None else [each for each in trades if each.n > known]
        following = fresh[0].n if fresh else (data.n or 0) + 1
        if known is not None:
            expected = (known or _before_the_first(following)) + 1
            if following > expected:
                events.append(Gap(token, expected, following - 1, False, "connection"))
        if fresh:
            self._n, self._offset = fresh[-1].n, fresh[-1].offset
        elif data.n is not None and (known is None or data.n > known):
            self._n, self._offset = data.n, None
        if fresh or (snapshot and first):
            events.append(TradesUpdate(token, snapshot and first, fresh))
        return events

    def _gap(self, token: str, missing: Missing) -> list[Event]:
        from_n, to_n = missing.from_n, missing.to_n
        if missing.restarted:
            self._n = self._offset = None
            return [Gap(token, from_n, to_n, True, "service")]
        if self._n is not None:
            if to_n is not None and to_n <= self._n:
                return []
            from_n = max(from_n, self._n + 1)
        # Without its end the gap is not passed: what comes next shows how far it went.
        if to_n is not None:
            self._n, self._offset = to_n, None
        return [Gap(token, from_n, to_n, False, "service")]

    def _began_again(self, trades: list[Trade]) -> bool:
        """Whether these `n` are others than those that are held."""
        if not trades or self._n is None:
            return False
        return trades[-1].n < self._n or any(
            each.n == self._n and self._offset not in {None, each.offset} for each in trades
        )

    def resume(self) -> dict[str, int] | None:
        """The last `n`, and its offset where that is known."""
        if self._n is None:
            return None
        return {"n": self._n} | ({} if self._offset is None else {"offset": self._offset})


class CandlesCursor:
    """Absolute candles; a snapshot replaces everything and is always told."""

    def __init__(self) -> None:
        self._at = (0, 0)

    def take(self, message: Message) -> list[Event]:
        """One update, unless it is older than what is held."""
        at, snapshot = (message.epoch, message.seq), message.type == "snapshot"
        if not snapshot and at < self._at:
            return []
        self._at = at
        candles = read_data(message, Candles).candles
        token, interval = message.token or "", message.interval or ""
        return [CandlesUpdate(token, interval, snapshot, *at, candles)]

    def resume(self) -> None:
        """The channel has none."""


class OverviewCursor:
    """Absolute; the newest `as_of`."""

    def __init__(self) -> None:
        self._as_of = 0

    def take(self, message: Message) -> list[Event]:
        """One update, unless it is of a node that is a moment behind."""
        overview = read_data(message, Overview)
        as_of = overview.as_of or 0
        if self._as_of - RESTARTED_AFTER_MS < as_of < self._as_of:
            return []
        self._as_of = as_of
        return [OverviewUpdate(message.params or {}, message.type == "snapshot", overview)]

    def resume(self) -> None:
        """The channel has none."""


class StatusCursor:
    """Always told."""

    def take(self, message: Message) -> list[Event]:
        """One update."""
        status = read_data(message, Status)
        return [StatusUpdate(message.as_of, message.type == "snapshot", status)]

    def resume(self) -> None:
        """The channel has none."""


CURSORS: Final[dict[str, type[Any]]] = {
    "token_stats": StatsCursor,
    "trades": TradesCursor,
    "candles": CandlesCursor,
    "overview": OverviewCursor,
    "status": StatusCursor,
}
