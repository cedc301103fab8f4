"""Candles: where they begin, what they hold, and what cannot be folded."""

from __future__ import annotations

import tracemalloc

import msgspec
import pytest
from msgspec.structs import replace

from aggregator.contracts.intervals import INTERVALS_MS
from aggregator.contracts.trades import CandleRow
from aggregator.contracts.units import MINUTE_MS
from api.trades.candles import HISTORY_MS, REPEATED_MS, LiveCandles
from tests.unit.sockets.trading import START, rows_of, trade

DAY = 86_400_000
MIDNIGHT = 1_700_006_400_000  # 2023-11-15T00:00:00Z


@pytest.mark.parametrize(
    ("interval", "opened"),
    [
        pytest.param("1m", MIDNIGHT + 3_600_000 + 61 * 60_000, id="a minute"),
        pytest.param("5m", MIDNIGHT + 3_600_000 + 60 * 60_000, id="five minutes"),
        pytest.param("15m", MIDNIGHT + 7_200_000, id="a quarter"),
        pytest.param("1h", MIDNIGHT + 7_200_000, id="an hour"),
        pytest.param("4h", MIDNIGHT, id="four hours"),
        pytest.param("1d", MIDNIGHT, id="a UTC day"),
    ],
)
def test_candles_are_aligned_to_utc(interval: str, opened: int) -> None:
    candles = LiveCandles()
    candles.load([], MIDNIGHT + DAY - HISTORY_MS)
    candles.fold(trade(1, MIDNIGHT + 3_600_000 + 61 * 60_000 + 5), 0)
    (candle,) = candles.newest(INTERVALS_MS[interval], 10)
    assert (candle.open_time, candle.close_time) == (opened, opened + INTERVALS_MS[interval])


def test_an_hour_is_the_sum_of_its_minutes() -> None:
    candles = LiveCandles()
    hour = MIDNIGHT
    rows = [
        CandleRow(hour, "5", "9", "4", "6", "10.000001", "2.5", 3),
        CandleRow(hour + 60_000, None, None, None, None, "0.000000", "0", 1),
        CandleRow(hour + 120_000, "7", "8", "3.5", "8", "5.000000", "0.5", 2),
    ]
    candles.load(rows, hour + 180_000 - HISTORY_MS)
    (candle,) = candles.newest(3_600_000, 10)
    prices = (candle.open_usd, candle.high_usd, candle.low_usd, candle.close_usd)
    assert prices == ("5", "9", "3.5", "8")
    assert (candle.volume_usd, candle.volume_token, candle.trades) == ("15.000001", "3", 6)
    assert candle.vwap_usd == str(15.000001 / 3)


def test_open_and_close_go_by_time_then_offset_not_by_arrival() -> None:
    candles = LiveCandles()
    candles.load([], START - HISTORY_MS)
    for each in (
        trade(1, START + 20, "5", offset=100),
        trade(2, START + 10, "4", offset=101),
        trade(3, START + 20, "6", offset=102),
        trade(4, START + 10, "3", offset=99),
    ):
        candles.fold(each, 0)
    (candle,) = candles.newest(60_000, 1)
    assert (candle.open_usd, candle.close_usd) == ("3", "6")
    assert not candles.wrong


def test_prices_are_compared_as_numbers() -> None:
    candles = LiveCandles()
    candles.load([], START - HISTORY_MS)
    for number, price in enumerate(["10", "9", "100"], 1):
        candles.fold(trade(number, START + number, price), 0)
    (candle,) = candles.newest(60_000, 1)
    assert (candle.high_usd, candle.low_usd) == ("100", "9")


def test_an_interval_that_the_history_covers_in_part_is_not_shown() -> None:
    candles = LiveCandles()
    as_of = MIDNIGHT + 12 * 3_600_000
    rows = [
        CandleRow(as_of - HISTORY_MS + 60_000, "1", "1", "1", "1", "1.000000", "1", 1),
        CandleRow(MIDNIGHT - DAY, "2", "2", "2", "2", "1.000000", "1", 1),
        CandleRow(MIDNIGHT, "3", "3", "3", "3", "1.000000", "1", 1),
    ]
    candles.load(rows, as_of - HISTORY_MS)
    assert [each.open_time for each in candles.newest(DAY, 10)] == [MIDNIGHT - DAY, MIDNIGHT]
    assert len(candles.newest(60_000, 10)) == 3


