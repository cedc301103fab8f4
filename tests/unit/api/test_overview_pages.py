"""Pages of the overview: every sort, compared with a plain sort of the same rows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.contracts.stats import usd_micros, usd_text
from api.board.board import Board
from api.board.columns import BoardColumns
from api.board.listing import Listing
from api.board.overview import ORDERS, SORTS, OverviewQuery, OverviewReader, RowPlace
from api.board.row import TokenRow
from tests.unit.api.samples import Owner, row, window

Rows = list[tuple[int, int, int, int, float | None, int | None]]

_small = st.integers(0, 3)
_rows = st.lists(
    st.tuples(
        st.integers(0, 5_000_000), st.integers(0, 5_000_000), _small, _small,
        st.none() | st.floats(-99, 99).map(lambda each: round(each, 1)),
        st.none() | st.integers(1_000, 1_003),
    ),
    max_size=30,
)  # fmt: skip


def board_of(rows: Rows) -> Board:
    board = Board(3_000)
    owner = Owner()
    for number, (buy, sell, buys, sells, change, last) in enumerate(rows):
        owner.seq += 1
        made = row(f"c:{number:02d}", seq=owner.seq, stats=window(buy, sell, buys, sells, change))
        made = msgspec.structs.replace(made, last_trade_at=last)
        owner.rows[made.token_id] = made
    board.heartbeat(owner.heartbeat(), 0)
    for ask in board.due(0):
        for chunk in owner.answer(ask.request):
            board.answer(ask.request_id, chunk, 0)
    return board


def number(listed: TokenRow, sort: str) -> float | None:
    held = listed if sort == "last_trade_at" else listed.windows["24h"]
    value = getattr(held, sort)
    return float(value) if isinstance(value, str) else value


@settings(max_examples=60, deadline=None)
@given(_rows, st.sampled_from(SORTS), st.sampled_from(ORDERS), st.integers(1, 9))
def test_all_pages_together_are_the_sorted_list(
    rows: Rows, sort: str, order: str, limit: int
) -> None:
    board = board_of(rows)
    query = OverviewQuery(window="24h", sort=sort, order=order, limit=limit)  # type: ignore[arg-type]
    reader = OverviewReader(board)
    found: list[TokenRow] = []
    after: RowPlace | None = None
    while True:
        page, after = reader.page(query, 0, after)
        found += page.tokens
        assert page.totals.tokens == len(rows), "the totals cover all pages"
        if after is None:
            break
        assert len(page.tokens) == limit
    sign = -1 if order == "desc" else 1

    def place(each: TokenRow) -> tuple[bool, float, str]:
        value = number(each, sort)
        return (value is None, sign * (value or 0), each.token_id)

    assert [each.token_id for each in found] == [
        each.token_id for each in sorted(board.rows.values(), key=place)
    ]


@pytest.mark.parametrize("sort", SORTS)
def test_every_sort_is_a_number_of_the_answer(sort: str) -> None:
    board = board_of([(1_000_000, 2_000_000, 1, 2, 3.5, 9)])
    (listed,) = board.rows.values()
    assert number(listed, sort) is not None


Step = tuple[str, int, int, int, str | None]
_steps = st.lists(
    st.tuples(
        st.sampled_from(["trade", "trade", "trade", "forget", "hide", "show", "read"]),
        st.integers(0, 9), st.integers(0, 9), _small, st.sampled_from([None, "aB", "zz"]),
    ),
    max_size=40,
)  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(
    _steps, st.sampled_from(SORTS), st.sampled_from(ORDERS), st.none() | st.sampled_from("ab"),
    _small, st.integers(0, 6), st.sampled_from(["", "AB", "a:3", "none"]),
)  # fmt: skip
def test_after_any_changes_it_equals_a_plain_pass_over_the_rows(
    steps: list[Step], sort: str, order: str, chain: str | None, trades: int, usd: int, q: str
) -> None:
    board = board_of([])
    reader = OverviewReader(board)
    query = OverviewQuery(
        window="24h", sort=sort, order=order, chain=chain, min_trades=trades,  # type: ignore[arg-type]
        min_volume_micros=usd * 1_000_000, q=q, limit=4,
    )  # fmt: skip
    hidden: dict[str, Listing] = {}
    for seq, (what, token, volume, count, symbol) in enumerate(steps, 1):
        token_id = f"{'ab'[token % 2]}:{token}"
        made = row(token_id, seq=seq, symbol=symbol, stats=window(volume * 1_000_000, 0, count))
        if what == "trade":
            board.show(made)
        elif what == "forget":
            board.show(msgspec.structs.replace(made, windows={}))
        elif what == "read":
            reader.read(query, 0)
        else:
            hidden[token_id] = Listing(seq, hidden=what == "hide")
            board.take_listings(dict(hidden))
    matching = [
        each for each in board.rows.values()
        if chain in {None, each.chain}
        and (stats := each.windows["24h"]).trades >= trades
        and usd_micros(stats.volume_usd) >= usd * 1_000_000
        and (q.casefold() in each.token_id or q.casefold() in (each.symbol or "").casefold())
    ]  # fmt: skip
    sign = -1 if order == "desc" else 1
    wanted = sorted(
        matching,
        key=lambda each: ((v := number(each, sort)) is None, sign * (v or 0), each.token_id),
    )
    page, after = reader.page(query, 0, None)
    assert page.tokens == wanted[:4]
    assert (after is not None) == (len(wanted) > 4)
    assert page.totals.tokens == len(wanted)
    whole = sum(usd_micros(each.windows["24h"].volume_usd) for each in matching)
    assert page.totals.volume_usd == usd_text(whole)
    assert page.totals.trades == sum(each.windows["24h"].trades for each in matching)


def test_a_number_beyond_64_bits_is_clamped() -> None:
    board = board_of([(10**20, 0, 1, 0, None, None), (1, 0, 1, 0, None, 7)])
    reader = OverviewReader(board)
    page = reader.read(OverviewQuery("24h", sort="volume_usd"), 0)
    assert [each.token_id for each in page.tokens] == ["c:00", "c:01"]
    assert page.totals.volume_usd == usd_text(2**63 - 2 + 1)
    page = reader.read(OverviewQuery("24h", sort="last_trade_at"), 0)
    assert [each.token_id for each in page.tokens] == ["c:01", "c:00"]


def test_sums_are_exact_beyond_64_bits() -> None:
    board = board_of([(9 * 10**18, 0, 1, 0, None, None)] * 5)
    totals = OverviewReader(board).read(OverviewQuery("24h"), 0).totals
    assert usd_micros(totals.volume_usd) == 45 * 10**18


def test_tokens_that_come_and_go_without_queries_do_not_accumulate() -> None:
    board = board_of([])
    columns = BoardColumns(board)
    for number in range(10_000):
        made = row(f"c:{number}", seq=number + 1)
        board.show(made)
        board.show(msgspec.structs.replace(made, windows={}))
    assert len(columns._changed) < 2_000


NAMED = [  # token id, symbol, volume: the least wanted trade most
    ("ethereum:0xmega", "MEGAETH", 9),
    ("ethereum:0xweth", "WETH", 8),
    ("ethereum:0xusdc", "USDC", 7),
    ("ethereum:0xsteth", "ETHX", 6),
    ("solana:wormETHole", "WORM", 5),
    ("base:0xe1", "eth", 4),
    ("base:0xe2", "ETH", 3),
    ("base:ETH", None, 2),
    ("solana:named", "NMD", 1),
]


def named_board() -> Board:
    board = Board(3_000)
    owner = Owner()
    for token_id, symbol, volume in NAMED:
        owner.seq += 1
        made = row(token_id, seq=owner.seq, symbol=symbol, stats=window(volume * 1_000_000, 0, 1))
        owner.rows[token_id] = made
    board.heartbeat(owner.heartbeat(), 0)
    for ask in board.due(0):
        for chunk in owner.answer(ask.request):
            board.answer(ask.request_id, chunk, 0)
    said = Listing(version=1, symbol=None, name="Etherlike", decimals=None, flags=())
    board.take_listings({"solana:named": said})
    return board


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
def test_a_search_shows_exact_symbols_first_then_what_begins_with_it(limit: int) -> None:
    reader = OverviewReader(named_board())
    query = OverviewQuery(window="24h", q="Eth", limit=limit)
    found: list[str] = []
    after: RowPlace | None = None
    while not found or after is not None:
        page, after = reader.page(query, 0, after)
        found += [each.token_id for each in page.tokens]
        assert page.totals.tokens == 8, "a search does not match the chain"
    assert found == [
        *("base:0xe1", "base:0xe2", "base:ETH"),
        *("ethereum:0xsteth", "solana:named"),
        *("ethereum:0xmega", "ethereum:0xweth", "solana:wormETHole"),
    ]


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        ("ethereum", []),
        ("etherl", ["solana:named"]),
        ("ethereum:0xw", ["ethereum:0xweth"]),
        ("ethereum:", [each for each, *_ in NAMED if each.startswith("ethereum:")]),
        ("BASE:eth", ["base:ETH"]),
        ("wormethole", ["solana:wormETHole"]),
        ("0xE1", ["base:0xe1"]),
    ],
)
def test_what_a_search_finds(q: str, expected: list[str]) -> None:
    reader = OverviewReader(named_board())
    page, _ = reader.page(OverviewQuery(window="24h", q=q), 0, None)
    assert [each.token_id for each in page.tokens] == expected
