"""Snapshots while clocks disagree: a watermark ahead of now, and a now that was ahead itself.

The windows are those of production, so the ring of minutes covers 48 hours.
"""

from __future__ import annotations

import json

from aggregator.contracts.stats import TokenStats
from aggregator.decoding.rules import decode_swap
from aggregator.windows.engine import ColumnarWindows
from tests.support.oracle import MINUTE
from tests.unit.windows.service import T0, swap_event
from tests.unit.windows.test_saving import Store

WINDOWS = (("5m", 5), ("1h", 60), ("24h", 1_440))
GRACE = 2 * MINUTE
MAX_FUTURE = 5 * MINUTE
HOUR = 60 * MINUTE
TOKEN = "ethereum:A"


def engine(now_ms: int) -> ColumnarWindows:
    return ColumnarWindows(
        partition=0, windows=WINDOWS, grace_ms=GRACE, max_future_ms=MAX_FUTURE, now_ms=now_ms
    )


class Producer:
    """Sends swaps of one token into an engine, each at a slightly higher price."""

    def __init__(self, windows: ColumnarWindows) -> None:
        self.windows = windows
        self._number = 0

    def trade(self, at: int, record_at: int | None = None) -> None:
        """Send one swap of time `at`, appended to the log at `record_at` (both ms)."""
        record_at = at if record_at is None else record_at
        event = swap_event(at, self._number, token="A", price_usd=str(1 + self._number / 1_000))
        swap = decode_swap(json.dumps(event).encode(), record_at, MAX_FUTURE)
        self.windows.observe([swap.timestamp], [record_at])
        self.windows.apply([swap], [self._number], "C")
        self._number += 1


def restored(store: Store, live: ColumnarWindows, now_ms: int) -> ColumnarWindows:
    again = engine(now_ms)
    assert again.restore(dict(store.sections), live.watermark)
    return again


def stats(windows: ColumnarWindows) -> TokenStats:
    return windows.stats(TOKEN, epoch=1, seq=1, next_offset=1)


def every_minute(hours: int) -> ColumnarWindows:
    """Return an engine with a trade a minute for so many hours; its now is the last of them."""
    live = engine(T0)
    producer = Producer(live)
    for minute in range(hours * 60):
        live.advance(T0 + minute * MINUTE)
        producer.trade(T0 + minute * MINUTE)
    return live


def test_minutes_closed_before_they_begin_are_not_those_of_48_hours_ago() -> None:
    live = every_minute(49)
    now, store = live.now_ms, Store()
    store.save(live.take_snapshot())
    # The producer's clock is a minute ahead, and its event lies MAX_FUTURE ahead of that.
    Producer(live).trade(now + 6 * MINUTE, record_at=now + MINUTE)
    store.save(live.take_snapshot())
    for minute in range(10):
        again = restored(store, live, live.now_ms)
        assert again.bucket_count == live.bucket_count
        assert stats(again) == stats(live), f"{minute} minutes later"
        live.advance(live.now_ms + MINUTE)
        store.save(live.take_snapshot())


def test_a_snapshot_made_an_hour_ahead_says_what_it_lacks() -> None:
    live = every_minute(50)
    now, store = live.now_ms, Store()
    before = stats(live)
    store.save(live.take_snapshot())
    live.advance(now + HOUR)
    store.save(live.take_snapshot())
    again = stats(restored(store, live, now))
    for name in ("5m", "1h"):
        assert again.windows[name] == before.windows[name]
    assert again.windows["24h"].trades == before.windows["24h"].trades
    assert again.windows["24h"].complete
    # The snapshot no longer has the oldest hour of the previous window.
    assert before.windows["24h"].previous is not None
    assert again.windows["24h"].previous is None


def test_a_snapshot_made_two_days_ahead_is_not_complete() -> None:
    live = every_minute(30)
    now, store = live.now_ms, Store()
    store.save(live.take_snapshot())
    live.advance(now + 49 * HOUR)
    store.save(live.take_snapshot())
    again = restored(store, live, now)
    again.advance(now + MINUTE)
    Producer(again).trade(now + MINUTE)
    assert not any(window.complete for window in stats(again).windows.values())


def test_minutes_that_a_clock_ahead_began_are_kept_apart_from_the_oldest() -> None:
    live = every_minute(49)
    now, store = live.now_ms, Store()
    # A clock that is ahead counts swaps before their time.
    live.advance(now + 5 * MINUTE)
    producer = Producer(live)
    for minute in range(1, 6):
        producer.trade(now + minute * MINUTE, record_at=now)
    store.save(live.take_snapshot())
    again = restored(store, live, now)
    assert stats(again) == stats(live)
    live.advance(now + 7 * MINUTE)
    again.advance(now + 7 * MINUTE)
    assert stats(again).windows["1h"] == stats(live).windows["1h"]
