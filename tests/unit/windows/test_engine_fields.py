"""What each window says beside its sums, case by case, with explicit numbers.

Distinct traders, the largest trade, the previous window, swaps of future minutes, and the state
after a retraction. Every case holds for each engine and for the recomputation.
"""

from __future__ import annotations

import json

import msgspec
import pytest

from aggregator.contracts.stats import PreviousWindow, TokenStats, WindowStats
from aggregator.contracts.verdict import Verdict
from aggregator.decoding.rules import decode_swap
from tests.support.oracle import MINUTE
from tests.unit.windows.service import (
    GRACE,
    LONG_AGO,
    MAX_FUTURE,
    SMALL,
    T0,
    Engine,
    Service,
    apply,
    every_engine,
    swap_event,
)

pytestmark = every_engine

NEXT = T0 + MINUTE


def token(service: Service) -> TokenStats:
    """Return the numbers of the only token after the recomputation has confirmed them."""
    service.assert_right()
    return service.board["ethereum:TKN"]


def distinct(window: WindowStats) -> tuple[int, int, int]:
    return window.traders, window.buyers, window.sellers


def test_a_trader_counts_once_a_window_and_once_a_side(engine: Engine) -> None:
    service = Service(engine, now=T0)
    trades = [(0, "ann", "buy"), (1, "ann", "buy"), (2, "ann", "sell"), (3, "bob", "sell")]
    for number, (at, trader, side) in enumerate(trades):
        service.read(swap_event(T0 + at, number, trader=trader, side=side))
    service.publish(T0)
    assert distinct(token(service).windows["1m"]) == (2, 1, 2)


def test_a_trader_stays_as_long_as_the_newest_of_its_minutes(engine: Engine) -> None:
    service = Service(engine, now=T0 - 2 * MINUTE)
    service.read(swap_event(T0 - 2 * MINUTE, 0, trader="ann"))
    service.publish(T0)
    service.read(swap_event(T0, 1, trader="ann", side="sell"))
    shown = []
    for minute in range(4):
        service.publish(T0 + minute * MINUTE)
        shown.append(distinct(token(service).windows["3m"]))
    assert shown == [(1, 1, 1), (1, 0, 1), (1, 0, 1), (0, 0, 0)]


def test_a_trader_that_is_read_out_of_order_stays_to_its_newest_minute(engine: Engine) -> None:
    service = Service(engine, now=T0)
    for number, minute in enumerate([0, -2, -1]):
        service.read(swap_event(T0 + minute * MINUTE, number, trader="ann"))
    shown = []
    for minute in range(4):
        service.publish(T0 + minute * MINUTE)
        shown.append(distinct(token(service).windows["3m"]))
    assert shown == [(1, 1, 0), (1, 1, 0), (1, 1, 0), (0, 0, 0)]


def test_a_trade_without_a_trader_is_in_no_distinct_count(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0))
    service.read(swap_event(T0, 1, trader="ann", amount_usd=None))
    service.publish(T0)
    window = token(service).windows["1m"]
    assert (window.trades, *distinct(window)) == (2, 1, 1, 0)


def test_an_address_is_one_trader_however_it_is_written(engine: Engine) -> None:
    service = Service(engine, now=T0)
    for number, name in enumerate(["0x" + "aB" * 20, "0x" + "Ab" * 20, "Ann", "ann"]):
        service.read(swap_event(T0, number, trader=name))
    service.publish(T0)
    assert token(service).windows["1m"].traders == 3


def test_the_same_trader_of_two_tokens_counts_in_each(engine: Engine) -> None:
    service = Service(engine, now=T0)
    for number, name in enumerate(["AAA", "BBB", "BBB"]):
        service.read(swap_event(T0, number, token=name, trader="ann"))
    service.publish(T0)
    service.assert_right()
    assert [stats.windows["1m"].traders for stats in service.board.values()] == [1, 1]


def test_when_the_largest_trade_leaves_the_next_largest_is_shown(engine: Engine) -> None:
    service = Service(engine, now=T0)
    for number, (at, usd) in enumerate([(-MINUTE, "9000.5"), (0, "0.000001"), (0, None)]):
        service.read(swap_event(T0 + at, number, amount_usd=usd))
    shown = []
    for minute in (0, 2, 3):
        service.publish(T0 + minute * MINUTE)
        shown.append(token(service).windows["3m"].largest_trade_usd)
    assert shown == ["9000.500000", "0.000001", None]


def test_a_swap_for_nothing_is_the_largest_where_it_is_the_only_one(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, amount_usd="0"))
    service.publish(T0)
    assert token(service).windows["1m"].largest_trade_usd == "0.000000"


