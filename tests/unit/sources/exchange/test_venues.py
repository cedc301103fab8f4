"""The formats of five venues: recorded frames, today's documents, and what must be rejected."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.runtime.errors import BadMessage
from sources.exchange.events import EventWriter
from sources.exchange.trades import (
    Ack,
    Closing,
    ExchangeTrade,
    Instrument,
    Refusal,
    TradeGap,
    VenueHeartbeat,
    VenuePage,
)
from sources.exchange.venues import VENUES
from tests.support import exchange_wire as wire
from tests.support.exchange_wire import Made

DATA = Path(__file__).parents[3] / "data/sources"
EVERY = sorted(VENUES)
NUMBERED = [name for name in EVERY if VENUES[name].numbered]


def lines(name: str) -> Iterator[dict[str, Any]]:
    with gzip.open(DATA / name, "rt") as file:
        yield from map(json.loads, file)


def recorded(venue: str) -> list[bytes]:
    return [
        row["frame"].encode() for row in lines("exchange_frames.ndjson.gz") if row["venue"] == venue
    ]


def trades_of(venue: str, frame: bytes) -> list[ExchangeTrade]:
    message = VENUES[venue].read(frame)
    return list(message) if isinstance(message, (list, tuple)) else []


@pytest.mark.parametrize(("venue", "count"), [("coinbase", 107), ("okx", 74)])
def test_recorded_frames_give_the_recorded_events(venue: str, count: int) -> None:
    events = {
        (each["tx_hash"], each["log_index"]): each
        for each in lines("exchange_events.ndjson.gz")
        if each["chain"].startswith(venue)
    }
    writer = EventWriter(VENUES[venue], ("USDT", "USDC"))
    trades = [trade for frame in recorded(venue) for trade in trades_of(venue, frame)]
    assert len(trades) == count
    compared = 0
    for trade in trades:
        expected = events.get((trade.symbol, trade.id))
        base, quote = trade.symbol.split("-")[:2]
        market = Instrument(trade.symbol, base, quote, trade.symbol)
        event = json.loads(writer.record(market, trade).value)
        if expected is None or expected["chain"] != venue:
            continue  # not spot
        compared += 1
        for field in ("timestamp", "token", "symbol", "quote", "side", "amount", "price_usd"):
            assert event.get(field) == expected.get(field), field
        usd, expected_usd = event.get("amount_usd"), expected["amount_usd"]
        assert (usd and Decimal(usd)) == (expected_usd and Decimal(expected_usd))
    assert compared > 20


@pytest.mark.parametrize("venue", ["binance", "bybit", "kraken"])
def test_recorded_frames_of_other_formats_are_rejected(venue: str) -> None:
    """Binance aggTrade has other ids; Kraken v1 and Bybit v1 are what the venues sent in 2021."""
    for frame in recorded(venue):
        with pytest.raises(BadMessage):
            VENUES[venue].read(frame)


# Examples of the venues' documents (see each module), and one frame of Bybit as published in 2026.
DOCUMENTED = {
    "binance": (
        b'{"stream":"bnbbtc@trade","data":{"e":"trade","E":1672515782136,"s":"BNBBTC","t":12345,'
        b'"p":"0.001","q":"100","T":1672515782136,"m":true,"M":true}}',
        ExchangeTrade("BNBBTC", 12345, Decimal("0.001"), Decimal("100"), "sell", 1672515782136),
    ),
    "bybit": (
        b'{"topic":"publicTrade.BTCUSDT","ts":1789875217841,"type":"snapshot","data":[{"BT":false,'
        b'"RPI":false,"S":"Sell","T":1789875217840,"i":"2290000001211680903","p":"80413.3",'
        b'"s":"BTCUSDT","seq":114263055846,"v":"0.06"}]}',
        ExchangeTrade(
            "BTCUSDT",
            "2290000001211680903",
            Decimal("80413.3"),
            Decimal("0.06"),
            "sell",
            1789875217840,
        ),
    ),
    "coinbase": (
        b'{"type":"match","trade_id":10,"sequence":50,"maker_order_id":"ac92","taker_order_id":"13",'
        b'"time":"2014-11-07T08:19:27.028459Z","product_id":"BTC-USD","size":"5.23512",'
        b'"price":"400.23","side":"sell"}',
        ExchangeTrade("BTC-USD", 10, Decimal("400.23"), Decimal("5.23512"), "buy", 1415348367028),
    ),
    "kraken": (
        b'{"channel":"trade","type":"update","data":[{"symbol":"MATIC/USD","side":"sell",'
        b'"price":0.5117,"qty":40.0,"ord_type":"market","trade_id":4665906,'
        b'"timestamp":"2023-09-25T07:49:37.708706Z"}]}',
        ExchangeTrade(
            "MATIC/USD", 4665906, Decimal("0.5117"), Decimal("40.0"), "sell", 1695628177708
        ),
    ),
    "okx": (
        b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT",'
        b'"tradeId":"130639474","px":"42219.9","sz":"0.12060306","side":"buy",'
        b'"source":"0","ts":"1630048897897"}]}',
        ExchangeTrade(
            "BTC-USDT", 130639474, Decimal("42219.9"), Decimal("0.12060306"), "buy", 1630048897897
        ),
    ),
}


@pytest.mark.parametrize("venue", EVERY)
def test_documented_frames(venue: str) -> None:
    frame, expected = DOCUMENTED[venue]
    (trade,) = trades_of(venue, frame)
    assert trade == expected
    assert (str(trade.price), str(trade.amount)) == (str(expected.price), str(expected.amount))


@pytest.mark.parametrize("venue", EVERY)
def test_both_sides_and_all_digits_in_stream_and_requests(venue: str) -> None:
    symbol = wire.SYMBOLS[venue][0]
    made = [Made(symbol, number) for number in range(1, 40)]
    (market,) = [each for each in markets(venue) if each.symbol == symbol]
    body = json.dumps(wire.page(venue, VENUES[venue].newest(market), {symbol: made}, 60)).encode()
    streamed = [t for each in made for t in trades_of(venue, wire.frame(venue, each).encode())]
    expected = [
        ExchangeTrade(
            symbol,
            each.number if VENUES[venue].numbered else each.name,
            Decimal(each.price),
            Decimal(each.amount),
            "buy" if each.side == "buy" else "sell",
            each.ms,
        )
        for each in made
    ]
    assert streamed == list(VENUES[venue].read_page(market, body).trades) == expected
    assert [str(each.amount) for each in streamed] == [each.amount for each in made]


def markets(venue: str) -> list[Instrument]:
    exchange = VENUES[venue]
    body = json.dumps(wire.page(venue, exchange.instruments(), {}, 0)).encode()
    return list(exchange.read_instruments(body))


def test_kraken_has_other_names_in_requests() -> None:
    assert markets("kraken") == [
        Instrument("BTC/USD", "BTC", "USD", "XBTUSD"),
        Instrument("DOGE/USD", "DOGE", "USD", "XDGUSD"),
    ]


@pytest.mark.parametrize(
    ("venue", "old", "new", "field"),
    [
        ("binance", b'"p":"0.001"', b'"p":"NaN"', "p"),
        ("binance", b'"q":"100"', b'"q":"0"', "q"),
        ("binance", b'"q":"100"', b'"q":"-1"', "q"),
        ("binance", b'"q":"100"', b'"q":"1e40"', "q"),
        ("binance", b'"q":"100",', b"", "data"),
        ("binance", b'"m":true', b'"m":null', "data"),
        ("binance", b'"m":true', b'"m":"true"', ""),
        ("binance", b'"T":1672515782136', b'"T":1672515782', "T"),
        ("binance", b'"T":1672515782136', b'"T":1672515782136000', "T"),
        ("binance", b'"t":12345', b'"t":-1', "t"),
        ("binance", b'"t":12345', b'"t":9223372036854775808', "t"),
        ("binance", b'"e":"trade"', b'"e":"aggTrade"', ""),
        ("bybit", b'"Sell"', b'"Short"', "S"),
        ("bybit", b'"2290000001211680903"', b'"a b"', "i"),
        ("bybit", b'"v":"0.06"', b'"size":"0.06"', ""),
        ("coinbase", b'"trade_id":10', b'"trade_id":0', "trade_id"),
        ("coinbase", b'459Z"', b'459"', "time"),
        ("coinbase", b"2014-11-07", b"0001-01-01", "time"),
        ("coinbase", b'"match"', b'"trade"', ""),
        ("kraken", b"0.5117", b"[0.5117]", ""),
        ("kraken", b'"channel":"trade"', b'"channel":"book"', ""),
        ("okx", b'"tradeId":"130639474"', b'"tradeId":"13x"', "tradeId"),
        ("okx", b'"source":"0"', b'"count":"3"', "count"),
        ("okx", b"trades-all", b"tickers", ""),
        ("okx", b"}]}", b"}]", ""),
    ],
)
def test_anything_else_is_rejected_with_its_field(
    venue: str, old: bytes, new: bytes, field: str
) -> None:
    frame = DOCUMENTED[venue][0]
    assert old in frame
    with pytest.raises(BadMessage) as refused:
        VENUES[venue].read(frame.replace(old, new))
    assert refused.value.field == field


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just("1e99999")
)


@pytest.mark.parametrize("venue", EVERY)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_frame_with_any_value_is_read_or_rejected(venue: str, data: st.DataObject) -> None:
    frame = json.loads(DOCUMENTED[venue][0])
    places = list(_places(frame))
    holder, key = data.draw(st.sampled_from(places), "place")
    holder[key] = data.draw(ODD, "value")
    try:
        for trade in trades_of(venue, json.dumps(frame).encode()):
            market = Instrument(trade.symbol, "A", "USD", "A")
            EventWriter(VENUES[venue], ()).record(market, trade)
    except BadMessage:
        pass


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield the holder and the key of each value within a JSON value."""
    for key, each in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(each, (dict, list)):
            yield from _places(each)


