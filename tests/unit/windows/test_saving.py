"""Snapshots of the window engine: what they cost, and what they are made of.

`test_engines_agree.py` compares restored engines with the specification.
"""

from __future__ import annotations

import random

import msgspec
import numpy as np
import pytest

from aggregator.contracts.event import Swap
from aggregator.contracts.stats import TokenStats
from aggregator.windows.engine import ColumnarWindows
from aggregator.windows.snapshot import FOLD_AFTER, EngineSnapshot
from tests.support.oracle import MINUTE
from tests.unit.windows.readers import Reader, Store, decided
from tests.unit.windows.schedules import BUSY, DAYS, Shape
from tests.unit.windows.service import T0, apply


def engine(shape: Shape = BUSY, now_ms: int = T0) -> ColumnarWindows:
    return ColumnarWindows(partition=3, windows=shape.windows, now_ms=now_ms, history_from=0)


def fresh(windows: ColumnarWindows) -> dict[str, TokenStats]:
    return {
        token: windows.stats(token, epoch=1, seq=1, next_offset=1)
        for token in sorted(windows.token_ids())
    }


def played(seed: int, steps: int, shape: Shape = BUSY) -> ColumnarWindows:
    reader = Reader(ColumnarWindows, shape, T0)
    for each in decided(seed, steps, shape):
        reader.play(each)
    assert isinstance(reader.engine, ColumnarWindows)
    return reader.engine


def trade(windows: ColumnarWindows, at: int, token: str = "T1", offset: int = 0) -> None:
    swap = Swap(
        token_id=f"c:{token}",
        chain="c",
        token=token,
        tx_hash=f"0x{offset:x}",
        log_index=0,
        timestamp=at,
        is_buy=True,
        amount_attos=10**18,
        usd_micros=2_000_000,
        price_usd=2.0,
        removed=False,
        marker=bytes(16),
        symbol=token.lower(),
        trader="ann",
    )
    apply(windows, [swap], [offset], "C", {})


def names(snapshot: EngineSnapshot, kind: bytes) -> list[bytes]:
    return sorted(name for name in snapshot.changed if name.startswith(kind))


def test_snapshots_that_failed_are_merged_into_the_next() -> None:
    reader, store = Reader(ColumnarWindows, BUSY, T0), Store()
    unsaved: EngineSnapshot | None = None
    rng = random.Random(5)
    for each in decided(5, 120, BUSY):
        reader.play(each)
        live = reader.engine
        assert isinstance(live, ColumnarWindows)
        assert each.clock is not None
        live.settle(each.clock)
        snapshot = live.take_snapshot()
        unsaved = snapshot if unsaved is None else unsaved.followed_by(snapshot)
        if rng.random() < 0.4:
            for name in unsaved.dropped:
                store.sections.pop(name, None)
            store.sections.update(unsaved.changed)
            unsaved = None
            assert fresh(store.restored(live, BUSY, live.now_ms)) == fresh(live)


def test_a_snapshot_costs_what_changed() -> None:
    live = played(1, 150)
    whole = sum(map(len, live.take_snapshot().changed.values()))
    nothing = live.take_snapshot()
    assert set(nothing.changed) == {b"s"}
    assert not nothing.dropped
    trade(live, live.now_ms)
    changed = live.take_snapshot().changed
    assert sum(map(len, changed.values())) < whole / 5


def test_a_whole_snapshot_needs_no_earlier_one_and_later_ones_continue_from_it() -> None:
    live, store, lost = played(2, 150, DAYS), Store(), Store()
    live.settle(live.now_ms)
    lost.save(live.take_snapshot())
    trade(live, live.now_ms)
    store.replace(live.take_whole())
    assert fresh(store.restored(live, DAYS, live.now_ms)) == fresh(live)
    assert set(live.take_snapshot().changed) == {b"s"}
    trade(live, live.now_ms - 5 * 60 * MINUTE, offset=1)
    live.advance(live.now_ms + 10 * MINUTE)
    live.settle(live.now_ms)
    store.save(live.take_snapshot())
    again = store.restored(live, DAYS, live.now_ms)
    assert fresh(again) == fresh(live)
    assert again.bucket_count == live.bucket_count


def test_a_chain_that_is_late_costs_one_section_a_minute() -> None:
    live, store, written = engine(DAYS), Store(), []
    for second in range(0, 600, 2):
        now = T0 + 1_000 * second
        live.advance(now)
        trade(live, now, "FAST", second)
        # The minute of a late trade settled long ago.
        trade(live, now - 20 * 60 * MINUTE, "SLOW", second + 1)
        live.settle(now)
        snapshot = live.take_snapshot()
        store.save(snapshot)
        written.append(len(names(snapshot, b"m:")))
        assert fresh(store.restored(live, DAYS, now)) == fresh(live)
    # A minute of the fast chain that settles, and one or two of the late one that changed.
    assert max(written) <= 3
    assert sum(map(bool, written)) <= 11


def test_deltas_go_when_their_minutes_settle() -> None:
    reader, store = Reader(ColumnarWindows, BUSY, T0), Store()
    for each in decided(3, 200, BUSY):
        reader.play(each)
        assert isinstance(reader.engine, ColumnarWindows)
        assert each.clock is not None
        reader.engine.settle(each.clock)
        store.save(reader.engine.take_snapshot())
    assert len([name for name in store.sections if name.startswith(b"d:")]) < 30
    oldest = reader.engine.now_ms // MINUTE - 2 * max(minutes for _, minutes in BUSY.windows)
    minutes = [int(name[2:]) for name in store.sections if name.startswith(b"m:")]
    assert minutes
    assert min(minutes) > oldest


