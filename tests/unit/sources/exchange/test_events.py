"""A trade as an event: its identity, and its USD by the quote currency."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest

from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import ConfigError
from sources.exchange.config import ExchangeSource, chosen
from sources.exchange.events import EventWriter
from sources.exchange.trades import ExchangeTrade, Instrument
from sources.exchange.venues import VENUES

NOW_MS = 1_790_000_000_000
USDT = Instrument("USDT-USD", "USDT", "USD", "USDT-USD")
TAO = Instrument("TAO-USDT", "TAO", "USDT", "TAO-USDT")


def trade(market: Instrument, price: str, amount: str, number: int | str = 7) -> ExchangeTrade:
    return ExchangeTrade(market.symbol, number, Decimal(price), Decimal(amount), "buy", NOW_MS)


def event(writer: EventWriter, market: Instrument, made: ExchangeTrade) -> dict[str, Any]:
    fields: dict[str, Any] = json.loads(writer.record(market, made).value)
    return fields


def test_a_numbered_trade_has_its_symbol_and_number_as_identity() -> None:
    writer = EventWriter(VENUES["coinbase"], ())
    record = writer.record(USDT, trade(USDT, "0.9990", "58.00000000"))
    assert record.key == b"coinbase:USDT"
    assert json.loads(record.value) == {
        "chain": "coinbase",
        "tx_hash": "USDT-USD",
        "log_index": 7,
        "timestamp": NOW_MS,
        "token": "USDT",
        "side": "buy",
        "amount": "58.00000000",
        "amount_usd": "57.942000000000",
        "price_usd": "0.9990",
        "symbol": "USDT",
        "quote": "USD",
        "venue": "Coinbase",
    }
    decode_swap(record.value, NOW_MS, 0)


def test_a_named_trade_has_its_name_in_the_hash() -> None:
    fields = event(EventWriter(VENUES["bybit"], ()), TAO, trade(TAO, "1", "1", "22-9"))
    assert (fields["tx_hash"], fields["log_index"]) == ("TAO-USDT-22-9", 0)


@pytest.mark.parametrize(
    ("market", "par", "pair", "usd"),
    [
        pytest.param(TAO, (), None, None, id="a stablecoin is no dollar by its name"),
        pytest.param(TAO, ("USDT",), None, "1000", id="but by the setting"),
        pytest.param(TAO, (), "0.9", "900", id="or by its own pair"),
        pytest.param(
            Instrument("ETH-BTC", "ETH", "BTC", "ETH-BTC"), (), "0.9", None, id="no other quote"
        ),
        pytest.param(Instrument("X-USD", "X", "USD", "X-USD"), (), None, "1000", id="dollars"),
    ],
)
def test_usd(market: Instrument, par: tuple[str, ...], pair: str | None, usd: str | None) -> None:
    writer = EventWriter(VENUES["coinbase"], par)
    for number in range(3 if pair else 0):
        writer.record(USDT, trade(USDT, pair or "", "1000", number))
    late = ExchangeTrade(market.symbol, 1, Decimal(100), Decimal(10), "sell", NOW_MS + 1_000)
    fields = event(writer, market, late)
    assert (
        fields.get("amount_usd") is None
        if usd is None
        else Decimal(fields["amount_usd"]) == Decimal(usd)
    )
    assert ("price_usd" in fields) == (usd is not None)
    assert writer.unpriced.total() == (usd is None)


def test_products_are_exact_and_plain() -> None:
    writer = EventWriter(VENUES["coinbase"], ())
    price, amount = "0.00000000123456789012345", "123456789012345678.000000001"
    fields = event(writer, USDT, trade(USDT, price, amount))
    assert (fields["price_usd"], fields["amount"]) == (price, amount)
    digits = fields["amount_usd"].replace(".", "")
    assert int(digits) == 123456789012345 * 123456789012345678000000001
    assert len(fields["amount_usd"].partition(".")[2]) == 23 + 9


def test_wrong_symbols_are_all_named_with_the_nearest() -> None:
    listed = [
        Instrument("BTCUSDT", "BTC", "USDT", "BTCUSDT"),
        Instrument("ETHUSDT", "ETH", "USDT", "ETHUSDT"),
    ]
    assert chosen(["BTC/USDT", "btcusdt", "ETHUSDT"], listed) == listed
    with pytest.raises(ConfigError) as error:
        chosen(["BTCUSDD", "???"], listed)
    assert len(error.value.faults) == 2
    assert "did you mean BTCUSDT?" in error.value.faults[0]
    with pytest.raises(ConfigError, match="at least one"):
        chosen([], listed)


def test_an_unknown_venue_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="binance, bybit, coinbase, kraken, okx"):
        ExchangeSource("x", "mtgox", ("BTCUSD",)).venue_of()


def test_the_key_of_the_venue_is_not_shown() -> None:
    assert "secret" not in repr(ExchangeSource("x", "binance", (), api_key="secret"))