@pytest.mark.parametrize(
    ("venue", "frame", "meaning"),
    [
        ("binance", '{"result":null,"id":1}', Ack()),
        ("binance", '{"result":["btcusdt@trade"],"id":0}', VenueHeartbeat({})),
        ("binance", '{"error":{"code":2,"msg":"Invalid"},"id":1}', Refusal((), "Invalid")),
        ("binance", '{"data":{"e":"serverShutdown","E":1}}', Closing("serverShutdown")),
        ("coinbase", '{"type":"subscriptions","channels":[]}', Ack()),
        (
            "coinbase",
            '{"type":"heartbeat","last_trade_id":20,"product_id":"BTC-USD","sequence":90}',
            VenueHeartbeat({"BTC-USD": 20}),
        ),
        (
            "coinbase",
            '{"type":"heartbeat","last_trade_id":0,"product_id":"BTC-USD"}',
            VenueHeartbeat({}),
        ),
        (
            "coinbase",
            '{"type":"error","message":"Failed to subscribe","reason":"X-Y is not valid"}',
            Refusal((), "Failed to subscribe: X-Y is not valid"),
        ),
        ("kraken", '{"channel":"heartbeat"}', VenueHeartbeat({})),
        ("kraken", '{"method":"pong","req_id":1}', VenueHeartbeat({})),
        (
            "kraken",
            '{"channel":"status","type":"update","data":[{"system":"online"}]}',
            VenueHeartbeat({}),
        ),
        (
            "kraken",
            '{"method":"subscribe","result":{"symbol":"BTC/USD"},"success":true}',
            Ack(),
        ),
        (
            "kraken",
            '{"error":"Currency pair not supported X/Y","method":"subscribe","success":false,'
            '"symbol":"X/Y"}',
            Refusal(["X/Y"], "Currency pair not supported X/Y"),
        ),
        ("okx", "pong", VenueHeartbeat({})),
        ("okx", '{"event":"subscribe","arg":{"channel":"trades-all","instId":"A-B"}}', Ack()),
        ("okx", '{"event":"error","code":"60018","msg":"no"}', Refusal((), "60018: no")),
        ("okx", '{"event":"notice","code":"64008","msg":"up"}', Closing("64008: up")),
        ("bybit", '{"success":true,"ret_msg":"","op":"subscribe"}', Ack()),
        ("bybit", '{"success":true,"ret_msg":"pong","op":"ping"}', VenueHeartbeat({})),
        ("bybit", '{"success":false,"ret_msg":"no","op":"subscribe"}', Refusal((), "no")),
    ],
)
def test_other_messages(venue: str, frame: str, meaning: object) -> None:
    assert VENUES[venue].read(frame.encode()) == meaning


