"""The overview: totals and top tokens of the board for one window, filtered and sorted.

Pure; reads the board's rows. Sums are exact, in micro-USD. A row's figures are parsed once and
kept until the row changes, so that a query costs a pass over the rows and no parsing.

Pages go on by keyset: behind the place (value, token id) of the last token of the page before, not
behind so many tokens. So a token whose value did not change is on exactly one page however the
others move, any node can answer, and none remembers anything. One whose value falls past the place
comes again, one that rises past it is not seen further down: with live numbers there is no list
for which both could be avoided, short of showing old numbers.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Final, Literal, NamedTuple, get_args

import msgspec

from aggregator.contracts.stats import usd_micros, usd_text
from api.board.board import Board
from api.board.row import TokenRow

Sort = Literal[
    "volume_usd",
    "buy_volume_usd",
    "sell_volume_usd",
    "net_volume_usd",
    "trades",
    "buys",
    "sells",
    "traders",
    "buyers",
    "sellers",
    "price_change_pct",
    "last_trade_at",
]
Order = Literal["asc", "desc"]

SORTS: Final = get_args(Sort)
ORDERS: Final = get_args(Order)
MAX_LIMIT: Final = 500


class Place(NamedTuple):
    """Where a token stands in a sorted list: behind every place that is less.

    `value` is the sorted number, negative where the order is descending; an unknown one stands
    behind all.
    """

    unknown: bool
    value: float
    token_id: str


class OverviewQuery(msgspec.Struct, frozen=True):
    """What to show. `min_volume_micros` is micro-USD; `q` is looked for in symbol and token id."""

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


class _Figures(NamedTuple):
    """A row's numbers of one window, USD in micro-USD; the names are those of `Sort`."""

    row: TokenRow
    trades: int
    traders: int
    buyers: int
    sellers: int
    buys: int
    sells: int
    volume_usd: int
    buy_volume_usd: int
    sell_volume_usd: int
    net_volume_usd: int
    price_change_pct: float | None
    last_trade_at: int | None


class OverviewReader:
    """Answers overview queries from a board."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._parsed: dict[str, dict[str, _Figures]] = {}

    def read(self, query: OverviewQuery, now_ms: int) -> Overview:
        """The overview as the board is now. Ties are in order of token id, unknowns come last."""
        return self.page(query, now_ms, None)[0]

    def page(
        self, query: OverviewQuery, now_ms: int, after: Place | None
    ) -> tuple[Overview, Place | None]:
        """The tokens behind the place `after`, and the place of the last where there are more."""
        matching = [each for each in self._figures(query.window) if _matches(each, query)]
        places = ((_place(each, query), each.row) for each in matching)
        if after is not None:
            places = (each for each in places if each[0] > after)
        # Places differ, so rows are never compared.
        found = heapq.nsmallest(query.limit + 1, places)
        top = found[: query.limit]
        stale = self._board.stale_partitions(now_ms)
        overview = Overview(
            as_of=self._board.as_of(),
            window=query.window,
            totals=_totals(matching),
            tokens=[_with_staleness(row, stale) for _, row in top],
            stale=bool(stale) or not self._board.partitions_known(),
        )
        return overview, top[-1][0] if len(found) > query.limit else None

    def _figures(self, window: str) -> Iterable[_Figures]:
        rows = self._board.rows
        before = self._parsed.get(window, {})
        parsed: dict[str, _Figures] = {}
        for token_id, row in rows.items():
            known = before.get(token_id)
            if known is not None and known.row is row:
                parsed[token_id] = known
            elif (figures := _parse(row, window)) is not None:
                parsed[token_id] = figures
        self._parsed[window] = parsed
        return parsed.values()


def _parse(row: TokenRow, window: str) -> _Figures | None:
    stats = row.windows.get(window)
    if stats is None:
        return None
    return _Figures(
        row=row,
        trades=stats.trades,
        traders=stats.traders,
        buyers=stats.buyers,
        sellers=stats.sellers,
        buys=stats.buys,
        sells=stats.sells,
        volume_usd=usd_micros(stats.volume_usd),
        buy_volume_usd=usd_micros(stats.buy_volume_usd),
        sell_volume_usd=usd_micros(stats.sell_volume_usd),
        net_volume_usd=usd_micros(stats.net_volume_usd),
        price_change_pct=stats.price_change_pct,
        last_trade_at=row.last_trade_at,
    )


def _matches(figures: _Figures, query: OverviewQuery) -> bool:
    row = figures.row
    if figures.trades < query.min_trades or figures.volume_usd < query.min_volume_micros:
        return False
    if query.chain is not None and row.chain != query.chain:
        return False
    if not query.q:
        return True
    wanted = query.q.casefold()
    return wanted in row.token_id.casefold() or wanted in (row.symbol or "").casefold()


def _place(figures: _Figures, query: OverviewQuery) -> Place:
    value = getattr(figures, query.sort)
    if value is None:
        return Place(True, 0, figures.row.token_id)
    return Place(False, -value if query.order == "desc" else value, figures.row.token_id)


def _totals(matching: list[_Figures]) -> Totals:
    return Totals(
        tokens=len(matching),
        trades=sum(each.trades for each in matching),
        buys=sum(each.buys for each in matching),
        sells=sum(each.sells for each in matching),
        volume_usd=usd_text(sum(each.volume_usd for each in matching)),
        buy_volume_usd=usd_text(sum(each.buy_volume_usd for each in matching)),
        sell_volume_usd=usd_text(sum(each.sell_volume_usd for each in matching)),
    )


def _with_staleness(row: TokenRow, stale: set[int]) -> TokenRow:
    return msgspec.structs.replace(row, stale=True) if row.partition in stale else row
