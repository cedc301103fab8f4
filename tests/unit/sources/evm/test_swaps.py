"""The two events of a swap: base and quote, side, exact amounts, identity, trader, value."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.decoding.rules import decode_swap
from sources.events import SwapEvent, encode
from sources.evm.swaps import (
    Trader,
    base_is_0,
    decimal_text,
    fits,
    legs,
    moves_both_ways,
    trader_of,
)
from sources.evm.types import Block, PoolSwap, Token

USDC = Token("0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48", "USDC", 6)
USDT = Token("0xdac17f958d2ee523a2206206994597c13d831ec7", "USDT", 6)
WETH = Token("0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2", "WETH", 18)
WBTC = Token("0x2260fac5e5542a773aa44fbcfedf7c193bc2c599", "WBTC", 8)
MEME = Token("0x" + "11" * 20, "MEME", 18)
MORE = Token("0x" + "12" * 20, None, 0)
TX = "0x" + "7c" * 32
BLOCK = Block(7, "0x" + "b1" * 32, "0x" + "b0" * 32, 1_621_972_734, True, {TX: "0x" + "f0" * 20})


class Money:
    """The order of the tokens of these tests."""

    def rank(self, token: str) -> int:
        order = [{USDC.address, USDT.address}, {WETH.address}, {WBTC.address}]
        return next((at for at, tokens in enumerate(order) if token in tokens), 3)


def swap(token0: Token, amount0: int, token1: Token, amount1: int, **more: Any) -> PoolSwap:
    return PoolSwap("v", "0x9a", token0, token1, amount0, amount1, TX, 5, "0x3e", **more)


def events(one: PoolSwap, usd: str | None = None, trader: str | None = None) -> list[SwapEvent]:
    value = None if usd is None else Decimal(usd)
    return list(legs(one, BLOCK, "ethereum", Money(), usd=value, trader=trader))


@pytest.mark.parametrize(
    ("base", "quote"),
    [
        pytest.param(WETH, USDC, id="stable over native"),
        pytest.param(WBTC, WETH, id="native over major"),
        pytest.param(MEME, WBTC, id="major over the rest"),
        pytest.param(MEME, USDT, id="stable over the rest"),
        pytest.param(USDC, USDT, id="two stables: the higher address"),
        pytest.param(MEME, MORE, id="two others: the higher address"),
    ],
)
def test_base_and_quote(base: Token, quote: Token) -> None:
    assert base_is_0(Money(), base.address, quote.address)
    assert not base_is_0(Money(), quote.address, base.address)
    for one in (swap(base, -3, quote, 5), swap(quote, 5, base, -3)):
        first, second = events(one)
        assert (first.leg, first.token, first.quote_token, first.side) == (
            *(0, base.address, quote.address, "buy"),
        )
        assert (second.leg, second.token, second.quote_token, second.side) == (
            *(1, quote.address, base.address, "sell"),
        )
        assert (first.amount, second.amount) == (
            *(decimal_text(3, base.decimals or 0), decimal_text(5, quote.decimals or 0)),
        )
        assert (first.symbol, first.quote) == (second.quote, second.symbol)


def test_the_events_have_one_identity_and_pass_the_decoder() -> None:
    one = swap(USDC, 2_510_830_001, WETH, -(10**18), reserve0=10**12, reserve1=5 * 10**20)
    first, second = (
        decode_swap(encode(event).value, 1_621_972_734_000, 300_000)
        for event in events(one, "2510.830001", "0x" + "F0" * 20)
    )
    assert first.event_id == second.event_id == f"ethereum:{TX}:5"
    assert first.marker != second.marker
    assert (first.token, first.is_buy, first.amount_attos) == (WETH.address, True, 10**18)
    assert (second.token, second.is_buy) == (USDC.address, False)
    assert second.amount_attos == 2_510_830_001 * 10**12
    assert first.usd_micros == second.usd_micros == 2_510_830_001
    assert (first.leg, second.leg) == (0, 1)
    assert (first.reserve_token, first.reserve_quote) == (500.0, 1_000_000.0)
    assert (second.reserve_token, second.reserve_quote) == (1_000_000.0, 500.0)
    assert (first.block_number, first.block_hash) == (7, BLOCK.hash)
    assert first.trader == "0x" + "f0" * 20
    assert first.timestamp == 1_621_972_734_000


@pytest.mark.parametrize(
    ("amounts", "moves"),
    [
        pytest.param((5, -3), True, id="token0 in"),
        pytest.param((-5, 3), True, id="token1 in"),
        pytest.param((5, 3), False, id="both in: a donation"),
        pytest.param((-5, -3), False, id="both out"),
        pytest.param((1, 0), False, id="1 unit in, nothing out"),
        pytest.param((0, -1), False, id="nothing in"),
        pytest.param((0, 0), False, id="nothing"),
    ],
)
def test_a_swap_gives_one_token_for_another(amounts: tuple[int, int], moves: bool) -> None:
    assert moves_both_ways(*amounts) is moves


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**256 - 1), st.integers(0, 77))
def test_decimal_texts_are_exact_and_plain(amount: int, decimals: int) -> None:
    shown = decimal_text(amount, decimals)
    assert int(Decimal(shown).as_tuple().exponent) <= 0
    whole, _, fraction = shown.partition(".")
    assert int(whole) * 10**decimals + int(fraction.ljust(decimals, "0") or 0) == amount
    assert not shown.endswith(".")
    assert "E" not in shown.upper()
    assert whole == "0" or not whole.startswith("0")


def test_amounts_that_an_event_cannot_have_do_not_fit() -> None:
    most = 10**30 * 10**18 - 1
    for amount, ok in ((most, True), (most + 1, False)):
        one = swap(MEME, -amount, WETH, 10**18)
        assert fits(one) is ok
        if ok:
            assert decode_swap(encode(events(one)[0]).value, 1_621_972_734_000, 300_000)


@pytest.mark.parametrize(
    ("usd", "text"),
    [
        (None, None),
        ("0", "0.000000"),
        ("0.0000005", "0.000000"),  # half to even, as the decoder rounds
        ("1234.5678915", "1234.567892"),
        ("9223372036854", "9223372036854.000000"),
        ("9223372036855", None),
        ("1E+3", "1000.000000"),
    ],
)
def test_the_value_is_plain_micro_usd_or_unknown(usd: str | None, text: str | None) -> None:
    for event in events(swap(MEME, -1, WETH, 1), usd):
        assert event.amount_usd == text
        assert decode_swap(encode(event).value, 1_621_972_734_000, 300_000)


@pytest.mark.parametrize(
    ("trader", "who"), [("tx_from", "0x" + "f0" * 20), ("recipient", "0x3e"), ("none", None)]
)
def test_the_trader_is_a_choice(trader: Trader, who: str | None) -> None:
    assert trader_of(swap(MEME, -1, WETH, 1), BLOCK, trader) == who
