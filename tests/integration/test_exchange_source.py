"""A source of an exchange against a venue on loopback: whatever fails, all trades arrive."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from random import Random
from typing import Any

import msgspec
import pytest

from sources.exchange.config import ExchangeSource, ExchangeUrls, Timing
from sources.exchange.rest import HttpRest
from sources.exchange.session import Session
from sources.exchange.venues.binance import Binance
from sources.exchange.venues.bybit import Bybit
from sources.metrics import Outcome, SourceMetrics
from tests.fakes.sources import MemoryBroker, MemoryJournal, MemorySink
from tests.support.exchange_server import LoopbackExchange, ids
from tests.support.exchange_wire import SYMBOLS, Made

FAST = Timing(silent=5, ping=1, overlap=0.1, grace=0.02, journal=0.02, again=(0.01, 0.1))
# A busy machine may read one of two connections long before the other.
PATIENT = msgspec.structs.replace(FAST, grace=10)
EVERY = sorted(SYMBOLS)
NUMBERED = [venue for venue in EVERY if venue != "bybit"]
PATIENCE_S = 30


class Reading:
    """A running source of a loopback exchange, and what it has sent."""

    def __init__(
        self, broker: MemoryBroker, metrics: SourceMetrics, outcomes: list[Outcome]
    ) -> None:
        self.broker = broker
        self.metrics = metrics
        self.outcomes = outcomes

    def sent(self) -> set[tuple[str, int]]:
        return {(each["tx_hash"], each["log_index"]) for each in self.events()}

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(record.value) for record in self.broker.records]

    def held(self, symbol: str) -> Any:
        return json.loads(self.broker.journals["test"].get(f"symbol:{symbol}", b"null"))


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not true():  # noqa: ASYNC110 - the source does not tell a test what it does
            await asyncio.sleep(0.01)


@asynccontextmanager
async def reading(
    exchange: LoopbackExchange,
    broker: MemoryBroker | None = None,
    *,
    symbols: Sequence[str] = (),
    timing: Timing = FAST,
    capacity: int = 50_000,
) -> AsyncIterator[Reading]:
    """Run a source and wait until it has subscribed; kill it without a word at the end."""
    broker = broker or MemoryBroker()
    journal = MemoryJournal("test", broker)
    source = ExchangeSource(
        "test",
        exchange.venue,
        tuple(symbols or exchange.symbols[:1]),
        () if "USDT-USD" in symbols else ("USDT",),
        ExchangeUrls(exchange.stream_url, exchange.rest_url),
    )
    metrics = SourceMetrics("test", "exchange", exchange.venue)
    outcomes: list[Outcome] = []
    rest = HttpRest(exchange.rest_url, 0.0, count=outcomes.append, clock=time.monotonic)
    session = Session(
        source, MemorySink(broker), journal, metrics, rest, timing=timing, capacity=capacity
    )
    task = asyncio.create_task(session.run())
    opened = exchange.opened
    waiting = asyncio.create_task(exchange.subscribed(opened=opened + 1))
    done, _ = await asyncio.wait(
        {task, waiting}, timeout=PATIENCE_S, return_when=asyncio.FIRST_COMPLETED
    )
    waiting.cancel()
    if task in done:
        await task
    assert waiting in done
    try:
        yield Reading(broker, metrics, outcomes)
    finally:
        task.cancel()
        await asyncio.wait({task})
        await journal.lose()
    assert task.cancelled()


@pytest.mark.parametrize("venue", EVERY)
async def test_a_burst_arrives_whole_with_every_digit(venue: str) -> None:
    async with LoopbackExchange(venue) as exchange, reading(exchange) as source:
        made = await exchange.trade(5_000)
        await until(lambda: len(source.broker.records) >= 5_000)
    events = source.events()
    assert source.sent() == ids(venue, made)
    assert len(events) == 5_000
    base = "BTC"
    for trade, event in zip(made, events, strict=True):
        assert (event["chain"], event["token"], event["side"]) == (venue, base, trade.side)
        assert (event["timestamp"], event["amount"]) == (trade.ms, trade.amount)
        assert event["price_usd"] == trade.price
        assert Decimal(event["amount_usd"]) == Decimal(trade.price) * Decimal(trade.amount)
    assert {record.key for record in source.broker.records} == {f"{venue}:{base}".encode()}


@pytest.mark.parametrize("venue", EVERY)
async def test_what_happens_during_a_cut_is_filled(venue: str) -> None:
    async with LoopbackExchange(venue) as exchange, reading(exchange) as source:
        exchange.page = 20 if venue != "bybit" else 60
        made = await exchange.trade(500)
        await until(lambda: len(source.broker.records) == 500)
        await exchange.cut()
        made += exchange.happen(37)
        await exchange.subscribed(opened=2)
        if venue == "bybit":  # has the newest trades only, so the others come after the request
            await until(lambda: len(source.broker.records) == 537)
        made += await exchange.trade(463)
        await until(lambda: len(source.sent()) == 1_000)
    assert source.sent() == ids(venue, made)
    assert len(source.broker.records) == 1_000


@pytest.mark.parametrize("venue", EVERY)
async def test_a_quiet_market_is_filled_after_a_cut_without_a_new_trade(venue: str) -> None:
    async with LoopbackExchange(venue) as exchange, reading(exchange) as source:
        made = await exchange.trade(3)
        await until(lambda: len(source.broker.records) == 3)
        await exchange.cut()
        made += exchange.happen(4)
        await until(lambda: len(source.broker.records) == 7)
    assert source.sent() == ids(venue, made)


@pytest.mark.parametrize("venue", EVERY)
async def test_a_restart_begins_with_the_last_trade_of_the_journal(venue: str) -> None:
    broker = MemoryBroker()
    async with LoopbackExchange(venue) as exchange:
        async with reading(exchange, broker) as source:
            made = await exchange.trade(10)
            symbol = exchange.symbols[0]
            newest = made[-1].name if venue == "bybit" else 10
            await until(lambda: bool(source.held(symbol)) and source.held(symbol)[0] == newest)
        made += exchange.happen(40)
        async with reading(exchange, broker) as source:
            await until(lambda: len(source.sent()) == 50)
    assert source.sent() == ids(venue, made)


async def test_kills_at_any_instant_lose_nothing() -> None:
    broker, draw = MemoryBroker(), Random(7)
    async with LoopbackExchange("binance") as exchange:
        exchange.page = 30
        async with reading(exchange, broker) as source:
            made = await exchange.trade(1)
            await until(lambda: bool(source.held("BTCUSDT")))
        for _ in range(8):
            async with reading(exchange, broker):
                for _ in range(draw.randrange(1, 12)):
                    made += exchange.happen(draw.randrange(3))
                    made += await exchange.trade(draw.randrange(1, 20))
                    await asyncio.sleep(draw.choice((0, 0, 0.005, 0.03)))
        async with reading(exchange, broker) as source:
            made += await exchange.trade(1)
            await until(lambda: ids("binance", made) <= source.sent())
    assert source.sent() == ids("binance", made)


@pytest.mark.parametrize("venue", NUMBERED)
async def test_repeats_and_disorder_send_each_trade_once(venue: str) -> None:
    async with LoopbackExchange(venue) as exchange, reading(exchange) as source:
        made = await exchange.trade(1)
        later = exchange.happen(60)
        await exchange.send([*later[40:], *later[::-1], *later[:30]])
        await until(lambda: len(source.broker.records) == 61)
        last = await exchange.trade(1)
        await until(lambda: len(source.broker.records) == 62)
    assert source.sent() == ids(venue, made + later + last)


@pytest.mark.parametrize("venue", NUMBERED)
async def test_skipped_trades_are_asked_for_page_by_page(venue: str) -> None:
    async with LoopbackExchange(venue) as exchange, reading(exchange) as source:
        exchange.page = 7
        made = await exchange.trade(5)
        made += exchange.happen(100)
        made += await exchange.trade(1)
        await until(lambda: len(source.broker.records) == 106)
    assert source.sent() == ids(venue, made)
    assert len(exchange.requests) >= 100 // 7


async def test_trades_that_the_venue_does_not_have_are_counted_and_shown_as_lost() -> None:
    async with LoopbackExchange("binance") as exchange, reading(exchange) as source:
        made = await exchange.trade(5)
        exchange.happen(10)
        exchange.served_from = 13
        await exchange.trade(1)
        await until(lambda: source.metrics.status().gaps_unfilled == 1)
        await until(lambda: source.metrics.status().state == "live")
        await until(lambda: source.held("BTCUSDT") == [16, made[0].ms + 150, []])
    assert source.sent() == ids("binance", [*made, *exchange.tape["BTCUSDT"][12:]])


async def test_a_gap_longer_than_bybit_tells_is_reported() -> None:
    async with LoopbackExchange("bybit") as exchange, reading(exchange) as source:
        exchange.page = 60
        made = await exchange.trade(5)
        await until(lambda: len(source.broker.records) == 5)
        await exchange.cut()
        missed = exchange.happen(100)
        await until(lambda: source.metrics.status().gaps_unfilled == 1)
        await until(lambda: len(source.broker.records) == 65)
    assert source.sent() == ids("bybit", made + missed[40:])


async def test_what_happens_before_the_last_symbol_is_subscribed_is_filled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slow = msgspec.structs.replace(Bybit.limits, symbols_a_message=1, message_s=0.3)
    monkeypatch.setattr(Bybit, "limits", slow)
    async with (
        LoopbackExchange("bybit") as exchange,
        reading(exchange, symbols=exchange.symbols) as source,
    ):
        await until(lambda: len(exchange.heard) == 2)
        made = await exchange.trade(1) + await exchange.trade(1, "ETHUSDT")
        await until(lambda: len(source.broker.records) == 2)

        def trade_before(symbols: list[str]) -> None:
            if symbols == ["ETHUSDT"]:
                made.extend(exchange.happen(2, "ETHUSDT"))

        exchange.before_subscribing = trade_before
        await exchange.cut()
        await until(lambda: len(source.broker.records) == 4)
    assert source.sent() == ids("bybit", made)


async def test_refused_requests_are_repeated_and_hold_up_no_other_market() -> None:
    async with (
        LoopbackExchange("coinbase") as exchange,
        reading(exchange, symbols=exchange.symbols) as source,
    ):
        made = await exchange.trade(2)
        exchange.refusals = [(429, "1"), (503, ""), (400, "")]
        made += exchange.happen(10)
        made += await exchange.trade(1)
        other = await exchange.trade(500, "ETH-USD")
        await until(lambda: ids("coinbase", other) <= source.sent())
        assert not ids("coinbase", made) <= source.sent()
        await until(lambda: ids("coinbase", made) <= source.sent())
    assert source.outcomes == ["ok", "limited", "failed", "refused", "ok"]


async def test_a_stablecoin_has_the_price_of_its_own_pair_from_the_first_trade() -> None:
    async with LoopbackExchange("coinbase") as exchange:
        exchange.symbols = ("BTC-USDT", "USDT-USD")
        exchange.happen(20, "USDT-USD")
        async with reading(exchange, symbols=exchange.symbols) as source:
            (made,) = await exchange.trade(1, "BTC-USDT")
            await until(lambda: len(source.broker.records) == 1)
            (event,) = source.events()
    # Half of the weight of the 20 trades, whose amounts are 11 to 30, is reached at the 13th.
    rate = Made("USDT-USD", 13).price
    assert Decimal(event["price_usd"]) == Decimal(made.price) * Decimal(rate)


async def test_a_heartbeat_that_names_a_newer_trade_has_it_filled() -> None:
    async with LoopbackExchange("coinbase") as exchange, reading(exchange) as source:
        made = await exchange.trade(1)
        made += exchange.happen(2)
        beat = {"type": "heartbeat", "last_trade_id": 3, "product_id": "BTC-USD", "sequence": 1}
        await exchange.say(json.dumps(beat | {"time": made[-1].iso}))
        await until(lambda: len(source.broker.records) == 3)
    assert source.sent() == ids("coinbase", made)


async def test_binance_is_read_without_a_break_over_its_24_hour_cut(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    short = msgspec.structs.replace(Binance.limits, life_s=0.4)
    monkeypatch.setattr(Binance, "limits", short)
    async with (
        LoopbackExchange("binance") as exchange,
        reading(exchange, timing=PATIENT) as source,
    ):
        made: list[Made] = []
        while exchange.opened < 4:
            made += await exchange.trade(1)
            await asyncio.sleep(0.002)
        await until(lambda: len(source.broker.records) == len(made))
    assert source.sent() == ids("binance", made)
    assert not any("historicalTrades" in request for request in exchange.requests)


async def test_a_venue_that_says_it_closes_gets_a_new_connection_first() -> None:
    async with LoopbackExchange("okx") as exchange, reading(exchange) as source:
        notice = {"event": "notice", "code": "64008", "msg": "upgrade", "connId": "a"}
        await exchange.say(json.dumps(notice))
        await exchange.subscribed(sockets=2)
        made = await exchange.trade(3)
        await exchange.subscribed(sockets=1, opened=2)
        made += await exchange.trade(3)
        await until(lambda: len(source.broker.records) == 6)
    assert source.sent() == ids("okx", made)


async def test_a_successor_that_fails_leaves_the_connection_as_it_is() -> None:
    hasty = msgspec.structs.replace(PATIENT, silent=3.0, ping=0.5)
    async with LoopbackExchange("okx") as exchange, reading(exchange, timing=hasty) as source:
        exchange.muted = True
        await exchange.say(json.dumps({"event": "notice", "code": "64008", "msg": "upgrade"}))
        made: list[Made] = []
        while exchange.opened < 3:
            made += await exchange.trade(1)
            await asyncio.sleep(0.02)
        exchange.muted = False
        await exchange.subscribed(opened=4)
        await until(lambda: len(source.broker.records) == len(made))
    assert source.sent() == ids("okx", made)
    assert not any("history-trades" in request for request in exchange.requests)


async def test_a_changed_format_is_counted_and_shown_and_never_guessed() -> None:
    async with LoopbackExchange("kraken") as exchange, reading(exchange) as source:
        made = await exchange.trade(1)
        await until(lambda: len(source.broker.records) == 1)
        made += exchange.happen(5)
        row = {"symbol": "BTC/USD", "side": "buy", "price": 1.5, "size": 2, "trade_id": 6}
        await exchange.say(json.dumps({"channel": "trade", "type": "update", "data": [row]}))
        await until(lambda: "qty" in source.metrics.status().note)
        assert source.metrics.status().state == "waiting"
        # What the message held is found by requests, whose format is the same.
        await until(lambda: len(source.broker.records) == 6)
    assert source.sent() == ids("kraken", made)


async def test_a_silent_connection_is_replaced() -> None:
    hasty = msgspec.structs.replace(FAST, silent=0.6, ping=0.2)
    async with (
        LoopbackExchange("bybit") as exchange,
        reading(exchange, timing=hasty) as source,
    ):
        exchange.answering = False
        await until(lambda: exchange.opened == 2)
        exchange.answering = True
        await exchange.subscribed(opened=2)
        made = await exchange.trade(1)
        await until(lambda: len(source.broker.records) == 1)
        assert '{"op":"ping"}' in exchange.heard
    assert source.sent() == ids("bybit", made)


async def test_while_kafka_is_away_memory_is_bounded_and_nothing_is_lost() -> None:
    async with LoopbackExchange("okx") as exchange, reading(exchange, capacity=300) as source:
        made = await exchange.trade(1)
        await until(lambda: len(source.broker.records) == 1)
        source.broker.up.clear()
        made += await exchange.trade(1_000)
        await until(lambda: not exchange.sockets)
        assert len(source.broker.records) == 1
        made += exchange.happen(50)
        source.broker.up.set()
        await exchange.subscribed(opened=2)
        await until(lambda: len(source.sent()) == 1_051)
    assert source.sent() == ids("okx", made)


async def test_a_refused_market_leaves_the_others_alone() -> None:
    async with (
        LoopbackExchange("kraken") as exchange,
        reading(exchange, symbols=exchange.symbols) as source,
    ):
        exchange.symbols = ("BTC/USD",)  # the other one is closed for trading
        refusal = {"method": "subscribe", "success": False, "symbol": "DOGE/USD"}
        await exchange.say(json.dumps(refusal | {"error": "Currency pair not supported"}))
        made = await exchange.trade(3)
        await exchange.subscribed(opened=2)
        assert "DOGE/USD" not in exchange.heard[-1]
        made += await exchange.trade(3)
        await until(lambda: len(source.sent()) == 6)
    assert source.sent() == ids("kraken", made)
