"""The compiled loop fills gaps with the same text as the contract's own functions."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aggregator.contracts.stats import change_pct, decimal_text, token_text, usd_text, vwap_text
from aggregator.windows.columns import LIMBS, NONE
from aggregator.windows.rendering import (
    AMOUNT,
    COUNT,
    FLAG,
    FLOAT,
    PRICE,
    TEXT,
    TIME,
    TOP_USD,
    USD,
    Template,
    carry,
)
from aggregator.windows.rows import _changes, _vwaps

encode = msgspec.json.encode
int64s = st.integers(-(2**63) + 1, 2**63 - 1)
floats = st.floats(allow_nan=True, allow_infinity=False)
prices = st.one_of(floats, st.floats(1e-18, 1e18), st.integers(0, 10**18).map(float))
texts = st.one_of(st.none(), st.text())


def limbs(value: int, count: int) -> list[int]:
    """Return digits of base 10^9; the last has the sign and all that is left."""
    digits = []
    for _ in range(count - 1):
        value, digit = divmod(value, 10**9)
        digits.append(digit)
    return [*digits, value]


def only(template: Any, ints: list[int], words: list[Any], numbers: list[float]) -> bytes:
    (row,) = Template(template).rows(np.array([ints], np.int64), [words], [numbers])
    return row


@settings(deadline=None)
@given(st.lists(prices, min_size=1, max_size=8))
@example([1e-7, 1.5e-7, 1e16, 1.2345678901234567e16, 123456789012345680.0, 2.0**-44, 5e-324])
@example([0.0, -0.0, 1.0, 10.0, 150.0, -1e-9, -2.5e20, 1.7976931348623157e308, math.nan])
def test_a_price_is_the_decimal_text_of_its_float(values: list[float]) -> None:
    row = only([PRICE] * len(values), [], [], values)
    assert row == encode([None if math.isnan(value) else decimal_text(value) for value in values])


@settings(deadline=None)
@given(st.lists(floats, min_size=1, max_size=8), st.lists(texts, min_size=1, max_size=8))
@example([math.nan], ['"', "\\", '\\"', "\x00", "\x00\x01", ",[]", "é", ""])
def test_floats_and_texts_are_as_msgspec_writes_them(
    values: list[float], words: list[str | None]
) -> None:
    row = only({"f": [FLOAT] * len(values), "t": [TEXT] * len(words)}, [], words, values)
    assert row == encode({"f": values, "t": words})


@settings(deadline=None)
@given(st.integers(-(10**27), 10**27), st.integers(0, 2**63 - 1), int64s, int64s)
@example(-1, 0, 0, NONE)
@example(-(10**9), 999_999, -5, 5)
@example(10**18, 10**6, 2**63 - 1, 1)
def test_sums_and_counts_are_as_the_contract_writes_them(
    usd: int, top: int, count: int, time: int
) -> None:
    ints = [*limbs(usd, 2), *limbs(top, 2), NONE, NONE, count, time, count]
    row = only([USD, TOP_USD, TOP_USD, COUNT, TIME, FLAG], ints, [], [])
    shown = [usd_text(usd), usd_text(top), None, count, None if time == NONE else time, count > 0]
    assert row == encode(shown)


@settings(deadline=None)
@given(st.integers(-(10**54), 10**54))
@example(0)
@example(-1)
@example(10**18)
@example(-(10**36))
@example(1_500_000_000 * 10**18)
def test_an_amount_is_the_token_text_of_its_digits(attos: int) -> None:
    assert only([AMOUNT], limbs(attos, LIMBS), [], []) == encode([token_text(attos)])


@settings(deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=LIMBS, max_size=LIMBS))
def test_carrying_changes_no_sum(digits: list[int]) -> None:
    carried = np.array(digits, np.int64)
    carry(carried)
    assert carried.tolist() == limbs(
        sum(digit * 10 ** (9 * place) for place, digit in enumerate(digits)), LIMBS
    )


@pytest.mark.parametrize("rows", [0, 1, 3])
def test_each_row_has_its_own_numbers(rows: int) -> None:
    ints = np.arange(2 * rows, dtype=np.int64).reshape(rows, 2)
    words = [[f"t{n}"] for n in range(rows)]
    numbers = [[n + 0.5] for n in range(rows)]
    made = Template({"a": COUNT, "t": TEXT, "p": PRICE, "b": COUNT}).rows(ints, words, numbers)
    assert [msgspec.json.decode(row) for row in made] == [
        {"a": 2 * n, "t": f"t{n}", "p": f"{n}.5", "b": 2 * n + 1} for n in range(rows)
    ]


positive = st.floats(1e-12, 1e12)


@given(positive, st.one_of(positive, st.integers(-3_000_000, 3_000_000)))
@example(1.0, 1.0000005)
@example(100.0, 100.00005)
@example(1e-12, 1e12)
def test_a_change_is_rounded_as_the_contract_does(opened: float, other: float) -> None:
    # An integer means a change by so many halves of the last digit, which are hard to round.
    closed = opened * (1 + other / 2e6) if isinstance(other, int) else other
    (change,) = _changes(np.array([opened]), np.array([closed])).tolist()
    assert encode(change) == encode(change_pct(opened, closed))


@given(st.integers(-(10**27), 10**27), st.integers(-(10**54), 10**54))
@example(0, 1)
@example(1, 0)
def test_a_vwap_is_rounded_as_the_contract_does(volume: int, attos: int) -> None:
    (vwap,) = _vwaps(np.array([limbs(volume, 2) + limbs(attos, LIMBS)])).tolist()
    assert (None if math.isnan(vwap) else decimal_text(vwap)) == vwap_text(volume, attos)
