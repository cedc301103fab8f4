"""The window engine: one partition's windows, kept in columns and counted by compiled loops.

`tests/spec/windows.py` specifies it in plain Python. It differs from the specification in one
thing: after a retraction the distinct traders of the bucket stay as they were, as its prices do,
and the windows that hold the bucket say `approximate`. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import SwapBatch, batch_of
from aggregator.contracts.event import Swap
from aggregator.contracts.stats import TokenStats
from aggregator.contracts.units import MINUTE_MS, minute_of
from aggregator.contracts.verdict import Verdict
from aggregator.windows import kernels
from aggregator.windows.columns import (
    DIRTY,
    EARLIEST,
    NONE,
    PAIR,
    PAIRS_USED,
    ROWS_FREE,
    TOKEN,
    fresh_token,
    fresh_window,
    new_columns,
    with_room,
)
from aggregator.windows.minutes import TokenMinutes, minute_rows
from aggregator.windows.rows import RowOrigin, WindowEdges, render_rows
from aggregator.windows.snapshot import EngineSnapshot, HeldSwap, Name, Saver, TokenPart, read

# The verdicts that change a bucket, and therefore wait for a minute that has not begun.
_HELD: Final = [ord(Verdict.COUNTED.value), ord(Verdict.UNDONE.value)]


class _Numbers(dict[str | None, int]):
    """Maps names to numbers; `new` numbers a name that is not known yet, None is `of_none`."""

    def __init__(self, new: Callable[[str], int], of_none: int | None = None) -> None:
        super().__init__()
        self._new = new
        self._of_none = of_none

    def __missing__(self, name: str | None) -> int:
        if name is None:
            assert self._of_none is not None
            return self._of_none
        number = self[name] = self._new(name)
        return number


class ColumnarWindows:
    """The windows of one partition under one epoch.

    `windows` are (name, minutes), `grace_ms` and `max_future_ms` as in the settings. `history_from`
    (ms) is the instant from which every event is known to be here; None when the log was read from
    its first record: then it is the earliest event counted. Buckets are kept for twice the longest
    window, since each window is shown beside the one before it.

    Call order for each batch: `observe` every record in log order, have the markers decide, `apply`
    every decoded record in log order. `advance` may come at any time between batches. Not
    thread-safe.
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
        self.counts = dict.fromkeys(Verdict, 0)
        self.history_from = history_from
        self._windows = tuple(sorted(windows, key=itemgetter(1)))
        self._spans = np.array([minutes for _, minutes in self._windows], np.int64)
        self._longest = int(self._spans[-1])
        self._rules = np.array([grace_ms, max_future_ms], np.int64)
        self._watermark = NONE
        self._now_ms = now_ms
        self._minute = minute_of(now_ms)
        # Rows are kept for twice the longest window; while a minute begins, its oldest and the new
        # one are both there.
        self._columns = new_columns(len(windows), 2 * self._longest + 2)
        self._names: list[Name | None] = []
        self._index = _Numbers(self._new_token)
        self._free_tokens: list[int] = []
        self._symbols: list[str] = []
        self._symbol_index = _Numbers(self._new_symbol, of_none=NONE)
        self._held: list[HeldSwap] = []
        self._applied: list[SwapBatch] = []
        self._covered = self._coverage()
        self._saver = Saver(self._spans.tolist(), grace_ms)

    @property
    def watermark(self) -> int | None:
        """The newest event time seen, ms."""
        return None if self._watermark == NONE else self._watermark

    @property
    def now_ms(self) -> int:
        """The instant that the windows end at."""
        return self._now_ms

    @property
    def token_count(self) -> int:
        """Tokens held."""
        return len(self._index)

    @property
    def bucket_count(self) -> int:
        """Minute buckets held, over all tokens."""
        return len(self._columns.rows) - int(self._columns.counts[ROWS_FREE])

    @property
    def memory_bytes(self) -> int:
        """Bytes of the columns, without names and symbols."""
        return sum(array.nbytes for array in self._columns)

    def observe(
        self, timestamps: Sequence[int] | Array, record_timestamps: Sequence[int] | Array
    ) -> list[bool]:
        """Move the watermark over records (times in ms) in log order; return which are late."""
        late = np.zeros(len(timestamps), np.bool_)
        self._watermark = int(
            kernels.observe(
                np.array(timestamps, np.int64),
                np.array(record_timestamps, np.int64),
                self._rules,
                self._watermark,
                late,
            )
        )
        flags: list[bool] = late.tolist()
        return flags

    def apply(self, swaps: Sequence[Swap], offsets: Sequence[int], verdicts: str) -> None:
        """Apply swaps that were decoded one by one; see `apply_batch`."""
        self.apply_batch(batch_of(swaps, offsets), verdicts)

    def apply_batch(self, batch: SwapBatch, verdicts: str) -> None:
        """Do what the markers decided of records, in log order; one letter of `Verdict` a swap."""
        for verdict in Verdict:
            self.counts[verdict] += verdicts.count(verdict)
        if len(batch):
            self._name(batch, verdicts)
            kernels.assign_trade_numbers(self._columns, batch.swaps)
            self._applied.append(batch)
            self._apply(batch, verdicts)

    def _apply(self, batch: SwapBatch, verdicts: str) -> None:
        """Count the swaps of minutes that have begun, hold those of future ones.

        The batch has its token and symbol numbers already.
        """
        swaps = batch.swaps
        newest = (self._minute + 1) * MINUTE_MS
        if swaps["timestamp"].max() >= newest:
            early = (swaps["timestamp"] >= newest) & np.isin(swaps["verdict"], _HELD)
            self._held += [
                HeldSwap(batch.swap(place), batch.offsets[place], verdicts[place])
                for place in np.flatnonzero(early).tolist()
            ]
            swaps = swaps[~early]
        kernels.apply(self._columns, self._spans, swaps, self._minute)

    def take_applied(self) -> list[SwapBatch]:
        """Return the batches applied since the last call, in order, with the `n` of each trade."""
        applied, self._applied = self._applied, []
        return applied

    @property
    def first_minute(self) -> int:
        """The oldest minute that is held."""
        return self._minute - 2 * self._longest + 1

    def minutes(self, token_id: str, since_minute: int = 0) -> TokenMinutes:
        """Return a token's minutes from `since_minute` on, with the swaps of future minutes.

        A token that is not held has no minutes.
        """
        token = self._index.get(token_id)
        if token is None:
            return TokenMinutes(0, self._columns.rows[:0], [])
        return TokenMinutes(
            n=int(self._columns.tokens["trades"][token]),
            rows=minute_rows(self._columns, token, since_minute),
            held=[held for held in self._held if held.swap.token_id == token_id],
        )

    def _name(self, batch: SwapBatch, verdicts: str) -> None:
        """Fill this engine's token and symbol numbers and the verdicts into the batch's swaps."""
        swaps = batch.swaps
        swaps["verdict"] = np.frombuffer(verdicts.encode(), np.uint8)
        # A batch has far fewer names than swaps: each is looked up once.
        met, places = np.unique(batch.names, return_inverse=True)
        known = [batch.token_names[name] for name in met.tolist()]
        tokens = np.array([self._index[name.token_id] for name in known], np.int32)
        symbols = np.array([self._symbol_index[name.symbol] for name in known], np.int32)
        swaps["token"], swaps["symbol"] = tokens[places], symbols[places]
        self._make_room(len(swaps))

    def _new_token(self, token_id: str) -> int:
        chain, _, token = token_id.partition(":")
        if not self._free_tokens:
            self._names.append((token_id, chain, token))
            return len(self._names) - 1
        number = self._free_tokens.pop()
        self._names[number] = (token_id, chain, token)
        return number

    def _new_symbol(self, symbol: str) -> int:
        self._symbols.append(symbol)
        return len(self._symbols) - 1

    def _make_room(self, swaps: int) -> None:
        self._columns = with_room(self._columns, rows=swaps, tokens=len(self._names), entries=swaps)
        # Above 70 % full, probing for a free place takes many steps; a full table would never end.
        used, size = int(self._columns.counts[PAIRS_USED]) + swaps, len(self._columns.pairs)
        if 10 * used > 7 * size:
            self._rehash(swaps)

    def _rehash(self, more: int) -> None:
        """Forget the pairs that no window reaches; with `more` pairs the table is 35 % full."""
        old, oldest = self._columns.pairs, self._minute - self._longest
        alive = int(np.count_nonzero((old["key"] != 0) & (old["seen"] > oldest)))
        size = 1024
        while 35 * size < 100 * (alive + more):
            size *= 2
        new = np.zeros(size, PAIR)
        kernels.rehash(old, new, self._columns.counts, oldest)
        self._columns = self._columns._replace(pairs=new)

    def advance(self, now_ms: int) -> None:
        """Move now forward: minutes begin, and buckets move from window to window and out.

        A clock that was set back changes nothing.
        """
        self._now_ms = max(self._now_ms, now_ms)
        minute = minute_of(self._now_ms)
        if minute != self._minute:
            # After twice the longest window nothing that is held now is left, so a longer leap of
            # the clock takes no more steps.
            for _ in range(min(minute - self._minute, 2 * self._longest)):
                self._minute += 1
                kernels.begin_minute(self._columns, self._spans, self._minute)
            self._minute = minute
            self._apply_held()
        covered = self._coverage()
        if covered != self._covered:
            self._covered = covered
            self._mark_all_dirty()

    def _coverage(self) -> list[bool]:
        """Return for each window whether the history covers it, and the window before it."""
        return [
            self._complete_from((self._minute - reach + 1) * MINUTE_MS)
            for _, span in self._windows
            for reach in (span, 2 * span)
        ]

    def _mark_all_dirty(self) -> None:
        self._make_room(0)
        columns, held = self._columns, np.array(list(self._index.values()), np.int32)
        clean = held[columns.tokens["dirty"][held] == 0]
        columns.tokens["dirty"][clean] = 1
        used = int(columns.counts[DIRTY])
        columns.dirty[used : used + len(clean)] = clean
        columns.counts[DIRTY] = used + len(clean)

    def _apply_held(self) -> None:
        """Count the held swaps whose minute has begun."""
        newest = (self._minute + 1) * MINUTE_MS
        ready = [held for held in self._held if held.swap.timestamp < newest]
        if ready:
            self._held = [held for held in self._held if held.swap.timestamp >= newest]
            batch = batch_of([held.swap for held in ready], [held.offset for held in ready])
            verdicts = "".join(held.verdict for held in ready)
            self._name(batch, verdicts)
            self._apply(batch, verdicts)

    def take_dirty(self) -> list[str]:
        """Return the tokens whose numbers changed since the last call."""
        columns = self._columns
        dirty = columns.dirty[: columns.counts[DIRTY]]
        columns.tokens["dirty"][dirty] = 0
        columns.counts[DIRTY] = 0
        return [name[0] for token in dirty.tolist() if (name := self._names[token]) is not None]

    def forget_idle(self) -> list[str]:
        """Drop the tokens without a bucket that had no record for as long; return their ids.

        A token whose last change is not published yet stays for another call.
        """
        tokens = self._columns.tokens
        oldest = self._minute - 2 * self._longest + 1
        touched = tokens["touched"]
        empty = np.flatnonzero(
            (tokens["first"] == NONE) & (touched > 0) & (touched < oldest) & (tokens["dirty"] == 0)
        )
        idle = []
        for token in empty.tolist():
            name = self._names[token] if token < len(self._names) else None
            if name is not None:
                idle.append(name[0])
                del self._index[name[0]]
                self._names[token] = None
                self._free_tokens.append(token)
                # The number may stand in the list of unsaved tokens still, so its flag must stay.
                unsaved = tokens[token]["unsaved"]
                tokens[token] = fresh_token()
                tokens[token]["unsaved"] = unsaved
                self._columns.windows[token] = fresh_window()
                self._saver.forget(token)
        return idle

    def token_ids(self) -> Iterable[str]:
        """Return every token that has numbers; one with swaps of future minutes alone has none."""
        touched = self._columns.tokens["touched"].tolist()
        return [
            name[0]
            for name, at in zip(self._names, touched, strict=False)
            if name is not None and at > 0
        ]

    def stats(self, token_id: str, *, epoch: int, seq: int, next_offset: int) -> TokenStats:
        """Return the numbers of one token at `now_ms`. Raises KeyError where it is not held."""
        (row,) = self.rows_of([token_id], epoch=epoch, first_seq=seq, next_offset=next_offset)
        return _decode_stats(row)

    def rows_of(
        self,
        token_ids: Sequence[str],
        *,
        epoch: int,
        first_seq: int,
        next_offset: int,
        seq_step: int = 1,
    ) -> list[bytes]:
        """Return the `TokenStats` of each token as JSON.

        The first has the seq `first_seq`, and each further one `seq_step` more. Raises KeyError for
        a token that is not held.
        """
        self._make_room(0)
        return render_rows(
            self._columns,
            self._spans,
            np.array([self._held_token(token_id) for token_id in token_ids], np.int64),
            minute=self._minute,
            names=self._names,
            symbols=self._symbols,
            origin=RowOrigin(
                partition=self.partition,
                epoch=epoch,
                next_offset=next_offset,
                as_of=self._now_ms,
                watermark=self.watermark,
            ),
            edges=[
                WindowEdges(name, span, self._minute, self._complete_from)
                for name, span in self._windows
            ],
            first_seq=first_seq,
            seq_step=seq_step,
        )

    def take_snapshot(self) -> EngineSnapshot:
        """Return what changed since the last call as sections to write and to delete."""
        self._make_room(0)
        return self._saver.snapshot(
            self._columns,
            now=self._minute,
            watermark=self._watermark,
            names=self._names,
            symbols=self._symbols,
            held=self._held,
        )

    def restore(self, sections: Mapping[bytes, bytes], watermark: int | None) -> bool:
        """Load the sections of a snapshot; return False where their format or windows are others.

        The engine must not have seen anything yet. A snapshot made while the clock was ahead lacks
        the minutes that had left the windows by then: `history_from` says so afterwards.
        """
        saved = read(sections, self._spans.tolist())
        if saved is None:
            return False
        if saved.now > self._minute:
            kept_from = (saved.now - 2 * self._longest + 1) * MINUTE_MS
            self.history_from = max(kept_from, saved.earliest)
        self._watermark = NONE if watermark is None else watermark
        self._columns.counts[EARLIEST] = saved.earliest
        for part in saved.tokens():
            self._restore_tokens(part)
        rows, entries = saved.rows_and_entries()
        # A minute that began while the clock was ahead has begun for good: as a future minute it
        # would take the ring place of one of the oldest.
        self._advance_to(int(rows["minute"].max(initial=self._minute)))
        self._columns = with_room(
            self._columns, rows=len(rows), tokens=len(self._names), entries=len(entries)
        )
        # In one step: to load the pairs into a growing table would move each of them many times.
        self._rehash(saved.pairs)
        kernels.load_rows(self._columns, self._spans, rows, self._minute)
        kernels.load_entries(self._columns, self._spans, entries, self._minute)
        self._index.update((name[0], n) for n, name in enumerate(self._names) if name is not None)
        self._free_tokens = [n for n, name in enumerate(self._names) if name is None]
        self._held = list(saved.held)
        self._saver.resume(saved)
        self._covered = self._coverage()
        self._apply_held()
        return True

    def _advance_to(self, minute: int) -> None:
        if minute > self._minute:
            self._minute, self._now_ms = minute, minute * MINUTE_MS

    def _restore_tokens(self, part: TokenPart) -> None:
        if not part.tokens:
            return
        self._names += [None] * (max(part.tokens) + 1 - len(self._names))
        for token, name in zip(part.tokens, part.names, strict=True):
            self._names[token] = name
        self._make_room(0)
        records = np.frombuffer(part.records, TOKEN).copy()
        # The saved symbol numbers, links and flags were those of another process.
        records["symbol"] = [self._symbol_index[symbol] for symbol in part.symbols]
        for field in ("first", "last"):
            records[field] = NONE
        for field in ("dirty", "unsaved"):
            records[field] = 0
        self._columns.tokens[part.tokens] = records

    def _held_token(self, token_id: str) -> int:
        token = self._index.get(token_id)
        if token is None:
            raise KeyError(token_id)
        return token

    def _complete_from(self, open_time: int) -> bool:
        earliest = int(self._columns.counts[EARLIEST])
        if self.history_from is not None:
            return self.history_from <= open_time
        return earliest != NONE and earliest <= open_time


