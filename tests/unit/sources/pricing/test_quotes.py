"""USD of an exchange's quote currencies."""

from __future__ import annotations

from decimal import Decimal as D

from sources.pricing.quotes import QuotePricer

T0 = 1_700_000_000


def test_usd_is_1_and_an_unknown_currency_is_unknown() -> None:
    quotes = QuotePricer()
    assert quotes.usd("USD", T0) == 1
    assert quotes.usd("USDT", T0) is None
    assert quotes.usd("BTC", T0) is None


def test_a_stablecoin_has_the_price_of_its_usd_pair() -> None:
    quotes = QuotePricer()
    quotes.observe("USDT", "USD", D("0.9993"), D(1_000), T0)
    quotes.observe("USDT", "EUR", D("0.9"), D(1_000_000), T0)
    quotes.observe("BTC", "USD", D(60_000), D(1), T0)
    assert quotes.usd("USDT", T0 + 1) == D("0.9993")
    assert quotes.usd("BTC", T0 + 1) is None
    assert quotes.usd("USDT", T0 + 601) is None, "older than 10 minutes"


def test_a_jump_is_held() -> None:
    quotes = QuotePricer()
    quotes.observe("USDT", "USD", D(1), D(1_000), T0)
    assert quotes.usd("USDT", T0 + 1) == 1
    for second in range(1, 9):
        quotes.observe("USDT", "USD", D("0.5"), D(100_000), T0 + second)
    assert quotes.usd("USDT", T0 + 10) == 1


def test_par_by_setting() -> None:
    quotes = QuotePricer(assume_par=["USDT"])
    quotes.observe("USDT", "USD", D("0.97"), D(1_000), T0)
    assert quotes.usd("USDT", T0 + 1) == 1
    assert quotes.usd("USDC", T0 + 1) is None