def test_deltas_do_not_grow_while_the_clock_stands_still() -> None:
    live, store = engine(DAYS), Store()
    sizes = []
    for number in range(10 * FOLD_AFTER):
        trade(live, T0 - number % 7 * 20 * MINUTE, f"T{number % 5}", number)
        live.settle(T0)
        store.save(live.take_snapshot())
        sizes.append(sum(map(len, store.sections.values())))
    assert len([name for name in store.sections if name.startswith(b"d:")]) <= FOLD_AFTER
    assert sizes[-1] < 1.5 * max(sizes[: 2 * FOLD_AFTER])
    assert fresh(store.restored(live, DAYS, T0)) == fresh(live)


def test_held_swaps_are_saved_once_and_restored() -> None:
    live, store = engine(DAYS), Store()
    for number in range(3):
        for one in range(1_000):
            trade(live, T0 + (1 + number) * MINUTE + one, f"T{one % 70}", number)
        snapshot = live.take_snapshot()
        (part,) = names(snapshot, b"h:")
        assert len(snapshot.changed[part]) < 1_000 * 150
        store.save(snapshot)
    assert not names(live.take_snapshot(), b"h:")
    # The clock lags: the first of the minutes begins, and its section goes.
    live.advance(T0 + MINUTE)
    snapshot = live.take_snapshot()
    assert snapshot.dropped == [b"h:0"]
    store.save(snapshot)
    again = store.restored(live, DAYS, live.now_ms)
    assert fresh(again) == fresh(live)
    for each in (live, again):
        each.advance(T0 + 3 * MINUTE)
    assert fresh(again) == fresh(live)
    assert fresh(live)["c:T1"].windows["7m"].trades == 3 * 15
    assert fresh(live)["c:T1"].symbol == "t1"


def test_sections_of_held_swaps_stay_few_while_the_clock_stands_still() -> None:
    live, store = engine(DAYS), Store()
    for number in range(4 * FOLD_AFTER):
        trade(live, T0 + 2 * MINUTE, "T1", number)
        store.save(live.take_snapshot())
    assert len([name for name in store.sections if name.startswith(b"h:")]) <= FOLD_AFTER + 1
    again = store.restored(live, DAYS, T0)
    again.advance(T0 + 2 * MINUTE)
    assert fresh(again)["c:T1"].windows["7m"].trades == 4 * FOLD_AFTER


def test_a_second_restart_keeps_the_numbers_of_quiet_tokens() -> None:
    """Tokens that stand in deltas alone are in a block when the deltas go, also after a restart."""
    live, store = engine(DAYS), Store()
    for number in range(200):
        trade(live, T0, f"T{number}", number)
    store.save(live.take_snapshot())
    live = store.restored(live, DAYS, T0)
    trade(live, T0 + MINUTE, "T150", 300)
    # No minute leaves a window yet, which would save its tokens again.
    live.advance(T0 + 5 * MINUTE)
    live.settle(T0 + 5 * MINUTE)
    store.save(live.take_snapshot())
    assert not [name for name in store.sections if name.startswith(b"d:")]
    assert fresh(store.restored(live, DAYS, live.now_ms)) == fresh(live)


def test_a_late_swap_finds_its_minute_in_a_few_dozen_steps() -> None:
    live, rng, now = engine(DAYS), random.Random(1), T0 + 2_880 * MINUTE
    live.advance(now)
    minutes = list(range(2_881))
    # In order but for a third of the minutes, which come late and in any order.
    late = set(rng.sample(minutes, 960))
    for minute in [each for each in minutes if each not in late] + rng.sample(sorted(late), 960):
        trade(live, T0 + minute * MINUTE)
    links, rows = live._columns.links, live._columns.rows
    for minute in range(1, 2_881):
        row, steps = int(live._columns.tokens["last"][0]), 0
        while rows["minute"][row] > T0 // MINUTE + minute:
            target, skip = T0 // MINUTE + minute, int(links["skip"][row])
            leaves = target >> 6 < rows["minute"][row] >> 6
            jumps = leaves and skip >= 0 and rows["minute"][skip] >= target
            row, steps = (skip if jumps else int(links["prev"][row])), steps + 1
        assert rows["minute"][row] == T0 // MINUTE + minute
        assert steps <= 64 + 46


@pytest.mark.parametrize(
    "sections",
    [{}, {b"s": b"\xc1"}, {b"s": msgspec.msgpack.encode({"format": 0})}],
    ids=["nothing", "garbage", "another format"],
)
def test_what_is_not_a_snapshot_of_ours_is_not_read(sections: dict[bytes, bytes]) -> None:
    again = engine()
    assert not again.restore(sections)
    assert again.token_count == 0


def test_other_windows_are_not_read_and_other_sections_are_passed_over() -> None:
    live, store = played(4, 20), Store()
    store.save(live.take_snapshot())
    store.sections[b"w:0"] = np.zeros(8, np.uint8).tobytes()
    assert engine().restore(dict(store.sections))
    wider = Shape((*BUSY.windows, ("9h", 540)), 0, 0, 0, ())
    assert not engine(wider).restore(dict(store.sections))
