"""Snapshots while clocks disagree: a log clock ahead of now, and a now that was ahead itself.

The windows are those of production, so the ring of minutes covers 48 hours.
"""

from __future__ import annotations

import json
import random

import pytest

from aggregator.contracts.stats import TokenStats
from aggregator.decoding.rules import decode_swap
from aggregator.windows.engine import ColumnarWindows
from tests.spec.windows import ReferenceWindows
from tests.support.oracle import MINUTE
from tests.unit.windows.readers import Reader, Store, decided
from tests.unit.windows.schedules import DAYS, HOUR
from tests.unit.windows.service import LONG_AGO, T0, apply, swap_event

MAX_FUTURE = 5 * MINUTE
TOKEN = "ethereum:A"
BEFORE = LONG_AGO - 24 * HOUR


def engine(now_ms: int) -> ColumnarWindows:
    return ColumnarWindows(partition=0, windows=DAYS.windows, now_ms=now_ms, history_from=BEFORE)


class Producer:
    """Sends swaps of one token into an engine, each at a higher price and of another trader."""

    def __init__(self, windows: ColumnarWindows) -> None:
        self.windows = windows
        self._number = 0

    def trade(self, at: int) -> None:
        """Send one swap of time `at` (ms)."""
        event = swap_event(
            at,
            self._number,
            token="A",
            price_usd=str(1 + self._number / 1_000),
            trader=f"trader {self._number}",
        )
        swap = decode_swap(json.dumps(event).encode(), at, MAX_FUTURE)
        apply(self.windows, [swap], [self._number], "C", {})
        self._number += 1


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


def test_a_log_clock_ahead_of_now_settles_no_minute_that_has_not_begun() -> None:
    live = every_minute(49)
    now, store = live.now_ms, Store()
    live.settle(now)
    store.save(live.take_snapshot())
    # Records stamped an hour ahead.
    Producer(live).trade(now + 6 * MINUTE)
    live.settle(now + HOUR)
    store.save(live.take_snapshot())
    for minute in range(10):
        if minute % 3 == 0:
            again = store.restored(live, DAYS, live.now_ms)
            assert again.bucket_count == live.bucket_count
            assert stats(again) == stats(live), f"{minute} minutes later"
        live.advance(live.now_ms + MINUTE)
        live.settle(now + HOUR)
        store.save(live.take_snapshot())
    newest = max(int(name[2:]) for name in store.sections if name.startswith(b"m:"))
    assert (newest + 3) * MINUTE <= live.now_ms


@pytest.mark.parametrize("whole", [False, True])
def test_a_snapshot_made_an_hour_ahead_says_what_it_lacks(whole: bool) -> None:
    live = every_minute(50)
    now, store = live.now_ms, Store()
    before = stats(live)
    live.settle(now)
    store.save(live.take_snapshot())
    live.advance(now + HOUR)
    live.settle(now + HOUR)
    if whole:
        store.replace(live.take_whole())
    else:
        store.save(live.take_snapshot())
    again = store.restored(live, DAYS, now)
    shown = stats(again)
    for name in ("7m", "1h"):
        assert shown.windows[name] == before.windows[name]
    # The engine no longer had the traders of the oldest hour, nor the oldest hour of the previous
    # window; only sections that were not written since still have the traders.
    assert shown.windows["24h"].trades == before.windows["24h"].trades
    lost = 60 if whole else 0
    assert shown.windows["24h"].traders == before.windows["24h"].traders - lost
    assert not shown.windows["24h"].complete
    assert before.windows["24h"].previous is not None
    assert shown.windows["24h"].previous is None
    assert again.history_from == now + HOUR - 2 * 24 * HOUR + MINUTE
    # A second restart does not forget it; an hour later the traders are all there.
    store.save(again.take_snapshot())
    again = store.restored(live, DAYS, now)
    assert not stats(again).windows["24h"].complete
    again.advance(now + HOUR)
    assert stats(again).windows["24h"].complete
    assert stats(again).windows["24h"].previous is not None


def test_a_snapshot_made_two_days_ahead_is_not_complete() -> None:
    live = every_minute(30)
    now, store = live.now_ms, Store()
    live.settle(now)
    store.save(live.take_snapshot())
    live.advance(now + 49 * HOUR)
    live.settle(now + 49 * HOUR)
    store.save(live.take_snapshot())
    again = store.restored(live, DAYS, now)
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
        producer.trade(now + minute * MINUTE)
    live.settle(now + 5 * MINUTE)
    store.save(live.take_snapshot())
    again = store.restored(live, DAYS, now)
    assert stats(again).windows["1h"] == stats(live).windows["1h"]
    live.advance(now + 7 * MINUTE)
    again.advance(now + 7 * MINUTE)
    assert stats(again).windows["1h"] == stats(live).windows["1h"]


@pytest.mark.parametrize("seed", range(2))
def test_what_a_restored_engine_calls_complete_is_right_after_any_leap_of_the_clock(
    seed: int,
) -> None:
    """The clock leaps ahead at random; the process is then restarted at the right time."""
    rng = random.Random(seed)
    live = Reader(ColumnarWindows, DAYS, LONG_AGO)
    truth = Reader(ReferenceWindows, DAYS, LONG_AGO)
    store, complete, incomplete = Store(), 0, 0
    for number, each in enumerate(decided(seed, 100, DAYS)):
        assert isinstance(live.engine, ColumnarWindows)
        for reader in (live, truth):
            apply(reader.engine, each.step.swaps, each.offsets, each.letters, each.undone)
        then = max(each.step.then, truth.engine.now_ms)
        truth.engine.advance(then)
        live.engine.advance(then)
        leaps = rng.random() < 0.2
        if leaps:
            live.engine.advance(then + rng.choice([MINUTE, 10 * MINUTE, 3 * HOUR, 30 * HOUR]))
        live.engine.settle(each.clock or T0)
        store.save(live.engine.take_snapshot())
        if leaps or live.engine.now_ms > then:
            live.engine = store.restored(live.engine, DAYS, then)
            # What was counted before its time has begun for good.
            truth.engine.advance(live.engine.now_ms)
        shown = live.fresh()
        for token, stats in truth.fresh().items():
            for name, window in stats.windows.items():
                if token not in shown or not shown[token].windows[name].complete:
                    incomplete += 1
                    continue
                complete += 1
                ours = shown[token].windows[name]
                assert (ours.trades, ours.traders, ours.volume_usd, ours.open_usd) == (
                    window.trades,
                    window.traders,
                    window.volume_usd,
                    window.open_usd,
                ), f"seed {seed}, step {number}, {token} {name}"
                if ours.previous is not None:
                    assert ours.previous == window.previous
    assert complete > 1_000
    assert incomplete > 100