def test_a_retraction_must_be_asked_for() -> None:
    candles = LiveCandles()
    candles.load([], START - HISTORY_MS)
    candles.fold(trade(1), 0)
    assert not candles.wrong
    candles.fold(trade(2, removed=True), 0)
    assert candles.wrong
    candles.load(rows_of([]), START - HISTORY_MS)
    assert not candles.wrong
    assert candles.newest(60_000, 10) == []


def test_a_trade_inside_a_loaded_minute_is_neither_its_open_nor_its_close() -> None:
    """As after a takeover: the new owner sends the minutes but not their trades."""
    ends = ((START + 500, -1, 0, 4), (START + 900, -1, 0, 5))
    row = CandleRow(START, "5", "9", "4", "6", "10.000000", "2", 5, *ends)
    candles = LiveCandles()
    candles.load([row], START - HISTORY_MS)

    def ends_behind(number: int, ms: int, price: str) -> tuple[str | None, str | None]:
        candles.fold(trade(number, START + ms, price), 0)
        (candle,) = candles.newest(60_000, 1)
        return candle.open_usd, candle.close_usd

    assert ends_behind(6, 700, "7") == ("5", "6")
    assert ends_behind(7, 800, "8") == ("5", "6")
    assert ends_behind(8, 950, "7") == ("5", "7")
    assert ends_behind(9, 100, "1") == ("1", "7")
    assert not candles.wrong


def test_among_equal_times_the_block_and_the_log_index_decide() -> None:
    candles = LiveCandles()
    candles.load([], START - HISTORY_MS)
    for number, block, log_index, price in ((1, 8, 0, "1"), (2, 7, 9, "2"), (3, 8, 1, "3")):
        each = replace(trade(number, START, price), block_number=block, log_index=log_index)
        candles.fold(each, 0)
    (candle,) = candles.newest(60_000, 1)
    assert (candle.open_usd, candle.close_usd) == ("2", "3")


def test_a_minute_without_the_positions_of_open_and_close_must_be_asked_for() -> None:
    candles = LiveCandles()
    candles.load([CandleRow(START, "5", "9", "4", "6", "10.000000", "2", 5)], START - HISTORY_MS)
    candles.fold(trade(6, START + 950, "7"), 0)
    assert candles.wrong


def test_an_update_repeats_what_changed_in_the_last_half_minute() -> None:
    candles = LiveCandles()
    candles.load([], START - HISTORY_MS)
    candles.fold(trade(1, START), 0)
    candles.fold(trade(2, START + 60_000), 10_000)
    both = [START, START + 60_000]
    assert [each.open_time for each in candles.changed(60_000, REPEATED_MS)] == both
    assert [each.open_time for each in candles.changed(60_000, REPEATED_MS + 1)] == both[1:]
    assert candles.changed(60_000, REPEATED_MS + 10_001) == []


def test_minutes_older_than_the_history_are_dropped() -> None:
    candles = LiveCandles()
    candles.load([], START - HISTORY_MS)
    candles.fold(trade(1, START), 0)
    candles.fold(trade(2, START + 60_000), 0)
    candles.forget_before(START + 60_000 + HISTORY_MS)
    assert [each.open_time for each in candles.newest(60_000, 10)] == [START + 60_000]


def test_two_days_of_minutes_take_little_more_than_a_megabyte() -> None:
    rows = [
        CandleRow(
            *(MIDNIGHT + n * MINUTE_MS, f"1.{n:09d}", f"2.{n:09d}", f"0.{n:09d}", f"1.5{n:08d}"),
            *(f"{n}.123456", f"{n}.123456789012345678", 7),
            *((MIDNIGHT + n * MINUTE_MS, -1, 0, n), (MIDNIGHT + n * MINUTE_MS, -1, 0, n + 1)),
        )
        for n in range(2_880)
    ]
    answer = msgspec.json.encode(rows)
    del rows
    candles = LiveCandles()
    tracemalloc.start()
    candles.load(msgspec.json.decode(answer, type=list[CandleRow]), MIDNIGHT)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 1_300_000
    assert candles.size == pytest.approx(held, rel=0.25)
