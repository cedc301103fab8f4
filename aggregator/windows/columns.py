"""The arrays that hold one partition's windows, and how they grow.

A row is the place of one bucket: one token and one minute. The rows of a token form a list in time
order (`prev`, `next`), and the rows of a minute form another one (`sibling`, from `row_heads`), so
a minute leaves a window in as many steps as it has rows. A pair is one trader of one token with the
minutes in which it was last seen; the entries of a minute (`entry_heads`) name the pairs that were
seen in it. Pure.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array

NONE: Final = -1
"""Stands for no row, no entry, no minute, no timestamp, no size."""

LIMBS: Final = 5
"""How many digits of base 10^9 hold a token amount, in units of 10^-18; micro-USD take two.

Digits are added one by one and never carry, so a digit overflows its int64 only after nine thousand
million swaps. The lowest digit comes first (`volume0`, `volume1`).
"""

_LIMB_FIELDS = [(f"amount{limb}", np.int64) for limb in range(LIMBS)]

# In every layout the fields of one size stand together, so alignment adds four bytes at most.
BUCKET: Final = np.dtype(
    [
        # The number of the token and the minute; together they name the bucket in a snapshot.
        ("token", np.int32),
        ("minute", np.int32),
        ("trades", np.int32),
        ("buys", np.int32),
        # Swaps with a price: where there is none, the prices below mean nothing.
        ("points", np.int32),
        # Swaps taken out again: above 0 the extremes are approximate.
        ("undone", np.int32),
        # How many ms of the minute had passed at the open and at the close.
        ("open_ms", np.int32),
        ("close_ms", np.int32),
        # Micro-USD and amounts are of priced swaps alone, and so is `largest` (NONE for none).
        ("volume0", np.int64),
        ("volume1", np.int64),
        ("buy_volume0", np.int64),
        ("buy_volume1", np.int64),
        *_LIMB_FIELDS,
        ("largest", np.int64),
        # The order of trading of open and close, whose ms are in `open_ms` and `close_ms`.
        ("open_block", np.int64),
        ("open_log", np.int64),
        ("open_offset", np.int64),
        ("open", np.float64),
        ("close_block", np.int64),
        ("close_log", np.int64),
        ("close_offset", np.int64),
        ("close", np.float64),
        ("high", np.float64),
        ("low", np.float64),
    ],
    align=True,
)
"""The sums and extremes of one token and one minute. Snapshots hold these bytes."""

# Links are not part of a bucket: they say where it stands in this process, so no snapshot has them.
LINK: Final = np.dtype(
    [("prev", np.int32), ("next", np.int32), ("sibling", np.int32), ("skip", np.int32)]
)
"""The rows before and after in the token's list, and the next row of the same minute.

