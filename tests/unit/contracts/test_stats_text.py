"""Numbers as decimal strings: exact, positional, and back."""

from __future__ import annotations

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from aggregator.contracts.stats import decimal_text, token_text, usd_micros, usd_text


@given(st.integers(-(2**70), 2**70))
def test_usd_comes_back(micros: int) -> None:
    assert usd_micros(usd_text(micros)) == micros
    assert Decimal(usd_text(micros)) * 1_000_000 == micros


@given(st.integers(0, 10**40))
def test_token_amounts_are_exact(attos: int) -> None:
    text = token_text(attos)
    whole, _, rest = text.partition(".")
    assert int(whole) * 10**18 + int(rest.ljust(18, "0")) == attos
    assert not rest.endswith("0")


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_are_positional_and_exact(value: float) -> None:
    text = decimal_text(value)
    assert "e" not in text.lower()
    assert float(text) == value


def test_amounts_below_zero() -> None:
    """As on a partition that took out a swap that was counted on another."""
    assert token_text(-670_225_400_000_000_000_000) == "-670.2254"
    assert token_text(-1) == "-0.000000000000000001"
    assert usd_text(-1) == "-0.000001"
