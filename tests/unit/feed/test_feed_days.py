"""A repeated day: its times, transactions and prices, and no seam between two repetitions."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import pairwise
from statistics import median
from typing import Any

import pytest

from aggregator.contracts.units import DAY_MS, HOUR_MS
from aggregator.feed.days import Days, as_they_happen
from aggregator.feed.stream import Record
from aggregator.runtime.errors import Fatal
from tests.support.service import ETHEREUM_DAY

ORIGIN = 1_800_000_000_000


def line(at_ms: int, price: float = 10.0, token: str = "A", **fields: Any) -> bytes:
    event = {
        "chain": "base",
        "tx_hash": f"0x{at_ms:x}-{token}",
        "log_index": 7,
        "timestamp": 1_650_412_800_000 + at_ms,
        "token": token,
        "side": "buy",
        "amount": f"{100 / price:.12f}",
        "amount_usd": "100",
        "price_usd": f"{price:.12f}",
    }
    return json.dumps(event | fields).encode()


def played(lines: list[bytes], since_ms: int, until_ms: int) -> list[dict[str, Any]]:
    records = Days(lines, ORIGIN).events(ORIGIN + since_ms, ORIGIN + until_ms)
    return [json.loads(record.value) for record in records]


RISING = [line(hour * HOUR_MS + 1, 10.0 * 1.3 ** (hour / 23)) for hour in range(24)]


def test_day_0_has_the_recorded_prices_and_the_recorded_spacing() -> None:
    events = played(RISING, 0, DAY_MS)
    assert [event["timestamp"] - ORIGIN for event in events] == [
        hour * HOUR_MS + 1 for hour in range(24)
    ]
    for event, recorded in zip(events, map(json.loads, RISING), strict=True):
        assert {**event, "tx_hash": 0, "timestamp": 0} == {**recorded, "tx_hash": 0, "timestamp": 0}


def test_the_same_origin_gives_the_same_events_and_each_day_its_own() -> None:
    again = played(RISING, -DAY_MS, 3 * DAY_MS)
    assert played(RISING, -DAY_MS, 3 * DAY_MS) == again
    assert len({event["tx_hash"] for event in again}) == len(again) == 4 * 24
    first = json.loads(next(Days(RISING, ORIGIN + 1).events(ORIGIN, None)).value)
    assert first["tx_hash"] not in {event["tx_hash"] for event in again}


def test_a_piece_is_what_the_whole_holds_of_it() -> None:
    whole = played(RISING, -DAY_MS, 2 * DAY_MS)
    at, to = 5 * HOUR_MS + 1, DAY_MS + 3 * HOUR_MS + 1
    piece = [event for event in whole if at < event["timestamp"] - ORIGIN <= to]
    assert played(RISING, at, to) == piece
    assert played(RISING, -DAY_MS, at) + piece + played(RISING, to, 2 * DAY_MS) == whole


def test_prices_meet_at_every_seam_and_never_drift_away() -> None:
    prices = [float(event["price_usd"]) for event in played(RISING, -DAY_MS, 9 * DAY_MS)]
    # The trend is between medians of five, so a seam may move by what five trades move.
    steps = [abs(after / before - 1) for before, after in pairwise(prices)]
    assert max(steps) < 1.3 ** (6 / 23) - 1
    assert min(prices) > 8
    assert max(prices) <= 13.1


def test_what_a_trade_is_worth_stays_and_amount_and_price_agree() -> None:
    for event in played(RISING, -DAY_MS, 3 * DAY_MS):
        assert event["amount_usd"] == "100"
        assert float(event["amount"]) * float(event["price_usd"]) == pytest.approx(100)
        assert "e" not in event["amount"] + event["price_usd"]


def test_a_bad_trade_at_an_end_moves_no_other_day() -> None:
    lines = [*RISING[:-1], line(23 * HOUR_MS + 1, 0.001)]
    prices = [float(event["price_usd"]) for event in played(lines, DAY_MS, 2 * DAY_MS)]
    assert 9 < min(prices[:-1]) <= max(prices[:-1]) < 14
    wild = [line(1, 1.0), line(2, 1.0), line(3, 500.0), line(4, 500.0)]
    assert {event["price_usd"] for event in played(wild, DAY_MS, 2 * DAY_MS)} == {
        json.loads(each)["price_usd"] for each in wild
    }


def test_events_without_a_price_and_lines_that_are_none() -> None:
    bare = line(5, amount=1.5, amount_usd=None, price_usd=None)
    events = played([b"not json", *RISING, bare], DAY_MS, DAY_MS + 10)
    assert [event["amount"] for event in events][1:] == [1.5]
    with pytest.raises(Fatal, match="no event in these files has a time"):
        Days([b"not json"], ORIGIN)


def test_without_an_origin_every_trade_keeps_its_time_of_day() -> None:
    now = 1_800_000_000_000
    for record in Days(RISING).events(now - DAY_MS, now):
        assert record.timestamp is not None
        assert record.timestamp % HOUR_MS == 1


def test_the_recorded_day_has_no_cliff_at_its_seams() -> None:
    """Any 24 hours have the volume of the day, and the most traded tokens have no price jump."""
    with gzip.open(ETHEREUM_DAY) as lines:
        days = Days(lines, ORIGIN)
    events = [
        json.loads(record.value)
        for record in days.events(ORIGIN - DAY_MS, ORIGIN + 3 * DAY_MS)
    ]  # fmt: skip
    assert len(events) == 4 * 24_222

    def volume(from_ms: int) -> float:
        until = ORIGIN + from_ms + DAY_MS
        inside = (e for e in events if ORIGIN + from_ms < e["timestamp"] <= until)
        return sum(float(event["amount_usd"]) for event in inside)

    whole = volume(0)
    for hour in (-24, -9, 5, 17, 30):
        assert volume(hour * HOUR_MS) == pytest.approx(whole, rel=1e-9)
    for symbol in ("WETH", "APE", "LOOKS", "WBTC", "AAVE", "SHIB"):
        of_token = [event for event in events if event["symbol"] == symbol]
        for seam in (ORIGIN, ORIGIN + DAY_MS, ORIGIN + 2 * DAY_MS):
            before = [float(e["price_usd"]) for e in of_token if e["timestamp"] < seam][-5:]
            after = [float(e["price_usd"]) for e in of_token if e["timestamp"] >= seam][:5]
            assert median(after) / median(before) == pytest.approx(1, abs=0.01), symbol


class Clock:
    """A `Pacer` whose time passes only while a caller waits."""

    def __init__(self, stop_at: float = float("inf")) -> None:
        self.seconds = 0.0
        self.stop_at = stop_at

    def now(self) -> float:
        return self.seconds

    def now_ms(self) -> int:
        return int(self.seconds * 1_000)

    def until(self, instant: float) -> bool:
        self.seconds = max(self.seconds, min(instant, self.stop_at))
        return self.seconds < self.stop_at


def at(*times: int) -> Iterator[Record]:
    return (Record(b"k", b"v", time) for time in times)


def test_past_events_come_immediately_and_the_rest_at_its_time() -> None:
    clock, caught_up_at = Clock(), []
    clock.seconds = 2.0
    records = as_they_happen(
        at(500, 2_000, 2_250, 4_000),
        clock,
        clock.now_ms,
        lambda: caught_up_at.append(clock.seconds),
    )
    assert [(record.timestamp, clock.seconds) for record in records] == [
        (500, 2.0),
        (2_000, 2.0),
        (2_250, 2.25),
        (4_000, 4.0),
    ]
    assert caught_up_at == [2.0]


def test_it_ends_when_the_pacer_stops() -> None:
    clock = Clock(stop_at=3.0)
    records = as_they_happen(at(1_000, 5_000), clock, clock.now_ms, lambda: None)
    assert [record.timestamp for record in records] == [1_000]