@pytest.mark.parametrize("venue", EVERY)
def test_a_subscription_names_every_symbol_and_is_answered(venue: str) -> None:
    symbols = wire.SYMBOLS[venue]
    text = VENUES[venue].subscribe(symbols, 1).decode()
    subscribed, replies = wire.answers(venue, text)
    assert subscribed == list(symbols)
    assert all(VENUES[venue].read(reply.encode()) == Ack() for reply in replies)


@pytest.mark.parametrize("venue", NUMBERED)
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_the_requests_for_a_gap_bring_all_of_it(venue: str, data: st.DataObject) -> None:
    symbol = wire.SYMBOLS[venue][0]
    (market,) = [each for each in markets(venue) if each.symbol == symbol]
    happened = data.draw(st.integers(2, 60), "happened")
    first = data.draw(st.integers(2, happened), "first")
    last = data.draw(st.integers(first, happened), "last")
    most = data.draw(st.integers(2, 20), "page")
    tape = {symbol: [Made(symbol, number) for number in range(1, happened + 1)]}
    gap = TradeGap(first, last, tape[symbol][first - 2].ms)
    found: set[int | str] = set()
    page: VenuePage | None = None
    asked = 0
    while (path := VENUES[venue].fill(market, gap, page)) is not None:
        body = json.dumps(wire.page(venue, path, tape, most)).encode()
        page = VENUES[venue].read_page(market, body)
        found |= {trade.id for trade in page.trades}
        asked += 1
        assert asked < 100
    assert found >= set(range(first, last + 1))


