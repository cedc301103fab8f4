"""The window engine: one partition's windows, kept in columns and counted by compiled loops.

`tests/spec/windows.py` specifies it in plain Python. Which records count was decided before
(`aggregator.seen`); the engine only puts swaps into minutes and takes them out. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.stats import TokenStats
from aggregator.contracts.swaps import RECORD, SWAP, TEXTS, Swaps, TokenName
from aggregator.contracts.units import MINUTE_MS, minute_of
from aggregator.contracts.verdict import Verdict
from aggregator.windows import kernels
from aggregator.windows.columns import (
    DIRTY,
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
from aggregator.windows.held import HeldSwaps
from aggregator.windows.minutes import TokenMinutes, candles_of, minute_rows
from aggregator.windows.numbers import NameNumbers, Numbers
from aggregator.windows.rows import RowOrigin, WindowEdges, render_rows
from aggregator.windows.snapshot import EngineSnapshot, EngineState, Name, Saver, TokenPart, read


def _table(*verdicts: Verdict) -> Array:
    """Return an array that says of each letter whether it is one of `verdicts`."""
    table = np.zeros(256, np.bool_)
    table[[ord(verdict.value) for verdict in verdicts]] = True
    return table


_COUNTS: Final = _table(Verdict.COUNTED, Verdict.PROMOTED)
# The verdicts that change a token's numbers. Records of all others do not even create the token.
_CHANGES: Final = _table(
    Verdict.COUNTED, Verdict.PROMOTED, Verdict.LATE, Verdict.DUPLICATE, Verdict.UNDONE
)
# What a retraction takes out, and what readers see of it.
_TAKEN_OUT: Final = (
    "timestamp",
    "usd",
    "amount_low",
    "amount_mid",
    "amount_high",
    "price",
    "buy",
    "trader",
)


class ColumnarWindows:
    """The windows of one partition under one epoch.

    `windows` are (name, minutes). `history_from` (ms) is the instant from which every event that
    counts is known to be here, and None while that is not known: then no window is complete. Rows
    are kept for twice the longest window, since each window is shown beside the one before it.

    `apply` takes the records in log order; `advance` may come at any time between calls. Not
    thread-safe.

    A window ends at the engine's now, which never goes back. After a leap of the clock the minutes
    that the new now is too far from are freed, and a window that covers only minutes after the leap
    is empty, as its `open_time` says. When the leap was wrong, an engine that is made at the right
    time and restored from this one's sections counts right again; `history_from` then moves to the
    oldest minute that is still held, so no window that lost a minute says that it is complete.
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
        self._known_from = history_from
        # The instant from which a leap of the clock has left the minutes; NONE if none were lost.
        self._kept_from = NONE
        self._windows = tuple(sorted(windows, key=itemgetter(1)))
        self._spans = np.array([minutes for _, minutes in self._windows], np.int64)
        self._longest = int(self._spans[-1])
        self._now_ms = now_ms
        self._minute = minute_of(now_ms)
        # Rows are kept for twice the longest window; while a minute begins, its oldest and the new
        # one are both there.
        self._columns = new_columns(len(windows), 2 * self._longest + 2)
        self._names: list[Name | None] = []
        self._index = Numbers(self._new_token)
        self._free_tokens: list[int] = []
        self._symbols: list[str] = []
        self._symbol_index = Numbers(self._new_symbol, of_none=NONE)
        self._name_numbers = NameNumbers(self._index, self._symbol_index)
        self._held = HeldSwaps()
        self._applied: list[Swaps] = []
        self._covered = self._coverage()
        self._saver = Saver(self._spans.tolist())

    @property
    def history_from(self) -> int | None:
        """The instant (ms) from which every event that counts is known to be here, or None."""
        return None if self._known_from is None else max(self._known_from, self._kept_from)

    @history_from.setter
    def history_from(self, instant: int | None) -> None:
        self._known_from = instant

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

    def apply(self, swaps: Swaps, letters: Array, undone_places: Array, undone: Array) -> None:
        """Do what was decided of records, in log order.

        `letters` (uint8) has the letter of a `Verdict` of each record. `undone` (dtype SWAP) are
        the swaps that retractions take out, as they were counted, and `undone_places` are the
        indexes of these retractions in `swaps`, ascending; other retractions take nothing out. Of
        an undone swap its time, amounts, price, side and trader are used, and take the place of the
        retraction's own.

        Fills `token`, `symbol`, `verdict` and `n` of `swaps.swaps`.
        """
        for letter, count in enumerate(np.bincount(letters, minlength=1).tolist()):
            if count:
                self.counts[Verdict(chr(letter))] += count
        if len(swaps) == 0:
            return
        columns = swaps.swaps
        columns["verdict"] = letters
        for field in _TAKEN_OUT if len(undone_places) else ():
            columns[field][undone_places] = undone[field]
        trades = _COUNTS[letters]
        trades[undone_places] = True
        self._name(swaps, letters)
        kernels.assign_trade_numbers(self._columns, columns, trades)
        self._applied.append(swaps)
        self._apply(columns)

    def _apply(self, swaps: Array) -> None:
        """Count the swaps of minutes that have begun, hold those of future ones.

        The swaps have their numbers already.
        """
        newest = (self._minute + 1) * MINUTE_MS
        if swaps["timestamp"].max() >= newest:
            # Only trades have a number, and only they change a bucket, so only they wait.
            early = (swaps["timestamp"] >= newest) & (swaps["n"] > 0)
            self._held.add(swaps[early])
            swaps = swaps[~early]
        kernels.apply(self._columns, self._spans, swaps, self._minute)

    def take_applied(self) -> list[Swaps]:
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
            return TokenMinutes(0, self._columns.rows[:0], self._held.of(NONE))
        return TokenMinutes(
            n=int(self._columns.tokens["trades"][token]),
            rows=minute_rows(self._columns, token, since_minute),
            held=self._held.of(token),
        )

    def _name(self, batch: Swaps, letters: Array) -> None:
        """Fill this engine's token and symbol numbers into the records that change numbers."""
        swaps, names, changes = batch.swaps, batch.records["name"], _CHANGES[letters]
        if changes.all():
            chosen: Array | slice = slice(None)
        else:
            chosen = np.flatnonzero(changes)
            swaps["token"] = swaps["symbol"] = NONE
        numbers = self._name_numbers.of(batch.token_names, names[chosen])
        swaps["token"][chosen], swaps["symbol"][chosen] = numbers[:, 0], numbers[:, 1]
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

    def _coverage(self) -> list[tuple[bool, bool]]:
        """Return for each window whether the history covers it, and the window before it."""
        return [
            (self._covers_window(first), self._covers_before(first - span))
            for _, span in self._windows
            for first in (self._minute - span + 1,)
        ]

    def _covers_window(self, first: int) -> bool:
        """Whether everything is held of the window that begins with the minute `first`."""
        # Traders are kept for one length of the longest window, rows for two.
        kept_from = self._kept_from // MINUTE_MS + self._longest
        return self._covers_before(first) and (self._kept_from == NONE or kept_from <= first)

    def _covers_before(self, first: int) -> bool:
        """Whether everything is held of the window before, which begins with the minute `first`."""
        history_from = self.history_from
        return history_from is not None and history_from <= first * MINUTE_MS

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
        begun = self._held.take_begun((self._minute + 1) * MINUTE_MS)
        if len(begun):
            self._make_room(len(begun))
            self._apply(begun)

    def take_dirty(self) -> list[str]:
        """Return the tokens whose numbers changed since the last call."""
        columns = self._columns
        dirty = columns.dirty[: columns.counts[DIRTY]]
        columns.tokens["dirty"][dirty] = 0
        columns.counts[DIRTY] = 0
        return [name[0] for token in dirty.tolist() if (name := self._names[token]) is not None]

    def forget_idle(self) -> list[str]:
        """Drop the tokens without a bucket that had no record for as long; return their ids.

        A token whose last change is not published yet stays for another call, and one that has
        swaps of future minutes stays until these have left the windows.
        """
        tokens = self._columns.tokens
        oldest = self._minute - 2 * self._longest + 1
        touched = tokens["touched"]
        empty = np.flatnonzero(
            (tokens["first"] == NONE) & (touched > 0) & (touched < oldest) & (tokens["dirty"] == 0)
        )
        idle = []
        for token in np.setdiff1d(empty, self._held.tokens()).tolist():
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
        if idle:
            self._name_numbers.forget()
        return idle

    def token_ids(self) -> Iterable[str]:
        """Return every token that has numbers; one with swaps of future minutes alone has none."""
        touched = self._columns.tokens["touched"].tolist()
        return [
            name[0]
            for name, at in zip(self._names, touched, strict=False)
            if name is not None and at > 0
        ]

    def stats(
        self, token_id: str, *, epoch: int, seq: int, next_offset: int, watermark: int | None = None
    ) -> TokenStats:
        """Return the numbers of one token at `now_ms`. Raises KeyError where it is not held."""
        (row,) = self.rows_of(
            [token_id], epoch=epoch, first_seq=seq, next_offset=next_offset, watermark=watermark
        )
        return _decode_stats(row)

    def rows_of(
        self,
        token_ids: Sequence[str],
        *,
        epoch: int,
        first_seq: int,
        next_offset: int,
        watermark: int | None,
        seq_step: int = 1,
    ) -> list[bytes]:
        """Return the `TokenStats` of each token as JSON.

        The first has the seq `first_seq`, and each further one `seq_step` more. `watermark` is the
        log clock (ms), None before the first record. Raises KeyError for a token that is not held.
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
                watermark=watermark,
            ),
            edges=[
                WindowEdges(name, span, self._minute, *covered)
                for (name, span), covered in zip(self._windows, self._coverage(), strict=True)
            ],
            first_seq=first_seq,
            seq_step=seq_step,
        )

    def settle(self, clock_ms: int) -> None:
        """Let the minutes settle that ended well before both the log clock and now.

        Few swaps still come for them, so the next snapshot stores each in a section of its own. A
        settled minute still takes swaps: the rule is one of storage alone.
        """
        self._saver.settle(min(clock_ms, self._now_ms))

    def take_snapshot(self) -> EngineSnapshot:
        """Return what changed since the last call as sections to write and to delete."""
        return self._saver.snapshot(self._state())

    def take_whole(self) -> EngineSnapshot:
        """Return everything, as if nothing were stored; later snapshots continue from it."""
        return self._saver.whole(self._state())

    def _state(self) -> EngineState:
        self._make_room(0)
        return EngineState(
            columns=self._columns,
            now=self._minute,
            kept_from=self._kept_from,
            names=self._names,
            symbols=self._symbols,
            held=self._held,
        )

    def restore(self, sections: Mapping[bytes, bytes]) -> bool:
        """Load the sections of a snapshot; return False where their format or windows are others.

        The engine must not have seen anything yet. A snapshot made while the clock was ahead lacks
        the minutes that had left the windows by then, and `history_from` says so from then on.
        """
        saved = read(sections, self._spans.tolist())
        if saved is None:
            return False
        self._kept_from = saved.kept_from
        if saved.now > self._minute:
            kept_from = (saved.now - 2 * self._longest + 1) * MINUTE_MS
            self._kept_from = max(self._kept_from, kept_from)
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
        self._held = HeldSwaps(saved.held(self._symbol_index.__getitem__))
        self._saver.resume(saved, self._now_ms)
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


def warm_up() -> None:
    """Compile the loops, or load them from numba's cache.

    The first start on a machine takes seconds, later ones tenths. Call it before the first swap
    arrives, so that no swap waits for the compiler.
    """
    now_ms = 1_600_000_000_000

    def engine() -> ColumnarWindows:
        return ColumnarWindows(partition=0, windows=(("9m", 9),), now_ms=now_ms)

    # The first swap settles before the snapshot, so that has both kinds of section; the last one is
    # of a future minute.
    minutes = (-5, 0, 0, 1)
    swaps = np.zeros(len(minutes), SWAP)
    swaps["timestamp"] = now_ms + MINUTE_MS * np.array(minutes)
    swaps["price"] = swaps["trader"] = swaps["usd"] = swaps["amount_low"] = 1
    batch = Swaps(
        swaps=swaps,
        records=np.zeros(len(minutes), RECORD),
        markers=np.zeros((len(minutes), 2), np.uint64),
        spans=np.zeros((len(minutes), len(TEXTS), 2), np.int32),
        text=np.zeros(0, np.uint8),
        token_names=[TokenName("c:t", None)],
    )
    first = engine()
    first.apply(batch, np.frombuffer(b"CCUC", np.uint8), np.array([2]), swaps[2:3].copy())
    first.settle(now_ms)
    candles_of(first.minutes("c:t"))
    second = engine()
    assert second.restore(first.take_snapshot().changed)
    second.stats("c:t", epoch=1, seq=1, next_offset=1)
    second._rehash(1)
    second.advance(now_ms + MINUTE_MS)


_decode_stats = msgspec.json.Decoder(TokenStats).decode