`skip` is the token's newest row of an earlier span of minutes: a late swap finds its row in a few
dozen steps, however many rows lie between. The row it names may have been freed since, and used
for another bucket (`kernels._find_row`).
"""

SKIP_BITS: Final = 6
"""A `skip` leads out of a span of 2^SKIP_BITS minutes."""

TOKEN: Final = np.dtype(
    [
        # The oldest and the newest row of the token.
        ("first", np.int32),
        ("last", np.int32),
        # The number of its newest symbol.
        ("symbol", np.int32),
        # 1 while the token stands in `dirty`, or in `unsaved_tokens`.
        ("dirty", np.int32),
        ("unsaved", np.int32),
        # The minute in which its last record was applied, at least 1; 0 before the first.
        ("touched", np.int32),
        # Which swaps the newest symbol and the newest price come from, in the order of trading:
        # the larger (timestamp, block_number, log_index, offset) wins.
        ("symbol_at", np.int64),
        ("symbol_block", np.int64),
        ("symbol_log", np.int64),
        ("symbol_offset", np.int64),
        ("price_at", np.int64),
        ("price_block", np.int64),
        ("price_log", np.int64),
        ("price_offset", np.int64),
        ("price", np.float64),
        ("traded_at", np.int64),
        # Since the first record of the token, whatever the windows still hold.
        ("unpriced", np.int64),
        ("duplicates", np.int64),
        ("late", np.int64),
        ("retracted", np.int64),
        # The number `n` of its last trade; 0 before the first.
        ("trades", np.int64),
    ],
    align=True,
)
"""What is newest of a token, and its counters. Snapshots hold these bytes."""

WINDOW: Final = np.dtype(
    [
        # The oldest row in the window, and in the previous window.
        ("first", np.int32),
        ("previous_first", np.int32),
        ("traders", np.int32),
        ("buyers", np.int32),
        ("sellers", np.int32),
        ("undone", np.int32),
        # 1 where high, low and largest must be computed again before they are read.
        ("stale", np.int32),
        ("trades", np.int64),
        ("buys", np.int64),
        ("volume0", np.int64),
        ("volume1", np.int64),
        ("buy_volume0", np.int64),
        ("buy_volume1", np.int64),
        *_LIMB_FIELDS,
        ("largest", np.int64),
        ("high", np.float64),
        ("low", np.float64),
        ("previous_trades", np.int64),
        ("previous_volume0", np.int64),
        ("previous_volume1", np.int64),
    ],
    align=True,
)
"""Running sums of one token and one window. Not saved: they are added up from the buckets."""

PAIR: Final = np.dtype(
    [("key", np.uint64), ("seen", np.int32), ("bought", np.int32), ("sold", np.int32)], align=True
)
"""One trader of one token: a hash of both (0: an empty place), and the newest minute of each kind.

A hash of 64 bits takes the place of the two names: two pairs of a million share one with a chance
of 3 in 10^8, and the price would be one distinct trader too few.
"""

ENTRY: Final = np.dtype(
    [
        ("key", np.uint64),
        ("token", np.int32),
        ("minute", np.int32),
        ("flags", np.int32),
        ("next", np.int32),
    ],
    align=True,
)
"""A pair that was seen in a minute; `flags` say as what (`kernels.SEEN`, `BOUGHT`, `SOLD`).

