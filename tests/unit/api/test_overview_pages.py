"""Pages of the overview, pure: every sort, against a plain sort of the same rows."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from api.board.board import Board
from api.board.overview import ORDERS, SORTS, OverviewQuery, OverviewReader, Place
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
def test_pages_laid_together_are_the_sorted_list(
    rows: Rows, sort: str, order: str, limit: int
) -> None:
    board = board_of(rows)
    query = OverviewQuery(window="24h", sort=sort, order=order, limit=limit)  # type: ignore[arg-type]
    reader = OverviewReader(board)
    found: list[TokenRow] = []
    after: Place | None = None
    while True:
        page, after = reader.page(query, 0, after)
        found += page.tokens
        assert page.totals.tokens == len(rows), "totals are of all pages"
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