def warm_up() -> None:
    """Compile the loops, or load them from numba's cache.

    The first start on a machine takes seconds, later ones tenths. Call it before the first swap
    arrives, so that no swap waits for the compiler.
    """
    now_ms = 1_600_000_000_000

    def engine() -> ColumnarWindows:
        return ColumnarWindows(
            partition=0,
            windows=(("9m", 9),),
            grace_ms=MINUTE_MS,
            max_future_ms=MINUTE_MS,
            now_ms=now_ms,
        )

    def swap(timestamp: int, removed: bool = False) -> Swap:
        return Swap(
            token_id="c:t",  # noqa: S106 - not a secret
            chain="c",
            token="t",  # noqa: S106 - not a secret
            tx_hash="h",
            log_index=0,
            timestamp=timestamp,
            is_buy=True,
            amount_attos=1,
            usd_micros=1,
            price_usd=1.0,
            removed=removed,
            marker=b"",
            trader="a",
        )

    # The second swap closes the minute of the first, so the snapshot has both kinds of section.
    then_ms = now_ms - 5 * MINUTE_MS
    first = engine()
    first.observe([then_ms, now_ms], [now_ms, now_ms])
    first.apply([swap(then_ms), swap(now_ms), swap(now_ms, True)], [0, 1, 2], "CCU")
    second = engine()
    assert second.restore(first.take_snapshot().changed, now_ms)
    second.stats("c:t", epoch=1, seq=1, next_offset=1)
    second._rehash(1)
    second.advance(now_ms + MINUTE_MS)


_decode_stats = msgspec.json.Decoder(TokenStats).decode
