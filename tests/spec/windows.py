"""The windows of one partition in the plainest code that is right: records in, numbers out.

Three parts are kept apart: the clock (`advance` moves now), the assignment (`windows_back`: which
minute is in which window), and the fold (`Bucket`). Only the buckets are kept: a window is merged
from them whenever it is read, so no running sum can drift. Which records count was decided before;
every decision here depends on the log and on the `now` that the caller gives, never on a machine's
clock. The compiled engine is tested against this one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import (
    PreviousWindow,
    Quality,
    TokenStats,
    WindowStats,
    change_pct,
    decimal_text,
    token_text,
    usd_text,
    vwap_text,
)
from aggregator.contracts.swaps import TRADES_A_MINUTE
from aggregator.contracts.units import MINUTE_MS, minute_of
from aggregator.contracts.verdict import Verdict
from tests.spec.bucket import Bucket, Point
from tests.spec.state import TokenState

_COUNTERS = (Verdict.LATE, Verdict.DUPLICATE)

Trade = tuple[str, int, int, int, int | None]
"""(token_id, offset, `n`, timestamp, usd_micros) of a trade or of what a retraction took out."""


def windows_back(minute: int, now_minute: int, length: int) -> int:
    """Return 0 in the window of `length` minutes, 1 in the previous window, 2 in neither."""
    return min((now_minute - minute) // length, 2)


class ReferenceWindows:
    """The state of one partition under one epoch.

    `windows` are (name, minutes). `history_from` (ms) is the instant from which every event that
    counts is known to be here, None while that is not known. Buckets are kept for twice the longest
    window, since each window is shown beside the one before it.

    `apply` takes the records in log order; `advance` may come at any time between calls.
    """

    def __init__(
        self,
        *,
        partition: int,
        windows: Sequence[tuple[str, int]],
        now_ms: int,
        history_from: int | None = None,
    ) -> None:
        self.partition = partition
        self.counts = dict.fromkeys(Verdict, 0)
        self.history_from = history_from
        self._windows = tuple(windows)
        self._kept = 2 * max(minutes for _, minutes in windows)
        self._now_ms = now_ms
        self._minute = minute_of(now_ms)
        self._covered = self._coverage()
        self._tokens: dict[str, TokenState] = {}
        self._by_minute: dict[int, set[str]] = {}
        self._held: dict[int, list[tuple[Swap, int, Verdict, Swap | None]]] = {}
        self._dirty: dict[str, None] = {}
        self._applied: list[Trade] = []

    @property
    def now_ms(self) -> int:
        """The instant that the windows end at."""
        return self._now_ms

    @property
    def token_count(self) -> int:
        """Tokens held."""
        return len(self._tokens)

    @property
    def bucket_count(self) -> int:
        """Minute buckets held, over all tokens."""
        return sum(len(token_ids) for token_ids in self._by_minute.values())

    def apply(
        self,
        swaps: Sequence[Swap | None],
        offsets: Sequence[int],
        letters: str,
        undone: Mapping[int, Swap],
    ) -> None:
        """Do what was decided of records, in log order; one letter of `Verdict` a record.

        A record that is no swap is None. `undone` are the swaps that retractions take out, as they
        were counted, by the index of the retraction. A change of a future minute is held until
        `advance` begins that minute.
        """
        for place, (swap, offset, letter) in enumerate(zip(swaps, offsets, letters, strict=True)):
            verdict = Verdict(letter)
            self.counts[verdict] += 1
            if verdict in (Verdict.COUNTED, Verdict.PROMOTED, Verdict.UNDONE, *_COUNTERS):
                assert swap is not None
                self._decided(swap, offset, verdict, undone.get(place))

    def _decided(self, swap: Swap, offset: int, verdict: Verdict, undone: Swap | None) -> None:
        changed = undone if verdict is Verdict.UNDONE else swap
        if changed is not None and verdict not in _COUNTERS:
            self._assign_trade_number(changed, offset)
            if minute_of(changed.timestamp) > self._minute:
                held = self._held.setdefault(minute_of(changed.timestamp), [])
                held.append((swap, offset, verdict, undone))
                return
        self._apply(swap, offset, verdict, undone)

    def _state(self, swap: Swap) -> TokenState:
        state = self._tokens.get(swap.token_id)
        if state is None:
            state = self._tokens[swap.token_id] = TokenState(swap)
        return state

    def _assign_trade_number(self, swap: Swap, offset: int) -> None:
        """Give the trade its `n`, which depends on the log alone, not on when its minute begins."""
        state = self._state(swap)
        state.trades = 1 + (state.trades or minute_of(swap.timestamp) * TRADES_A_MINUTE)
        self._applied.append((swap.token_id, offset, state.trades, swap.timestamp, swap.usd_micros))

    def _apply(self, swap: Swap, offset: int, verdict: Verdict, undone: Swap | None) -> None:
        state = self._state(swap)
        state.touched = max(self._minute, 1)
        self._dirty[swap.token_id] = None
        if verdict is Verdict.DUPLICATE:
            state.duplicates += 1
        elif verdict is Verdict.LATE:
            state.late += 1
        elif verdict is Verdict.UNDONE:
            state.retracted += 1
            if undone is not None:
                self._undo(state, undone)
        else:
            self._count(state, swap, offset)

    def _count(self, state: TokenState, swap: Swap, offset: int) -> None:
        state.note_counted(swap, offset)
        if swap.usd_micros is None:
            state.unpriced += 1
        minute = minute_of(swap.timestamp)
        if minute <= self._minute - self._kept:
            return
        self._by_minute.setdefault(minute, set()).add(swap.token_id)
        state.buckets.setdefault(minute, Bucket()).add(swap, offset)

    def _undo(self, state: TokenState, swap: Swap) -> None:
        if swap.usd_micros is None:
            # A token that was forgotten and came back does not know of the swap any more.
            state.unpriced = max(0, state.unpriced - 1)
        bucket = state.buckets.get(minute_of(swap.timestamp))
        if bucket is not None:
            bucket.remove(swap)

    def advance(self, now_ms: int) -> None:
        """Move now forward: minutes begin, and buckets move from window to window and out.

        A clock that was set back changes nothing. Every token whose numbers change is marked dirty.
        """
        self._now_ms = max(self._now_ms, now_ms)
        before, self._minute = self._minute, minute_of(self._now_ms)
        if self._minute != before:
            self._mark_moved(before)
            self._apply_held()
            self._evict()
        covered = self._coverage()
        if covered != self._covered:
            self._covered = covered
            self._dirty.update(dict.fromkeys(self._tokens))

    def _mark_moved(self, before: int) -> None:
        for minute, token_ids in self._by_minute.items():
            if any(
                windows_back(minute, before, length) != windows_back(minute, self._minute, length)
                for _, length in self._windows
            ):
                self._dirty.update(dict.fromkeys(token_ids))

    def _apply_held(self) -> None:
        for minute in sorted(minute for minute in self._held if minute <= self._minute):
            for held in self._held.pop(minute):
                self._apply(*held)

    def _evict(self) -> None:
        oldest = self._minute - self._kept + 1
        for minute in [minute for minute in self._by_minute if minute < oldest]:
            for token_id in self._by_minute.pop(minute):
                del self._tokens[token_id].buckets[minute]

    def take_dirty(self) -> list[str]:
        """Return the tokens whose numbers changed since the last call."""
        dirty = list(self._dirty)
        self._dirty.clear()
        return dirty

    def take_trades(self) -> list[Trade]:
        """Return the trades applied since the last call, in order."""
        applied, self._applied = self._applied, []
        return applied

    def forget_idle(self) -> list[str]:
        """Drop the tokens without a bucket that had no record for as long; return their ids.

        Late and duplicate swaps make no bucket, but their counts are shown for as long. A token
        that has swaps of future minutes stays.
        """
        waiting = {swap.token_id for held in self._held.values() for swap, *_ in held}
        oldest = self._minute - self._kept + 1
        idle = [
            token_id
            for token_id, state in self._tokens.items()
            if not state.buckets and 0 < state.touched < oldest
            if token_id not in self._dirty and token_id not in waiting
        ]
        for token_id in idle:
            del self._tokens[token_id]
        return idle

    def token_ids(self) -> Iterable[str]:
        """Return every token that has numbers; one with swaps of future minutes alone has none."""
        return [token_id for token_id, state in self._tokens.items() if state.touched]

    def stats(
        self, token_id: str, *, epoch: int, seq: int, next_offset: int, watermark: int | None = None
    ) -> TokenStats:
        """Return the numbers of one token at `now_ms`. Raises KeyError where it is not held."""
        state = self._tokens[token_id]
        return TokenStats(
            token_id=token_id,
            chain=state.chain,
            token=state.token,
            symbol=state.symbol,
            partition=self.partition,
            epoch=epoch,
            seq=seq,
            next_offset=next_offset,
            as_of=self._now_ms,
            watermark=watermark,
            stale=False,
            last_price_usd=_text(_price(state.last_price)),
            last_trade_at=state.last_trade_at,
            quality=Quality(state.unpriced, state.duplicates, state.late, state.retracted),
            windows={name: self._window(state, minutes) for name, minutes in self._windows},
        )

    def _window(self, state: TokenState, minutes: int) -> WindowStats:
        first, last = self._minute - minutes + 1, self._minute
        sums = state.between(first, last)
        traders, buyers, sellers = sums.distinct()
        opened, closed = _price(sums.opened), _price(sums.closed)
        return WindowStats(
            open_time=first * MINUTE_MS,
            close_time=(last + 1) * MINUTE_MS,
            complete=self._covers(first),
            trades=sums.trades,
            buys=sums.buys,
            sells=sums.trades - sums.buys,
            traders=traders,
            buyers=buyers,
            sellers=sellers,
            volume_usd=usd_text(sums.volume),
            buy_volume_usd=usd_text(sums.buy_volume),
            sell_volume_usd=usd_text(sums.volume - sums.buy_volume),
            net_volume_usd=usd_text(2 * sums.buy_volume - sums.volume),
            volume_token=token_text(sums.amount),
            open_usd=_text(opened),
            high_usd=_text(sums.high),
            low_usd=_text(sums.low),
            close_usd=_text(closed),
            vwap_usd=vwap_text(sums.volume, sums.amount),
            price_change_pct=change_pct(opened, closed),
            largest_trade_usd=None if sums.largest is None else usd_text(sums.largest),
            previous=self._previous(state, first - minutes, first - 1),
            approximate=sums.retracted,
        )

    def _previous(self, state: TokenState, first: int, last: int) -> PreviousWindow | None:
        if not self._covers(first):
            return None
        sums = state.between(first, last)
        return PreviousWindow(
            volume_usd=usd_text(sums.volume),
            trades=sums.trades,
            price_change_pct=change_pct(_price(sums.opened), _price(sums.closed)),
        )

    def _covers(self, minute: int) -> bool:
        """Whether the history reaches back to the first ms of the minute."""
        return self.history_from is not None and self.history_from <= minute * MINUTE_MS

    def _coverage(self) -> list[bool]:
        """Return for each window whether the history covers it, and the window before it."""
        return [
            self._covers(self._minute - reach + 1)
            for _, minutes in self._windows
            for reach in (minutes, 2 * minutes)
        ]


def _price(point: Point | None) -> float | None:
    return None if point is None else point[-1]


def _text(price: float | None) -> str | None:
    return None if price is None else decimal_text(price)
