"""The arrays that hold one partition's windows, and how they grow.

A row is one token's minute bucket. Rows of a token form a list in time order (`prev`, `next`), rows
of a minute another (`sibling`, from `row_heads`), so that a minute can leave a window in as many
steps as it has rows. A pair is one trader of one token with the minutes it was last seen in; the
entries of a minute (`entry_heads`) name the pairs that were seen in it. Pure.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array

NONE: Final = -1
"""No row, no entry, no minute, no price point, no value."""

LIMBS: Final = 5
"""Sums are held in digits of base 10^9 that never carry, so no sum can overflow an int64.

Five for token amounts in units of 10^-18, two for micro-USD (`volume0` the lower).
"""

_LIMB_FIELDS = [(f"amount{limb}", np.int64) for limb in range(LIMBS)]

ROW: Final = np.dtype(
    [
        ("token", np.int32),
        ("minute", np.int32),
        ("trades", np.int32),
        ("buys", np.int32),
        ("points", np.int32),
        ("undone", np.int32),
        ("volume0", np.int64),
        ("volume1", np.int64),
        ("buy_volume0", np.int64),
        ("buy_volume1", np.int64),
        *_LIMB_FIELDS,
        ("largest", np.int64),
        ("open_at", np.int64),
        ("open_offset", np.int64),
        ("open", np.float64),
        ("close_at", np.int64),
        ("close_offset", np.int64),
        ("close", np.float64),
        ("high", np.float64),
        ("low", np.float64),
    ],
    align=True,
)
LINK: Final = np.dtype([("prev", np.int32), ("next", np.int32), ("sibling", np.int32)])
TOKEN: Final = np.dtype(
    [
        ("first", np.int32),
        ("last", np.int32),
        ("symbol", np.int32),
        ("dirty", np.int32),
        ("unsaved", np.int32),
        # The minute in which its last record was applied, at least 1; 0 before the first.
        ("touched", np.int32),
        ("symbol_offset", np.int64),
        ("symbol_at", np.int64),
        ("price_at", np.int64),
        ("price_offset", np.int64),
        ("price", np.float64),
        ("traded_at", np.int64),
        ("unpriced", np.int64),
        ("duplicates", np.int64),
        ("late", np.int64),
        ("retracted", np.int64),
        ("trades", np.int64),
    ],
    align=True,
)
WINDOW: Final = np.dtype(
    [
        ("first", np.int32),
        ("previous_first", np.int32),
        ("traders", np.int32),
        ("buyers", np.int32),
        ("sellers", np.int32),
        ("undone", np.int32),
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
PAIR: Final = np.dtype(
    [("key", np.uint64), ("seen", np.int32), ("bought", np.int32), ("sold", np.int32)], align=True
)
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

# Places in `Columns.counts`.
ROWS_FREE: Final = 0
ENTRIES_FREE: Final = 1
PAIRS_USED: Final = 2
DIRTY: Final = 3
UNSAVED_ROWS: Final = 4
UNSAVED_TOKENS: Final = 5
UNSAVED_ENTRIES: Final = 6
EARLIEST: Final = 7
_COUNTS: Final = 8


class Columns(NamedTuple):
    """All arrays of one partition.

    `windows` is [token, window], the longest window last. `*_free` are stacks of unused places;
    `dirty` and `unsaved_*` list what changed since the last patch and the last snapshot; how much
    of each is in use stands in `counts`. `pairs` is an open-addressing hash table whose size is a
    power of two.
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


def new_columns(windows: int, ring: int) -> Columns:
    """Empty columns; `ring` is the number of minutes that a row may be kept."""
    counts = np.zeros(_COUNTS, np.int64)
    counts[EARLIEST] = NONE
    return Columns(
        rows=np.zeros(0, ROW),
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
        counts=counts,
    )


def with_room(columns: Columns, *, rows: int, tokens: int, entries: int) -> Columns:
    """Columns where `rows` more rows and `entries` more entries fit, and `tokens` tokens in all."""
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
    """The stack of free places with old … size-1 on top, the lowest to be taken first."""
    grown = np.zeros(size, np.int32)
    grown[:used] = stack[:used]
    grown[used : used + size - old] = np.arange(size - 1, old - 1, -1, dtype=np.int32)
    return grown


def _more_rows(columns: Columns, rows: int) -> Columns:
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


def _more_entries(columns: Columns, entries: int) -> Columns:
    old, counts = len(columns.entries), columns.counts
    size = max(1024, old + max(entries, old // 2))
    free = _more_free(columns.entries_free, int(counts[ENTRIES_FREE]), old, size)
    counts[ENTRIES_FREE] += size - old
    return columns._replace(entries=_grown(columns.entries, size), entries_free=free)


def _more_tokens(columns: Columns, tokens: int) -> Columns:
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
    """The record of a token of which nothing is known."""
    record = np.zeros((), TOKEN)
    for field in ("first", "last", "symbol", "symbol_at", "price_at", "traded_at"):
        record[field] = NONE
    return record


def fresh_window() -> Any:
    """The record of an empty window."""
    record = np.zeros((), WINDOW)
    for field in ("first", "previous_first", "largest"):
        record[field] = NONE
    record["high"] = record["low"] = np.nan
    return record