def test_the_window_before_has_the_minutes_that_the_window_left(engine: Engine) -> None:
    service = Service(engine, now=T0, history_from=LONG_AGO)
    for number, (at, price) in enumerate([(0, "8"), (1, "10"), (2 * MINUTE, "5")]):
        service.read(swap_event(T0 + at, number, price_usd=price))
    shown = []
    for minute in range(9):
        service.publish(T0 + minute * MINUTE)
        window = token(service).windows["3m"]
        assert window.previous is not None
        shown.append((window.trades, window.previous.trades, window.previous.price_change_pct))
    assert shown == [
        (2, 0, None),
        (2, 0, None),
        (3, 0, None),
        (1, 2, 25.0),
        (1, 2, 25.0),
        (0, 3, -37.5),
        (0, 1, 0.0),
        (0, 1, 0.0),
        (0, 0, None),
    ]
    assert window.previous == PreviousWindow("0.000000", 0, None)


def test_a_swap_that_is_read_late_goes_in_the_window_before(engine: Engine) -> None:
    service = Service(engine, now=T0, history_from=LONG_AGO)
    service.read(swap_event(T0 - MINUTE, 0))
    service.read(swap_event(T0, 1, amount_usd="1.5"))
    service.publish(T0)
    previous = token(service).windows["1m"].previous
    assert previous == PreviousWindow("10.000000", 1, 0.0)


@pytest.mark.parametrize(
    ("history_from", "shown"),
    [
        pytest.param(T0 - 5 * MINUTE, True, id="begins with the window before"),
        pytest.param(T0 - 5 * MINUTE + 1, False, id="a ms of the window before is missing"),
    ],
)
def test_the_window_before_is_unknown_unless_the_history_has_it_whole(
    engine: Engine, history_from: int, shown: bool
) -> None:
    service = Service(engine, now=T0, history_from=history_from)
    service.read(swap_event(T0, 0))
    service.publish(T0)
    window = token(service).windows["3m"]
    assert (window.complete, window.previous is not None) == (True, shown)


def test_a_token_is_dirty_when_the_history_comes_to_cover_a_window(engine: Engine) -> None:
    service = Service(engine, now=T0, history_from=T0 + 1)
    service.read(swap_event(T0, 0))
    shown = []
    for minute in range(7):
        service.publish(T0 + minute * MINUTE)
        window = token(service).windows["3m"]
        shown.append((window.complete, window.previous is not None))
    assert shown == 3 * [(False, False)] + 3 * [(True, False)] + [(True, True)]


def test_before_its_minute_a_swap_shows_in_the_verdicts_alone(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, symbol="OLD", price_usd="1"))
    service.read(swap_event(NEXT, 1, symbol="NEW", price_usd="2", trader="ann", amount_usd=None))
    service.publish(NEXT - 1)
    before = token(service)
    assert (before.symbol, before.last_price_usd, before.last_trade_at) == ("OLD", "1", T0)
    assert (before.windows["7m"].trades, before.quality.unpriced) == (1, 0)
    assert service.engine().counts[Verdict.COUNTED] == 2
    service.publish(NEXT)
    after = token(service)
    assert (after.symbol, after.last_price_usd, after.last_trade_at) == ("NEW", "2", NEXT)
    assert (after.windows["7m"].trades, after.quality.unpriced) == (2, 1)
    assert distinct(after.windows["7m"]) == (1, 1, 0)


def test_a_token_is_not_shown_before_the_minute_of_its_first_swap(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0 + MAX_FUTURE, 0))
    service.publish(T0 + MAX_FUTURE - 1, forget=True)
    assert service.board == {}
    service.publish(T0 + MAX_FUTURE)
    assert token(service).windows["1m"].trades == 1


def test_a_repeat_of_a_swap_of_a_future_minute_is_a_duplicate_immediately(engine: Engine) -> None:
    service = Service(engine, now=T0)
    for _ in range(2):
        service.read(swap_event(NEXT, 0))
    service.publish(T0)
    assert (token(service).quality.duplicates, token(service).windows["7m"].trades) == (1, 0)
    service.publish(NEXT)
    assert (token(service).quality.duplicates, token(service).windows["7m"].trades) == (1, 1)


def test_a_swap_of_a_future_minute_and_its_retraction_apply_together(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(NEXT, 0, amount_usd=None, trader="ann"))
    service.read(swap_event(NEXT, 0, amount_usd=None, trader="ann", removed=True))
    service.publish(T0)
    assert service.board == {}
    assert service.engine().counts[Verdict.UNDONE] == 1
    service.publish(NEXT)
    shown = token(service)
    assert (shown.quality.retracted, shown.quality.unpriced) == (1, 0)
    assert (shown.windows["1m"].trades, shown.windows["1m"].approximate) == (0, True)


def test_a_leap_of_the_clock_past_a_held_swap_leaves_its_last_price(engine: Engine) -> None:
    service = Service(engine, now=T0, history_from=LONG_AGO)
    service.read(swap_event(NEXT, 0, price_usd="3"))
    service.publish(NEXT + 60 * MINUTE)
    shown = token(service)
    assert (shown.last_price_usd, shown.last_trade_at) == ("3", NEXT)
    assert [window.trades for window in shown.windows.values()] == [0, 0, 0]
    assert service.engine().bucket_count == 0


