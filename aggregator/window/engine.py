"""The windows of one partition: records in, the numbers of each token out.

Three parts kept apart: the clock (`observe` moves the watermark, `advance` moves now), the
assignment (`bucket.py`: which minute, which window), the fold (`Bucket`, `RollingSums`). What is
decided here depends on the log and on the `now` that the caller gives, never on a machine's clock.
An event costs O(1), a passing minute costs O(buckets that enter or leave a window). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import (
    PCT_DIGITS,
    Quality,
    TokenStats,
    WindowStats,
    decimal_text,
    token_text,
    usd_text,
)
from aggregator.contracts.verdict import Verdict
from aggregator.window.bucket import MINUTE_MS, is_closed, minute_of
from aggregator.window.state import TokenState


class PartitionWindows:
    """The state of one partition under one epoch.

    `windows` are (name, minutes), `grace_ms` and `max_future_ms` as in the settings. `history_from`
    (ms) is the instant from which every event is known to be here; None when the log was read from
    its very first record: then it is the earliest event counted.

    Call order for each batch: `observe` every record in log order, have the markers decide, `apply`
    every decoded record in log order. `advance` at any time between batches.
    """

    def __init__(
        self,
        *,
        partition: int,
        windows: Sequence[tuple[str, int]],
        grace_ms: int,
        max_future_ms: int,
        now_ms: int,
        history_from: int | None = None,
    ) -> None:
        self.partition = partition
        self.watermark: int | None = None
        self.counts = dict.fromkeys(Verdict, 0)
        self._windows = tuple(windows)
        self._longest = max(minutes for _, minutes in windows)
        self._grace_ms = grace_ms
        self._max_future_ms = max_future_ms
        self._now_ms = now_ms
        self._minute = minute_of(now_ms)
        self.history_from = history_from
        self._earliest_counted: int | None = None
        self._tokens: dict[str, TokenState] = {}
        self._by_minute: dict[int, list[TokenState]] = {}
        self._dirty: dict[str, None] = {}
        self._bucketless: dict[str, None] = {}

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
        return sum(len(states) for states in self._by_minute.values())

    def observe(self, timestamp: int, record_timestamp: int) -> bool:
        """Take note of a record's times (ms); whether its bucket was closed before it (late).

        Every decoded record passes here, duplicates and retractions too, in log order.
        """
        watermark = self.watermark
        late = watermark is not None and is_closed(minute_of(timestamp), watermark, self._grace_ms)
        newest = min(timestamp, record_timestamp + self._max_future_ms)
        if watermark is None or newest > watermark:
            self.watermark = newest
        return late

    def apply(self, swap: Swap, offset: int, verdict: Verdict) -> None:
        """Do what the markers decided of the record at `offset`."""
        self.counts[verdict] += 1
        state = self._tokens.get(swap.token_id)
        if state is None:
            state = self._tokens[swap.token_id] = TokenState(swap, len(self._windows))
            self._bucketless[swap.token_id] = None
        self._dirty[swap.token_id] = None
        if verdict is Verdict.COUNTED:
            self._count(state, swap, offset)
        elif verdict is Verdict.DUPLICATE:
            state.duplicates += 1
        elif verdict is Verdict.LATE:
            state.late += 1
        elif verdict is Verdict.UNDONE:
            self._undo(state, swap)

    def _count(self, state: TokenState, swap: Swap, offset: int) -> None:
        state.note_counted(swap, offset)
        if swap.usd_micros is None:
            state.unpriced += 1
        if self._earliest_counted is None or swap.timestamp < self._earliest_counted:
            self._earliest_counted = swap.timestamp
        minute = minute_of(swap.timestamp)
        if minute <= self._minute - self._longest:
            return
        bucket, made = state.bucket(minute)
        if made:
            self._by_minute.setdefault(minute, []).append(state)
            self._bucketless.pop(swap.token_id, None)
        bucket.add(swap, offset)
        for (_, minutes), sums in zip(self._windows, state.windows, strict=True):
            if self._minute - minutes < minute <= self._minute:
                sums.add(swap)

    def _undo(self, state: TokenState, swap: Swap) -> None:
        state.retracted += 1
        if swap.usd_micros is None:
            state.unpriced -= 1
        minute = minute_of(swap.timestamp)
        bucket = state.buckets.get(minute)
        if bucket is None:
            return
        bucket.remove(swap)
        for (_, minutes), sums in zip(self._windows, state.windows, strict=True):
            if self._minute - minutes < minute <= self._minute:
                sums.remove(swap)

    def advance(self, now_ms: int) -> None:
        """Move now forward: buckets enter and leave the windows. A clock set back changes nothing.

        A token that has no bucket left is marked dirty once more, and forgotten by the next
        `forget_idle`.
        """
        self._now_ms = max(self._now_ms, now_ms)
        minute = minute_of(self._now_ms)
        if minute == self._minute:
            return
        if minute - self._minute > self._longest:
            self._jump(minute)
            return
        while self._minute < minute:
            self._minute += 1
            self._step()

    def _step(self) -> None:
        """One minute has begun: its buckets enter, those that are W old leave window W."""
        for state in self._by_minute.get(self._minute, ()):
            self._dirty[state.token_id] = None
            for sums in state.windows:
                sums.enter(state.buckets[self._minute])
        for index, (_, minutes) in enumerate(self._windows):
            gone = self._minute - minutes
            for state in self._by_minute.get(gone, ()):
                self._dirty[state.token_id] = None
                state.windows[index].leave(state.buckets[gone])
        self._evict(self._minute - self._longest)

    def _jump(self, minute: int) -> None:
        """More than the longest window has passed at once: cheaper to build the windows anew."""
        self._minute = minute
        for old in [old for old in self._by_minute if old <= minute - self._longest]:
            self._evict(old)
        for state in self._tokens.values():
            self._dirty[state.token_id] = None
            state.windows = [type(sums)() for sums in state.windows]
            for (_, minutes), sums in zip(self._windows, state.windows, strict=True):
                for bucket in state.between(minute - minutes + 1, minute):
                    sums.enter(bucket)

    def _evict(self, minute: int) -> None:
        for state in self._by_minute.pop(minute, ()):
            state.evict(minute)
            self._dirty[state.token_id] = None
            if not state.buckets:
                self._bucketless[state.token_id] = None

    def take_dirty(self) -> list[str]:
        """The tokens whose numbers changed since the last call."""
        dirty = list(self._dirty)
        self._dirty.clear()
        return dirty

    def forget_idle(self) -> list[str]:
        """Drop the tokens that have no bucket left; their ids.

        Call it after the dirty tokens were published: the last patch of an idle token shows empty
        windows, and whoever sees that may drop it too.
        """
        idle = [token_id for token_id in self._bucketless if token_id not in self._dirty]
        for token_id in idle:
            del self._tokens[token_id]
            del self._bucketless[token_id]
        return idle

    def is_idle(self, token_id: str) -> bool:
        """Whether a token has no bucket left, so that nothing of it is in any window."""
        return token_id in self._bucketless

    def token_ids(self) -> Iterable[str]:
        """Every token held."""
        return self._tokens.keys()

    def stats(self, token_id: str, *, epoch: int, seq: int, next_offset: int) -> TokenStats:
        """The numbers of one token at `now_ms`. Raises KeyError for a token that is not held."""
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
            watermark=self.watermark,
            stale=False,
            last_price_usd=None if state.last_price is None else decimal_text(state.last_price[2]),
            last_trade_at=state.last_trade_at,
            quality=Quality(state.unpriced, state.duplicates, state.late, state.retracted),
            windows={
                name: self._window_stats(state, index, minutes)
                for index, (name, minutes) in enumerate(self._windows)
            },
        )

    def _window_stats(self, state: TokenState, index: int, minutes: int) -> WindowStats:
        sums = state.windows[index]
        first, last = self._minute - minutes + 1, self._minute
        if sums.extremes_stale:
            sums.refresh_extremes(state.between(first, last))
        opened, closed = state.opened(first, last), state.closed(first, last)
        open_time = first * MINUTE_MS
        return WindowStats(
            open_time=open_time,
            close_time=(last + 1) * MINUTE_MS,
            complete=self._complete_from(open_time),
            trades=sums.trades,
            buys=sums.buys,
            sells=sums.trades - sums.buys,
            volume_usd=usd_text(sums.volume),
            buy_volume_usd=usd_text(sums.buy_volume),
            sell_volume_usd=usd_text(sums.volume - sums.buy_volume),
            net_volume_usd=usd_text(2 * sums.buy_volume - sums.volume),
            volume_token=token_text(sums.amount),
            open_usd=_price_text(opened),
            high_usd=_price_text(sums.high),
            low_usd=_price_text(sums.low),
            close_usd=_price_text(closed),
            vwap_usd=_vwap_text(sums.volume, sums.amount),
            price_change_pct=_change_pct(opened, closed),
        )

    def _complete_from(self, open_time: int) -> bool:
        since = self.history_from if self.history_from is not None else self._earliest_counted
        return since is not None and since <= open_time


def _price_text(price: float | None) -> str | None:
    return None if price is None else decimal_text(price)


def _vwap_text(volume_micros: int, amount_attos: int) -> str | None:
    """volume_usd / volume_token; int / int is correctly rounded in Python at any size."""
    if amount_attos == 0 or volume_micros == 0:
        return None
    return decimal_text(volume_micros * 10**12 / amount_attos)


def _change_pct(opened: float | None, closed: float | None) -> float | None:
    if opened is None or closed is None:
        return None
    return round((closed - opened) / opened * 100, PCT_DIGITS)
