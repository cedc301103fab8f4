"""The edges of buckets, windows and retraction: a name for each, with explicit numbers.

Every case holds for each engine and for the recomputation that checks it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import msgspec
import pytest

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
    micros,
    swap_event,
)

pytestmark = every_engine

DAY = 24 * 60 * MINUTE


@dataclass(frozen=True)
class Edge:
    """Events at these ms from T0, read at `read_at`; the trades that each window has at `now`."""

    name: str
    events: list[int]
    now: int
    trades: tuple[int, int, int]
    read_at: int | None = None


EDGES = [
    Edge("event and now at the same instant on a minute", [0], 0, (1, 1, 1)),
    Edge("last ms of the running minute, now at its start", [59_999], 0, (1, 1, 1)),
    Edge("first ms of the next minute is not in yet", [60_000], 59_999, (0, 0, 0)),
    Edge("first ms of the next minute enters with it", [60_000], 60_000, (1, 1, 1), read_at=0),
    Edge("now at :59.999 still has the minute's first ms", [0], 59_999, (1, 1, 1)),
    Edge("a ms later the minute is out of the 1m window", [0], 60_000, (0, 1, 1)),
    Edge("last ms of the minute before is out of 1m too", [-1], 0, (0, 1, 1)),
    Edge("first ms of the oldest minute of 3m", [-2 * MINUTE], 0, (0, 1, 1)),
    Edge("a ms before the oldest minute of 3m", [-2 * MINUTE - 1], 0, (0, 0, 1)),
    Edge("3m keeps its oldest minute to the end of now's", [-2 * MINUTE], 59_999, (0, 1, 1)),
    Edge("first ms of the oldest minute of 7m", [-6 * MINUTE], 0, (0, 0, 1)),
    Edge("a ms before the oldest minute of 7m", [-6 * MINUTE - 1], 0, (0, 0, 0)),
    Edge("empty minutes between two trades", [-5 * MINUTE, 0], 0, (1, 1, 2)),
    Edge("the older of two trades leaves alone", [-5 * MINUTE, 0], 2 * MINUTE, (0, 1, 1)),
    Edge("furthest future that is accepted, before its minute", [MAX_FUTURE], 0, (0, 0, 0)),
    Edge(
        "furthest future enters when its minute comes",
        [MAX_FUTURE],
        MAX_FUTURE,
        (1, 1, 1),
        read_at=0,
    ),
    Edge("an event as old as the grace, out of all windows", [-GRACE], 0, (0, 0, 0)),
    Edge("an event between two others", [0, -4 * MINUTE, -2 * MINUTE], 0, (1, 2, 3)),
    Edge(
        "clock leaps over the whole window in one step", [0], 60 * MINUTE, (0, 0, 0), read_at=0
    ),
    Edge(
        "clock leaps to the last minute that holds the trade",
        [0],
        6 * MINUTE + 59_999,
        (0, 0, 1),
        read_at=0,
    ),
]  # fmt: skip


@pytest.mark.parametrize("edge", EDGES, ids=lambda edge: edge.name.replace(" ", "-"))
def test_window_edges(engine: Engine, edge: Edge) -> None:
    service = Service(engine, now=T0 + (edge.now if edge.read_at is None else edge.read_at))
    for number, at in enumerate(edge.events):
        service.read(swap_event(T0 + at, number))
    service.publish(T0 + edge.now)
    service.assert_right()
    shown = service.board.get("ethereum:TKN")
    if shown is None:
        # No minute of it has begun.
        assert edge.trades == (0, 0, 0)
        return
    assert tuple(window.trades for window in shown.windows.values()) == edge.trades
    assert shown.quality.late == 0
    for window, trades in zip(shown.windows.values(), edge.trades, strict=True):
        assert micros(window.volume_usd) == trades * 10_000_000


@pytest.mark.parametrize(("name", "minutes"), SMALL)
def test_a_window_says_which_minutes_it_covers(engine: Engine, name: str, minutes: int) -> None:
    service = Service(engine, now=T0 + 59_999)
    service.read(swap_event(T0))
    service.publish(service.now)
    window = service.board["ethereum:TKN"].windows[name]
    assert (window.open_time, window.close_time) == (T0 - (minutes - 1) * MINUTE, T0 + MINUTE)


def test_open_and_close_go_by_event_time_then_by_block_then_by_log_index_then_by_offset(
    engine: Engine,
) -> None:
    service = Service(engine, now=T0 + 10_000)
    places = [
        # (block_number, log_index), price: the first and the last in the order of trading are 1, 9.
        ((7, 2), "5"),
        ((7, 3), "8"),
        ((7, 3), "9"),
        ((None, 4), "2"),
        ((None, 3), "1"),
        ((None, 3), "4"),
        ((6, 99), "7"),
    ]
    for number, ((block, log_index), price) in enumerate(places):
        event = swap_event(T0 + 1, number, price_usd=price, block_number=block)
        service.read({**event, "log_index": log_index})
    service.publish(service.now)
    shown = service.board["ethereum:TKN"]
    window = shown.windows["1m"]
    assert (window.open_usd, window.close_usd, shown.last_price_usd) == ("1", "9", "9")
    service.assert_right()


def test_the_newest_symbol_goes_by_the_order_of_trading(engine: Engine) -> None:
    service = Service(engine, now=T0 + 10_000)
    for number, (block, symbol) in enumerate([(8, "NEW"), (7, "OLD"), (None, "OLDEST")]):
        service.read(swap_event(T0 + 1, number, symbol=symbol, block_number=block))
    service.publish(service.now)
    assert service.board["ethereum:TKN"].symbol == "NEW"
    service.assert_right()


def test_open_and_close_go_by_event_time_then_by_offset(engine: Engine) -> None:
    service = Service(engine, now=T0 + 10_000)
    for number, (at, price) in enumerate([(5, "3"), (1, "7"), (1, "9"), (5, "4"), (2, "100")]):
        service.read(swap_event(T0 + at, number, price_usd=price))
    service.publish(service.now)
    window = service.board["ethereum:TKN"].windows["1m"]
    assert (window.open_usd, window.high_usd, window.low_usd, window.close_usd) == (
        "7",
        "100",
        "3",
        "4",
    )
    assert window.price_change_pct == pytest.approx((4 - 7) / 7 * 100, abs=0.5001e-4)
    service.assert_right()


def test_a_future_minute_that_enters_below_the_high_leaves_the_high(engine: Engine) -> None:
    service = Service(engine, now=T0)
    for number, (at, price) in enumerate([(0, "10"), (MINUTE, "5"), (2 * MINUTE, "7")]):
        service.read(swap_event(T0 + at, number, price_usd=price))
    for minute, low_and_close in enumerate([("10", "10"), ("5", "5"), ("5", "7")]):
        service.publish(T0 + minute * MINUTE)
        window = service.board["ethereum:TKN"].windows["3m"]
        assert (window.high_usd, window.low_usd, window.close_usd) == ("10", *low_and_close)
        service.assert_right()


def test_an_unpriced_swap_is_a_trade_and_no_volume_and_its_own_price_counts(engine: Engine) -> None:
    service = Service(engine, now=T0 + 10_000)
    service.read(swap_event(T0, 0, amount_usd="10", amount="4"))
    service.read(swap_event(T0 + 1, 1, amount_usd=None, amount="100", side="sell"))
    service.read(swap_event(T0 + 2, 2, amount_usd=None, amount="100", price_usd="5"))
    service.publish(service.now)
    shown = service.board["ethereum:TKN"]
    window = shown.windows["1m"]
    assert (window.trades, window.buys, window.sells) == (3, 2, 1)
    assert (window.volume_usd, window.volume_token, window.vwap_usd) == ("10.000000", "4", "2.5")
    assert (window.open_usd, window.close_usd, window.price_change_pct) == ("2.5", "5", 100.0)
    assert (shown.quality.unpriced, shown.last_price_usd) == (2, "5")
    service.assert_right()


def test_what_was_counted_is_taken_out_whatever_the_retraction_says(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, amount_usd="70", price_usd="9", side="sell"))
    service.read(swap_event(T0 + 1, 1, amount_usd="20"))
    service.publish(T0 + 2 * MINUTE)
    service.read(swap_event(T0 - DAY, 0, amount_usd=None, amount="5", removed=True))
    service.publish(T0 + 2 * MINUTE)
    window = service.board["ethereum:TKN"].windows["3m"]
    assert (window.trades, window.sells, window.volume_usd) == (1, 0, "20.000000")
    service.assert_right()


def test_add_removal_add_counts_once_and_a_repeat_of_all_three_changes_nothing(
    engine: Engine,
) -> None:
    service = Service(engine, now=T0)
    event = swap_event(T0, 0)
    for removed in (False, True, False):
        service.read({**event, "removed": removed})
        service.publish(T0)
        service.assert_right()
    assert service.board["ethereum:TKN"].windows["3m"].trades == 1
    for removed in (False, True, False):
        service.read({**event, "removed": removed})
    service.publish(T0)
    shown = service.board["ethereum:TKN"]
    assert (shown.windows["3m"].trades, shown.windows["3m"].volume_usd) == (1, "10.000000")
    service.assert_right()


def test_a_retraction_of_a_late_swap_is_counted_and_takes_nothing_out(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 1))
    for removed in (False, True):
        service.read(swap_event(T0 - GRACE - 1, 0, removed=removed))
    service.publish(T0)
    shown = service.board["ethereum:TKN"]
    assert (shown.quality.late, shown.quality.retracted) == (1, 1)
    assert (shown.windows["7m"].trades, shown.windows["7m"].approximate) == (1, False)
    service.assert_right()


def test_a_late_swap_that_is_included_again_on_time_counts(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0 - GRACE - 1, 0, block_hash="0xaa"))
    service.read(swap_event(T0, 0, block_hash="0xbb"))
    service.publish(T0)
    assert [each.letter for each in service.decided] == ["L", "P"]
    shown = service.board["ethereum:TKN"]
    assert (shown.quality.late, shown.windows["1m"].trades) == (1, 1)
    service.assert_right()


def test_a_retraction_takes_its_swap_out_of_its_minute_exactly(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, amount_usd="0.1"))
    service.read(swap_event(T0 + 1, 1, amount_usd="0.2"))
    service.publish(T0 + 2 * MINUTE)
    service.read(swap_event(T0, 0, amount_usd="0.1", removed=True))
    service.read(swap_event(T0, 0, amount_usd="0.1", removed=True))
    service.publish(T0 + 2 * MINUTE)
    shown = service.board["ethereum:TKN"]
    assert (shown.quality.retracted, shown.quality.duplicates) == (1, 1)
    assert (shown.windows["3m"].trades, shown.windows["3m"].volume_usd) == (1, "0.200000")
    service.assert_right()


def test_a_minute_whose_only_swap_was_retracted_keeps_no_price(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, price_usd="100"))
    service.read(swap_event(T0, 0, price_usd="100", removed=True))
    service.read(swap_event(T0 - MINUTE, 1, price_usd="3"))
    service.publish(T0)
    window = service.board["ethereum:TKN"].windows["3m"]
    assert (window.high_usd, window.low_usd, window.close_usd) == ("3", "3", "3")
    service.assert_right()


def test_a_swap_that_was_retracted_before_it_came_is_never_counted(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, removed=True))
    service.read(swap_event(T0, 0))
    service.publish(T0)
    assert service.board == {}
    # Its next inclusion counts.
    service.read(swap_event(T0, 0))
    service.publish(T0)
    shown = service.board["ethereum:TKN"]
    assert shown.windows["1m"].trades == 1
    assert (shown.quality.retracted, shown.quality.duplicates, shown.quality.late) == (0, 0, 0)
    service.assert_right()


def test_records_that_change_nothing_do_not_create_their_token(engine: Engine) -> None:
    service = Service(engine, now=T0)
    service.read(swap_event(T0, 0, token="FIRST", block_hash="0xaa"))
    service.read(swap_event(T0, 0, token="FIRST", block_hash="0xbb"))
    service.read(swap_event(T0, 1, token="REMOVED", removed=True))
    service.read(swap_event(T0, 1, token="REMOVED"))
    service.read(swap_event(T0 + MAX_FUTURE + 1, 2, token="BAD"))
    service.read(swap_event(T0, 0, token="FIRST", block_hash="0xaa", removed=True))
    service.publish(T0)
    assert [each.letter for each in service.decided] == ["C", "N", "T", "V", "B", "I"]
    assert list(service.board) == ["ethereum:FIRST"]
    assert service.engine().token_count == 1
    quality = service.board["ethereum:FIRST"].quality
    assert (quality.duplicates, quality.late, quality.retracted) == (0, 0, 0)
    service.assert_right()


def test_an_undo_of_what_is_not_held_changes_no_sum(engine: Engine) -> None:
    windows = engine(partition=1, windows=SMALL, now_ms=T0, history_from=LONG_AGO)
    swap = decode_swap(json.dumps(swap_event(T0, 0)).encode(), T0, MAX_FUTURE)
    other = msgspec.structs.replace(swap, timestamp=T0 - MINUTE)
    gone = msgspec.structs.replace(swap, timestamp=T0 - 99 * MINUTE)
    apply(windows, [swap, swap, swap], [0, 1, 2], "CUU", {1: other, 2: gone})
    shown = windows.stats(swap.token_id, epoch=1, seq=1, next_offset=1)
    assert shown.quality.retracted == 2
    for window in shown.windows.values():
        assert (window.trades, window.volume_usd, window.approximate) == (1, "10.000000", False)
    assert windows.bucket_count == 1


def test_windows_are_incomplete_until_the_owner_knows_the_history(engine: Engine) -> None:
    windows = engine(partition=1, windows=SMALL, now_ms=T0)
    swap = decode_swap(json.dumps(swap_event(T0, 0)).encode(), T0, MAX_FUTURE)
    # An event of years ago says nothing of what was counted since.
    old = msgspec.structs.replace(swap, timestamp=1_300_000_000_000)
    apply(windows, [old, swap], [0, 1], "CC", {})
    windows.advance(T0)

    def shown() -> list[tuple[bool, bool]]:
        stats = windows.stats(swap.token_id, epoch=1, seq=1, next_offset=1)
        return [(each.complete, each.previous is not None) for each in stats.windows.values()]

    assert shown() == 3 * [(False, False)]
    windows.take_dirty()
    windows.history_from = T0 - 5 * MINUTE
    windows.advance(T0)
    assert shown() == [(True, True), (True, True), (False, False)]
    assert windows.take_dirty() == [swap.token_id]
