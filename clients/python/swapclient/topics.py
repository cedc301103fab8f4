"""Topics, and the cursors that deduplicate their messages.

Pure. A cursor takes the messages of one topic, in any order and with the repeats of reconnects, and
returns each change once. It also knows where to resume after a lost connection.
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

# If numbers of an older epoch are this much younger, the service has lost its state and counts
# epochs from the start again.
RESTARTED_AFTER_MS: Final = 10_000
# The number of a token's first trade is one above a multiple of this.
FIRST_N_STEP: Final = 2**20


class Topic(NamedTuple):
    """A subscribable topic; `query` is the overview's parameters in canonical JSON."""

    channel: str
    token: str | None = None
    interval: str | None = None
    query: str | None = None


class Cursor(Protocol):
    """The newest state of one topic that a reader has received."""

    def take(self, message: Message) -> list[Event]:
        """Return the events for what is new in the message."""

    def resume(self) -> dict[str, int] | None:
        """Return the `resume` to subscribe with; None requests a snapshot."""


class StatsCursor:
    """Absolute numbers: yields the highest (epoch, seq), and the same again if fields differ."""

    def __init__(self) -> None:
        self._last: TokenStats | None = None
        self._gave_empty = False

    def take(self, message: Message) -> list[Event]:
        """Return one update if the message is newer."""
        token, snapshot = message.token or "", message.type == "snapshot"
        if bytes(message.data) == b"null":
            fresh = not self._gave_empty
            self._gave_empty = True
            return [StatsUpdate(token, snapshot, None)] if fresh else []
        stats = read_data(message, TokenStats)
        if not self._is_news(stats):
            return []
        self._last, self._gave_empty = stats, False
        return [StatsUpdate(token, snapshot, stats)]

    def _is_news(self, stats: TokenStats) -> bool:
        last = self._last
        if last is None:
            return True
        here, there = (stats.epoch, stats.seq), (last.epoch, last.seq)
        if here == there:
            # Staleness and the operators' fields change without a new seq.
            return self._gave_empty or stats != last
        return here > there or stats.as_of >= last.as_of + RESTARTED_AFTER_MS

    def resume(self) -> dict[str, int] | None:
        """Return (epoch, seq); None if the row was stale, to learn that it is fresh again."""
        last = self._last
        if last is None or last.stale or self._gave_empty:
            return None
        return {"epoch": last.epoch, "seq": last.seq}


def _before_the_first(n: int) -> int:
    """Return the number before a token's first trade, given the `n` of any of its trades."""
    return (n - 1) // FIRST_N_STEP * FIRST_N_STEP


class TradesCursor:
    """A stream: yields each `n` once and in order; missing numbers become a Gap."""

    def __init__(self) -> None:
        self._n: int | None = None
        self._offset: int | None = None

    def take(self, message: Message) -> list[Event]:
        """Return the new trades, preceded by a Gap if some are missing."""
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
        # A gap without an end does not move the cursor: the next trades show where it ends.
        if to_n is not None:
            self._n, self._offset = to_n, None
        return [Gap(token, from_n, to_n, False, "service")]

    def _began_again(self, trades: list[Trade]) -> bool:
        """Return whether the service restarted the numbers `n`."""
        if not trades or self._n is None:
            return False
        return trades[-1].n < self._n or any(
            each.n == self._n and self._offset not in {None, each.offset} for each in trades
        )

    def resume(self) -> dict[str, int] | None:
        """Return the last `n`, and its offset if known."""
        if self._n is None:
            return None
        return {"n": self._n} | ({} if self._offset is None else {"offset": self._offset})


class CandlesCursor:
    """Absolute candles; a snapshot replaces everything and is always an update."""

    def __init__(self) -> None:
        self._at = (0, 0)

    def take(self, message: Message) -> list[Event]:
        """Return one update unless the message is older than the last one."""
        at, snapshot = (message.epoch, message.seq), message.type == "snapshot"
        if not snapshot and at < self._at:
            return []
        self._at = at
        candles = read_data(message, Candles).candles
        token, interval = message.token or "", message.interval or ""
        return [CandlesUpdate(token, interval, snapshot, *at, candles)]

    def resume(self) -> None:
        """Return None: the channel cannot resume."""


class OverviewCursor:
    """Absolute: yields the newest `as_of`."""

    def __init__(self) -> None:
        self._as_of = 0

    def take(self, message: Message) -> list[Event]:
        """Return one update unless the message comes from a node with slightly older numbers."""
        overview = read_data(message, Overview)
        as_of = overview.as_of or 0
        if self._as_of - RESTARTED_AFTER_MS < as_of < self._as_of:
            return []
        self._as_of = as_of
        return [OverviewUpdate(message.params or {}, message.type == "snapshot", overview)]

    def resume(self) -> None:
        """Return None: the channel cannot resume."""


class StatusCursor:
    """Absolute: every message is an update."""

    def take(self, message: Message) -> list[Event]:
        """Return one update."""
        status = read_data(message, Status)
        return [StatusUpdate(message.as_of, message.type == "snapshot", status)]

    def resume(self) -> None:
        """Return None: the channel cannot resume."""


CURSORS: Final[dict[str, type[Any]]] = {
    "token_stats": StatsCursor,
    "trades": TradesCursor,
    "candles": CandlesCursor,
    "overview": OverviewCursor,
    "status": StatusCursor,
}
