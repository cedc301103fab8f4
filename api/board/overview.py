"""The overview: totals and top tokens of the board for one window, filtered and sorted.

Pure; reads `api.board.columns`, which keeps the board's numbers in arrays. Sums are exact, in
micro-USD.

Pages use keyset pagination: a page starts after the place (value, token id) of the last token of
the page before, not after a number of tokens. So a token whose value does not change is on exactly
one page however the others move, any node can answer, and no node keeps state. A token whose value
falls past the place appears again, and one that rises past it is missed. With live numbers both
can be avoided only by showing old numbers.
"""

from __future__ import annotations

from typing import Final

import msgspec
import numpy as np

from aggregator.contracts.stats import usd_text
from api.board.board import Board
from api.board.columns import (
    ORDERS,
    RANKS,
    SORTS,
    BoardColumns,
    Mask,
    Order,
    Ordered,
    RowPlace,
    Slots,
    Sort,
)
from api.board.row import TokenRow

__all__ = [
    "ORDERS",
    "SORTS",
    "Order",
    "Overview",
    "OverviewReader",
    "OverviewTotals",
    "RowPlace",
    "Sort",
]

MAX_LIMIT: Final = 500
_INT64_MAX: Final = np.iinfo(np.int64).max


class OverviewQuery(msgspec.Struct, frozen=True):
    """What to show. `min_volume_micros` is micro-USD; `q` is the text to search for.

    With `q`, exact matches of symbol, name or id come first, then those that begin with it, then
    the rest; `sort` orders within each group.
    """

    window: str
    sort: Sort = "volume_usd"
    order: Order = "desc"
    chain: str | None = None
    min_volume_micros: int = 0
    min_trades: int = 0
    q: str = ""
    limit: int = 50


class OverviewTotals(msgspec.Struct, frozen=True):
    """Exact sums over every token that matches the filters, not only the ones listed."""

    tokens: int
    trades: int
    buys: int
    sells: int
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str


class Overview(msgspec.Struct, frozen=True):
    """The answer of `/api/overview`.

    `as_of` is the instant of the oldest partition shown, so no number is older than that; null
    before anything is known. `stale` says that some partition's numbers may be old or are missing.
    """

    as_of: int | None
    window: str
    totals: OverviewTotals
    tokens: list[TokenRow]
    stale: bool
    next_cursor: str | None = None


class OverviewReader:
    """Answer overview queries from a board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._columns = BoardColumns(board)
        self._as_of: int | None = None

    def read(self, query: OverviewQuery, now_ms: int) -> Overview:
        """Return the overview as of now. Ties are in order of token id, unknowns come last."""
        return self.page(query, now_ms, None)[0]

    def page(
        self, query: OverviewQuery, now_ms: int, after: RowPlace | None, *, fresh: bool = True
    ) -> tuple[Overview, RowPlace | None]:
        """Return the tokens after the place `after`, and the last one's place if there are more.

        If not `fresh`, the numbers are those of the last fresh call: such queries share the work of
        copying what changed on the board.
        """
        if fresh:
            self._columns.catch_up()
            self._as_of = self._board.as_of()
        matching = self._matching(query)
        ordered = self._columns.ordered(query.window, query.sort, query.order)
        found = self._found(ordered, matching, query, after)
        top, more = found[: query.limit], len(found) > query.limit
        stale = self._board.stale_partitions(now_ms)
        rows = [self._columns.row(int(ordered.slots[index])) for index, _ in top]
        overview = Overview(
            as_of=self._as_of,
            window=query.window,
            totals=self._totals(query.window, matching),
            tokens=[_with_staleness(row, stale) for row in rows],
            stale=bool(stale) or not self._board.partitions_known(),
        )
        return overview, self._columns.place(ordered, *top[-1]) if more else None

    def _found(
        self, ordered: Ordered, matching: Mask, query: OverviewQuery, after: RowPlace | None
    ) -> list[tuple[int, int]]:
        """Return the indices and ranks of the page's tokens, and of one more if there is one."""
        most = query.limit + 1
        start = 0 if after is None else self._columns.index_after(ordered, after)
        if not query.q:
            found = start + np.flatnonzero(matching[ordered.slots[start:]])[:most]
            return [(index, RANKS[0]) for index in found.tolist()]
        indices = np.flatnonzero(matching[ordered.slots])
        ranks = self._columns.ranks(query.q, ordered.slots[indices])
        page: list[tuple[int, int]] = []
        for rank in RANKS if after is None else RANKS[after.rank :]:
            fitting = indices[ranks == rank]
            if after is not None and rank == after.rank:
                fitting = fitting[fitting >= start]
            page += [(index, rank) for index in fitting[: most - len(page)].tolist()]
        return page

    def _matching(self, query: OverviewQuery) -> Mask:
        window = self._columns.window(query.window)
        mask = window.held
        if query.min_trades:
            mask = mask & (window.whole("trades") >= query.min_trades)
        if query.min_volume_micros:
            least = min(query.min_volume_micros, _INT64_MAX)
            mask = mask & (window.whole("volume_usd") >= least)
        if query.chain is not None:
            mask = mask & self._columns.of_chain(query.chain)
        return self._columns.containing(query.q, mask) if query.q else mask

    def _totals(self, window: str, matching: Mask) -> OverviewTotals:
        columns = self._columns.window(window)

        def total(name: str) -> int:
            return _sum(columns.whole(name)[matching])

        return OverviewTotals(
            tokens=int(np.count_nonzero(matching)),
            trades=total("trades"),
            buys=total("buys"),
            sells=total("sells"),
            volume_usd=usd_text(total("volume_usd")),
            buy_volume_usd=usd_text(total("buy_volume_usd")),
            sell_volume_usd=usd_text(total("sell_volume_usd")),
        )


def _sum(values: Slots) -> int:
    """Return the exact sum, which may exceed int64."""
    high, low = values >> 32, values & 0xFFFF_FFFF
    return (int(high.sum()) << 32) + int(low.sum())


def _with_staleness(row: TokenRow, stale: set[int]) -> TokenRow:
    return msgspec.structs.replace(row, stale=True) if row.partition in stale else row
