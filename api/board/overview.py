"""The overview: totals and top tokens of the board for one window, filtered and sorted.

Pure; asks `api.board.columns`, which keep the board's numbers in arrays. Sums are exact, in
micro-USD.

Pages go on by keyset: behind the place (value, token id) of the last token of the page before, not
behind so many tokens. So a token whose value did not change is on exactly one page however the
others move, any node can answer, and none remembers anything. One whose value falls past the place
comes again, one that rises past it is not seen further down: with live numbers there is no list
for which both could be avoided, short of showing old numbers.
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
    Columns,
    Mask,
    Order,
    Ordered,
    Place,
    Slots,
    Sort,
)
from api.board.row import TokenRow

__all__ = ["ORDERS", "SORTS", "Order", "Overview", "OverviewReader", "Place", "Sort", "Totals"]

MAX_LIMIT: Final = 500
_INT64_MAX: Final = np.iinfo(np.int64).max


class OverviewQuery(msgspec.Struct, frozen=True):
    """What to show. `min_volume_micros` is micro-USD; `q` is what is searched for.

    With `q` the tokens whose symbol, name or id it is come first, then those of which one begins
    with it, then the rest; `sort` orders within each.
    """

    window: str
    sort: Sort = "volume_usd"
    order: Order = "desc"
    chain: str | None = None
    min_volume_micros: int = 0
    min_trades: int = 0
    q: str = ""
    limit: int = 50


class Totals(msgspec.Struct, frozen=True):
    """Exact sums over every token that the filters let through, not only the ones listed."""

    tokens: int
    trades: int
    buys: int
    sells: int
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str


class Overview(msgspec.Struct, frozen=True):
    """The answer of `/api/overview`.

    `as_of` is the instant of the oldest partition shown, so no number in it is older than that;
    null before anything is known. `stale` tells that some partition's numbers may be old or are
    missing.
    """

    as_of: int | None
    window: str
    totals: Totals
    tokens: list[TokenRow]
    stale: bool
    next_cursor: str | None = None


class OverviewReader:
    """Answers overview queries from a board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._columns = Columns(board)
        self._as_of: int | None = None

    def read(self, query: OverviewQuery, now_ms: int) -> Overview:
        """The overview as the board is now. Ties are in order of token id, unknowns come last."""
        return self.page(query, now_ms, None)[0]

    def page(
        self, query: OverviewQuery, now_ms: int, after: Place | None, *, fresh: bool = True
    ) -> tuple[Overview, Place | None]:
        """The tokens behind the place `after`, and the place of the last where there are more.

        Not `fresh`, its numbers are those of the last one that was: all who are content with them
        share the work of taking over what changed on the board.
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
        self, ordered: Ordered, matching: Mask, query: OverviewQuery, after: Place | None
    ) -> list[tuple[int, int]]:
        """The indices in the order of the page's tokens and of one more, each with its rank."""
        most = query.limit + 1
        behind = 0 if after is None else self._columns.behind(ordered, after)
        if not query.q:
            found = behind + np.flatnonzero(matching[ordered.slots[behind:]])[:most]
            return [(index, RANKS[0]) for index in found.tolist()]
        indices = np.flatnonzero(matching[ordered.slots])
        ranks = self._columns.ranks(query.q, ordered.slots[indices])
        page: list[tuple[int, int]] = []
        for rank in RANKS if after is None else RANKS[after.rank :]:
            fitting = indices[ranks == rank]
            if after is not None and rank == after.rank:
                fitting = fitting[fitting >= behind]
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

    def _totals(self, window: str, matching: Mask) -> Totals:
        columns = self._columns.window(window)

        def total(name: str) -> int:
            return _sum(columns.whole(name)[matching])

        return Totals(
            tokens=int(np.count_nonzero(matching)),
            trades=total("trades"),
            buys=total("buys"),
            sells=total("sells"),
            volume_usd=usd_text(total("volume_usd")),
            buy_volume_usd=usd_text(total("buy_volume_usd")),
            sell_volume_usd=usd_text(total("sell_volume_usd")),
        )


def _sum(values: Slots) -> int:
    """Exact, where the sum is beyond int64 too."""
    high, low = values >> 32, values & 0xFFFF_FFFF
    return (int(high.sum()) << 32) + int(low.sum())


def _with_staleness(row: TokenRow, stale: set[int]) -> TokenRow:
    return msgspec.structs.replace(row, stale=True) if row.partition in stale else row