def test_a_swap_of_a_future_minute_makes_no_other_late(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0 + MAX_FUTURE, 0))
    service.read(swap_event(T0 - 6 * MINUTE, 1))
    service.publish(T0)
    shown = token(service)
    assert (shown.quality.late, shown.windows["7m"].trades) == (0, 1)


def test_a_retraction_of_a_held_swap_is_held_whatever_its_own_time(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(NEXT, 0, price_usd="3"))
    service.read(swap_event(NEXT + 1, 1, price_usd="4"))
    service.read(swap_event(T0 - MINUTE, 0, amount="7", removed=True))
    service.publish(T0)
    assert service.board == {}
    service.publish(NEXT)
    window = token(service).windows["1m"]
    assert (window.trades, window.close_usd, window.approximate) == (1, "4", True)


def test_a_token_with_a_swap_of_a_future_minute_is_not_forgotten(engine: Engine) -> None:
    windows = engine(partition=0, windows=SMALL, now_ms=T0, history_from=LONG_AGO)
    now = decode_swap(json.dumps(swap_event(T0, 0)).encode(), T0, MAX_FUTURE)
    # A clock that lags far holds swaps for long.
    later = msgspec.structs.replace(now, timestamp=T0 + 40 * MINUTE)
    apply(windows, [now, later], [0, 1], "CC", {})
    windows.advance(T0 + 20 * MINUTE)
    windows.take_dirty()
    assert windows.forget_idle() == []
    windows.advance(T0 + 40 * MINUTE)
    assert windows.stats(now.token_id, epoch=1, seq=1, next_offset=2).windows["1m"].trades == 1
    windows.advance(T0 + 60 * MINUTE)
    windows.take_dirty()
    assert windows.forget_idle() == [now.token_id]


def test_a_retraction_makes_the_windows_that_hold_its_minute_approximate(engine: Engine) -> None:
    service = Service(engine, now=T0, history_from=LONG_AGO)
    for number, (price, usd) in enumerate([("5", "10"), ("9", "70"), ("6", "20")]):
        service.read(swap_event(T0 + number, number, price_usd=price, amount_usd=usd))
    service.publish(T0)
    assert not token(service).windows["1m"].approximate
    service.read(swap_event(T0 + 1, 1, price_usd="9", amount_usd="70", removed=True))
    service.publish(T0)
    window = token(service).windows["1m"]
    assert window.approximate
    assert (window.trades, window.volume_usd) == (2, "30.000000")
    assert (window.high_usd, window.largest_trade_usd) == ("9", "70.000000")
    service.publish(NEXT)
    shown = token(service).windows
    assert [window.approximate for window in shown.values()] == [False, True, True]
    assert shown["1m"].previous == PreviousWindow("30.000000", 2, 20.0)


def test_a_minute_that_retractions_emptied_can_fill_again(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, price_usd="100", amount_usd="900", trader="ann"))
    service.read(swap_event(T0, 0, price_usd="100", amount_usd="900", trader="ann", removed=True))
    service.publish(T0)
    window = token(service).windows["1m"]
    assert (window.trades, window.open_usd, window.largest_trade_usd) == (0, None, None)
    service.read(swap_event(T0, 1, price_usd="2", amount_usd="3"))
    service.publish(T0)
    window = token(service).windows["1m"]
    assert (window.open_usd, window.high_usd, window.largest_trade_usd) == ("2", "2", "3.000000")
    assert window.approximate


def test_a_retraction_of_what_is_long_gone_is_counted_and_changes_nothing(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, amount_usd=None))
    service.publish(T0)
    service.publish(T0 + 14 * MINUTE, forget=True)
    assert service.board == {}
    service.read(swap_event(T0, 0, amount_usd=None, removed=True))
    service.publish(T0 + 14 * MINUTE)
    shown = service.board["ethereum:TKN"]
    assert (shown.quality.retracted, shown.quality.unpriced) == (1, 0)
    assert [window.trades for window in shown.windows.values()] == [0, 0, 0]
    assert not any(window.approximate for window in shown.windows.values())


def test_a_token_with_late_swaps_only_is_held_as_long_as_one_with_trades(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, token="TRADED"))
    service.read(swap_event(T0 - GRACE - MINUTE, 1, token="LATE"))
    service.publish(T0 + 13 * MINUTE, forget=True)
    assert service.board["ethereum:LATE"].quality.late == 1
    service.read(swap_event(T0 - GRACE - MINUTE, 1, token="LATE"))
    service.publish(T0 + 14 * MINUTE, forget=True)
    assert set(service.board) == {"ethereum:LATE"}
    assert service.board["ethereum:LATE"].quality.duplicates == 1
    service.publish(T0 + 27 * MINUTE, forget=True)
    assert service.board == {}
