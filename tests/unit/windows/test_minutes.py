"""The minutes of a token as candles, compared with one-minute windows of the recomputation."""

from __future__ import annotations

import random
from decimal import Decimal
from fractions import Fraction

from aggregator.contracts.trades import CandleRow
from aggregator.windows.engine import ColumnarWindows
from aggregator.windows.minutes import candles_of
from tests.support.oracle import MINUTE, order_of, recompute
from tests.unit.windows.service import GRACE, SMALL, T0, Service, swap_event


def candles(service: Service, token: str) -> list[CandleRow]:
    return candles_of(service.engine().minutes(f"ethereum:{token}"))


def test_every_candle_equals_the_one_minute_window_of_its_minute() -> None:
    rng = random.Random(3)
    service = Service(ColumnarWindows, now=T0)
    for number in range(300):
        service.read(
            swap_event(
                T0 + rng.randrange(-GRACE, 1) // 15_000 * 15_000,
                number,
                block_number=rng.choice([None, 1, 2]),
                token=rng.choice("AB"),
                side=rng.choice(["buy", "sell"]),
                amount=f"{rng.randrange(1, 10**6)}.25",
                amount_usd=None if rng.random() < 0.1 else f"{rng.randrange(1, 10**9)}.000001",
            )
        )
    service.publish(T0)
    compared = 0
    for token in "AB":
        for candle in candles(service, token):
            truth = recompute(
                service.decided,
                now=candle.minute_ms,
                windows=(("1m", 1),),
                history_from=None,
            )[f"ethereum:{token}"].windows["1m"]
            assert candle.trades == truth.trades
            assert int(Decimal(candle.volume_usd) * 10**6) == truth.volume_usd
            assert Fraction(candle.volume_token) == truth.volume_token
            for shown, right in (
                (candle.open, truth.open_usd),
                (candle.high, truth.high_usd),
                (candle.low, truth.low_usd),
                (candle.close, truth.close_usd),
            ):
                assert shown is not None
                assert right is not None
                assert abs(Fraction(shown) - right) < right / 10**12
            places = [
                order_of(each)
                for each in service.log
                if each.event["token"] == token
                and each.event["timestamp"] // MINUTE * MINUTE == candle.minute_ms
                and each.event["amount_usd"] is not None
            ]
            first, last = min(places), max(places)
            assert candle.opened_at == first
            assert candle.closed_at == last
            compared += truth.trades
    assert compared == 300


def test_a_minute_without_a_price_has_none_and_minutes_come_in_order() -> None:
    service = Service(ColumnarWindows, now=T0)
    service.read(swap_event(T0, 0, token="A", amount_usd=None))
    service.read(swap_event(T0 - MINUTE, 1, token="A"))
    service.publish(T0)
    first, second = candles(service, "A")
    assert second.minute_ms - first.minute_ms == MINUTE
    assert (second.open, second.high, second.low, second.close) == (None,) * 4
    assert (second.opened_at, second.closed_at) == (None, None)
    assert (second.trades, second.volume_usd, second.volume_token) == (1, "0.000000", "0")
    assert first.open is not None


def test_the_n_of_a_token_counts_on_and_an_unknown_token_has_none() -> None:
    service = Service(ColumnarWindows, now=T0, windows=SMALL)
    for number in range(3):
        service.read(swap_event(T0, number, token="A"))
    service.publish(T0)
    before = service.engine().minutes("ethereum:A").n
    service.read(swap_event(T0, 2, token="A", removed=True))
    service.read(swap_event(T0, 1, token="A"))
    service.publish(T0)
    after = service.engine().minutes("ethereum:A").n
    assert after - before == 1
    unknown = service.engine().minutes("ethereum:B")
    assert (unknown.n, candles_of(unknown)) == (0, [])


def test_a_future_minute_has_a_candle_as_soon_as_its_trades_have_a_number() -> None:
    service = Service(ColumnarWindows, now=T0)
    for number, price in enumerate(("2", "5", "3")):
        service.read(swap_event(T0 + MINUTE, number, token="A", price_usd=price))
    service.publish(T0)
    early = candles(service, "A")
    assert [(each.minute_ms, each.trades) for each in early] == [(T0 + MINUTE, 3)]
    service.publish(T0 + MINUTE)
    assert candles(service, "A") == early


def test_the_candle_of_a_future_minute_lacks_what_was_taken_out() -> None:
    service = Service(ColumnarWindows, now=T0)
    for number, price in enumerate(("2", "5")):
        service.read(swap_event(T0 + MINUTE, number, token="A", price_usd=price))
    service.read(swap_event(T0 + 2 * MINUTE, 2, token="A"))
    # Its own time and values are others.
    service.read(swap_event(T0 - MINUTE, 1, token="A", amount_usd="777", removed=True))
    service.read(swap_event(T0, 2, token="A", removed=True))
    service.publish(T0)
    first, second = candles(service, "A")
    assert (first.trades, first.volume_usd, first.open) == (1, "10.000000", "2")
    assert (second.trades, second.volume_usd, second.open) == (0, "0.000000", None)
    service.publish(T0 + 2 * MINUTE)
    assert candles(service, "A") == [first, second]


def test_a_published_trade_shows_what_was_taken_out() -> None:
    service = Service(ColumnarWindows, now=T0)
    service.read(swap_event(T0 - MINUTE, 0, token="A", amount_usd="4", side="sell", trader="ann"))
    service.read(swap_event(T0, 0, token="A", amount_usd="777", trader="bob", removed=True))
    service.publish(T0)
    (batch,) = service.engine().take_applied()
    added, removed = batch.swaps
    assert removed["n"] == added["n"] + 1
    for field in ("timestamp", "usd", "amount_low", "price", "buy", "trader"):
        assert removed[field] == added[field]
    assert (removed["offset"], added["offset"]) == (1, 0)