@pytest.mark.parametrize("venue", NUMBERED)
def test_the_requests_end_where_the_venue_has_no_more(venue: str) -> None:
    symbol = wire.SYMBOLS[venue][0]
    (market,) = [each for each in markets(venue) if each.symbol == symbol]
    tape = {symbol: [Made(symbol, number) for number in (8, 9, 12)]}
    gap, page, asked = TradeGap(2, 11, Made(symbol, 1).ms), None, 0
    while (path := VENUES[venue].fill(market, gap, page)) is not None:
        body = json.dumps(wire.page(venue, path, tape, 2)).encode()
        page = VENUES[venue].read_page(market, body)
        asked += 1
        assert asked < 10


@pytest.mark.parametrize(
    ("venue", "body"),
    [
        ("binance", b'{"code":-1121,"msg":"Invalid symbol."}'),
        ("coinbase", b'{"message":"NotFound"}'),
        ("kraken", b'{"error":["EQuery:Unknown asset pair"]}'),
        ("kraken", b'{"error":[],"result":{"X":[["1.0","2.0",1.5]],"last":"1"}}'),
        ("okx", b'{"code":"51001","data":[],"msg":"Instrument ID does not exist"}'),
        ("bybit", b'{"retCode":10001,"retMsg":"Not supported symbols","result":{}}'),
        ("bybit", b"<html>"),
    ],
)
def test_an_answer_of_another_form_is_rejected(venue: str, body: bytes) -> None:
    with pytest.raises(BadMessage):
        VENUES[venue].read_page(markets(venue)[0], body)