`next` is the next entry of the minute. Snapshots hold these bytes.
"""

# Places in `WindowColumns.counts`. Counters live in an array because compiled code changes them.
ROWS_FREE: Final = 0
ENTRIES_FREE: Final = 1
PAIRS_USED: Final = 2
DIRTY: Final = 3
UNSAVED_ROWS: Final = 4
UNSAVED_TOKENS: Final = 5
UNSAVED_ENTRIES: Final = 6
_COUNTS: Final = 7


class WindowColumns(NamedTuple):
    """All arrays of one partition.

    `windows` is [token, window], the longest window last. `row_heads` and `entry_heads` are rings:
    the first row or entry of a minute stands at the minute modulo the ring's length. `*_free` are
    stacks of unused places. `dirty` and `unsaved_*` list what changed since the last flush and the
    last snapshot. `counts` says how much of each stack and list is in use. `pairs` is an
    open-addressing hash table whose size is a power of two.
    """

    rows: Array
    links: Array
    tokens: Array
    windows: Array
    pairs: Array
    entries: Array
    row_heads: Array
    entry_heads: Array
    rows_free: Array
    entries_free: Array
    row_unsaved: Array
    dirty: Array
    unsaved_rows: Array
    unsaved_tokens: Array
    unsaved_entries: Array
    counts: Array


def new_columns(windows: int, ring: int) -> WindowColumns:
    """Return empty columns; `ring` must exceed the number of minutes that a row is kept."""
    return WindowColumns(
        rows=np.zeros(0, BUCKET),
        links=np.zeros(0, LINK),
        tokens=np.zeros(0, TOKEN),
        windows=np.zeros((0, windows), WINDOW),
        pairs=np.zeros(1024, PAIR),
        entries=np.zeros(0, ENTRY),
        row_heads=np.full(ring, NONE, np.int32),
        entry_heads=np.full(ring, NONE, np.int32),
        rows_free=np.zeros(0, np.int32),
        entries_free=np.zeros(0, np.int32),
        row_unsaved=np.zeros(0, np.uint8),
        dirty=np.zeros(0, np.int32),
        unsaved_rows=np.zeros(0, np.int32),
        unsaved_tokens=np.zeros(0, np.int32),
        unsaved_entries=np.zeros(0, ENTRY),
        counts=np.zeros(_COUNTS, np.int64),
    )


def with_room(columns: WindowColumns, *, rows: int, tokens: int, entries: int) -> WindowColumns:
    """Return columns with room for so many more rows and entries, and `tokens` tokens in all.

    The compiled loops allocate nothing, so this comes before each batch.
    """
    counts = columns.counts
    if counts[ROWS_FREE] < rows:
        columns = _more_rows(columns, rows)
    if len(columns.tokens) < tokens:
        columns = _more_tokens(columns, tokens)
    if counts[ENTRIES_FREE] < entries:
        columns = _more_entries(columns, entries)
    wanted = int(counts[UNSAVED_ENTRIES]) + entries
    if len(columns.unsaved_entries) < wanted:
        columns = columns._replace(unsaved_entries=_grown(columns.unsaved_entries, 2 * wanted))
    return columns


def _grown(array: Array, size: int) -> Array:
    grown = np.zeros(size, array.dtype)
    grown[: len(array)] = array
    return grown


def _more_free(stack: Array, used: int, old: int, size: int) -> Array:
    """Return the stack of free places with old … size-1 on top, the lowest to be taken first.

    Low places first keep the rows in use close together in memory.
    """
    grown = np.zeros(size, np.int32)
    grown[:used] = stack[:used]
    grown[used : used + size - old] = np.arange(size - 1, old - 1, -1, dtype=np.int32)
    return grown


def _more_rows(columns: WindowColumns, rows: int) -> WindowColumns:
    old, counts = len(columns.rows), columns.counts
    size = max(1024, old + max(rows, old // 2))
    free = _more_free(columns.rows_free, int(counts[ROWS_FREE]), old, size)
    counts[ROWS_FREE] += size - old
    return columns._replace(
        rows=_grown(columns.rows, size),
        links=_grown(columns.links, size),
        rows_free=free,
        row_unsaved=_grown(columns.row_unsaved, size),
        unsaved_rows=_grown(columns.unsaved_rows, size),
    )


def _more_entries(columns: WindowColumns, entries: int) -> WindowColumns:
    old, counts = len(columns.entries), columns.counts
    size = max(1024, old + max(entries, old // 2))
    free = _more_free(columns.entries_free, int(counts[ENTRIES_FREE]), old, size)
    counts[ENTRIES_FREE] += size - old
    return columns._replace(entries=_grown(columns.entries, size), entries_free=free)


def _more_tokens(columns: WindowColumns, tokens: int) -> WindowColumns:
    old = len(columns.tokens)
    size = max(256, 2 * old, tokens)
    windows = np.zeros((size, columns.windows.shape[1]), WINDOW)
    windows[:old] = columns.windows
    windows[old:] = fresh_window()
    grown = _grown(columns.tokens, size)
    grown[old:] = fresh_token()
    return columns._replace(
        tokens=grown,
        windows=windows,
        dirty=_grown(columns.dirty, size),
        unsaved_tokens=_grown(columns.unsaved_tokens, size),
    )


def fresh_token() -> Any:
    """Return the record of a token of which nothing is known."""
    record = np.zeros((), TOKEN)
    for field in ("first", "last", "symbol", "symbol_at", "price_at", "traded_at"):
        record[field] = NONE
    return record


def fresh_window() -> Any:
    """Return the record of an empty window."""
    record = np.zeros((), WINDOW)
    for field in ("first", "previous_first", "largest"):
        record[field] = NONE
    record["high"] = record["low"] = np.nan
    return record
