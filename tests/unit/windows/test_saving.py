"""Snapshots of the window engine: at any moment, a restored engine equals the one saved."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from aggregator.contracts.stats import TokenStats
from aggregator.contracts.verdict import Verdict
from aggregator.windows.engine import ColumnarWindows
from aggregator.windows.snapshot import EngineSnapshot
from tests.support.oracle import MINUTE
from tests.unit.windows.schedules import GRACE, WINDOWS, Step, schedule
from tests.unit.windows.service import MAX_FUTURE, T0, Markers


def engine(now_ms: int = T0, windows: Any = WINDOWS) -> ColumnarWindows:
    return ColumnarWindows(
        partition=3, windows=windows, grace_ms=GRACE, max_future_ms=MAX_FUTURE, now_ms=now_ms
    )


class Store:
    """The sections as Redis stores them."""

    def __init__(self) -> None:
        self.sections: dict[bytes, bytes] = {}

    def save(self, snapshot: EngineSnapshot) -> None:
        for name in snapshot.dropped:
            del self.sections[name]
        self.sections.update(snapshot.changed)


def fresh(windows: ColumnarWindows) -> dict[str, TokenStats]:
    return {
        token: windows.stats(token, epoch=1, seq=1, next_offset=1)
        for token in sorted(windows.token_ids())
    }


def feed(windows: ColumnarWindows, markers: Markers, step: Step, first_offset: int) -> None:
    times = [swap.timestamp for swap in step.swaps]
    late = windows.observe(times, [step.now] * len(times))
    verdicts = "".join(
        markers.decide(swap, was_late) for swap, was_late in zip(step.swaps, late, strict=True)
    )
    windows.apply(step.swaps, list(range(first_offset, first_offset + len(step.swaps))), verdicts)
    windows.advance(step.then)
    windows.take_dirty()
    if step.forget:
        windows.forget_idle()


@pytest.mark.parametrize("seed", range(8))
def test_a_restored_engine_is_the_one_that_was_saved(seed: int) -> None:
    """An engine that is saved, lost and restored at random continues as if it had not been."""
    rng = random.Random(seed)
    live, store, markers, offset, restored = engine(), Store(), Markers(), 0, 0
    for number, step in enumerate(schedule(seed, 200)):
        feed(live, markers, step, offset)
        offset += len(step.swaps)
        if rng.random() < 0.5:
            store.save(live.take_snapshot())
            if rng.random() < 0.3:
                again = engine(live.now_ms)
                assert again.restore(dict(store.sections), live.watermark)
                assert fresh(again) == fresh(live), f"seed {seed}, step {number}"
                assert again.bucket_count == live.bucket_count
                again.forget_idle()
                again.take_dirty()
                live, restored = again, restored + 1
    assert restored > 10


def test_snapshots_that_failed_are_merged_into_the_next() -> None:
    live, store, markers, offset = engine(), Store(), Markers(), 0
    unsaved: EngineSnapshot | None = None
    rng = random.Random(5)
    for step in schedule(5, 120):
        feed(live, markers, step, offset)
        offset += len(step.swaps)
        snapshot = live.take_snapshot()
        unsaved = snapshot if unsaved is None else unsaved.followed_by(snapshot)
        if rng.random() < 0.4:
            for name in unsaved.dropped:
                store.sections.pop(name, None)
            store.sections.update(unsaved.changed)
            unsaved = None
            again = engine(live.now_ms)
            assert again.restore(dict(store.sections), live.watermark)
            assert fresh(again) == fresh(live)


def test_a_snapshot_costs_what_changed() -> None:
    live, markers = engine(), Markers()
    offset = 0
    for step in schedule(1, 150):
        feed(live, markers, step, offset)
        offset += len(step.swaps)
    whole = sum(map(len, live.take_snapshot().changed.values()))
    nothing = live.take_snapshot()
    assert set(nothing.changed) == {b"s"}
    assert not nothing.dropped
    swap = next(step for step in schedule(2, 50) if step.swaps).swaps[0]
    one = msgspec.structs.replace(swap, timestamp=live.now_ms)
    live.observe([one.timestamp], [one.timestamp])
    live.apply([one], [offset], Verdict.COUNTED.value)
    changed = live.take_snapshot().changed
    assert sum(map(len, changed.values())) < whole / 5


def test_deltas_go_when_their_minutes_are_closed() -> None:
    live, store, markers = engine(), Store(), Markers()
    offset = 0
    for step in schedule(3, 200):
        feed(live, markers, step, offset)
        offset += len(step.swaps)
        store.save(live.take_snapshot())
    deltas = [name for name in store.sections if name.startswith(b"d:")]
    assert len(deltas) < 60
    oldest = live.now_ms // MINUTE - 2 * max(minutes for _, minutes in WINDOWS)
    minutes = [int(name[2:]) for name in store.sections if name.startswith(b"m:")]
    assert minutes
    assert min(minutes) > oldest


@pytest.mark.parametrize(
    "sections",
    [{}, {b"s": b"\xc1"}, {b"s": msgspec.msgpack.encode({"format": 0})}],
    ids=["nothing", "garbage", "another format"],
)
def test_what_is_not_a_snapshot_of_ours_is_not_read(sections: dict[bytes, bytes]) -> None:
    again = engine()
    assert not again.restore(sections, None)
    assert again.token_count == 0


def test_other_windows_are_not_read() -> None:
    live, store, markers = engine(), Store(), Markers()
    for step in schedule(4, 20):
        feed(live, markers, step, 0)
    store.save(live.take_snapshot())
    assert engine().restore(dict(store.sections), live.watermark)
    assert not engine(windows=(*WINDOWS, ("9h", 540))).restore(store.sections, live.watermark)
