"""The compiled engine against the specification, in lockstep over long random schedules.

After every step both show the same numbers, have marked every change dirty, and hold as much. The
compiled engine is saved, lost and restored at random, so its snapshots are compared as well.
"""

from __future__ import annotations

import random

import msgspec
import pytest

from aggregator.contracts.stats import TokenStats
from aggregator.contracts.swaps import Swaps
from aggregator.contracts.verdict import Verdict
from aggregator.windows.engine import ColumnarWindows
from tests.spec.windows import ReferenceWindows
from tests.unit.windows.readers import DecidedStep, Reader, Store, decided
from tests.unit.windows.schedules import BUSY, DAY, DAYS, MINUTE, WEEKS, Shape
from tests.unit.windows.service import T0

# Steps that leave the history of each shape long enough for everything to leave the windows.
SHAPES = [(BUSY, 200), (DAYS, 140), (WEEKS, 140)]
NAMES = ["busy", "days", "weeks"]
# Seed 3 runs at event time.
SEEDS = (0, 1, 3)


def timeless(stats: TokenStats) -> TokenStats:
    """Return the stats without the times and positions that change without a swap."""
    windows = {
        name: msgspec.structs.replace(window, open_time=0, close_time=0)
        for name, window in stats.windows.items()
    }
    return msgspec.structs.replace(stats, windows=windows, next_offset=0, as_of=0, watermark=0)


def assert_published(reader: Reader, fresh: dict[str, TokenStats], where: str) -> None:
    """Assert that every change was marked dirty: the board is right except for times."""
    assert reader.board.keys() == fresh.keys(), where
    for token, stats in fresh.items():
        assert timeless(reader.board[token]) == timeless(stats), f"{where}, {token} not published"


def numbered(batches: list[Swaps]) -> list[tuple[str, int, int, int, int | None]]:
    """Return the trades of the batches in the form of the specification."""
    return [
        (
            batch.token_names[name].token_id,
            *swap[["offset", "n", "timestamp"]].tolist(),
            None if swap["usd"] < 0 else int(swap["usd"]),
        )
        for batch in batches
        for swap, name in zip(batch.swaps, batch.records["name"].tolist(), strict=True)
        if swap["n"]
    ]


def saved_and_restored(
    live: ColumnarWindows, store: Store, shape: Shape, each: DecidedStep, rng: random.Random
) -> ColumnarWindows:
    """Save now and then, whole or in part; now and then go on with an engine made from that."""
    kind = rng.random()
    if kind > 0.5:
        return live
    if each.clock is not None and rng.random() < 0.9:
        live.settle(each.clock)
    if kind < 0.03:
        store.replace(live.take_whole())
    else:
        store.save(live.take_snapshot())
    return store.restored(live, shape, live.now_ms) if kind < 0.15 else live


@pytest.mark.parametrize(("shape", "steps"), SHAPES, ids=NAMES)
@pytest.mark.parametrize("seed", SEEDS)
def test_engines_agree_on_every_number_after_every_step(
    seed: int, shape: Shape, steps: int
) -> None:
    # `history_from` is not always known.
    history_from = T0 + 20 * MINUTE if seed % 2 else None
    one = Reader(ReferenceWindows, shape, history_from, by_event=seed % 4 == 3)
    other = Reader(ColumnarWindows, shape, history_from, by_event=seed % 4 == 3)
    store, rng, seen, restored = Store(), random.Random(seed), set(), 0
    for number, each in enumerate(decided(seed, steps, shape)):
        where = f"seed {seed}, step {number}"
        seen |= set(each.letters)
        for reader in (one, other):
            reader.play(each)
        assert isinstance(other.engine, ColumnarWindows)
        assert isinstance(one.engine, ReferenceWindows)
        assert other.held() == one.held(), where
        assert numbered(other.engine.take_applied()) == one.engine.take_trades(), where
        # All numbers of all tokens take the specification long, so mostly the changed ones do.
        if number % 10 == 9 or number == steps - 1:
            expected, shown = one.fresh(), other.fresh()
            assert_published(one, expected, where)
            assert_published(other, shown, where)
        else:
            changed = sorted({*one.dirty, *other.dirty} & one.board.keys())
            expected = {token: one.stats(token) for token in changed}
            shown = {token: other.stats(token) for token in changed}
        for token, stats in expected.items():
            assert shown[token] == stats, f"{where}, {token}"
        before = other.engine
        other.engine = saved_and_restored(before, store, shape, each, rng)
        if other.engine is not before:
            other.engine.counts.update(before.counts)
            assert other.fresh() == one.fresh(), f"{where}, restored"
            restored += 1
    assert {"C", "D", "U", "V", "T", "B"} <= seen
    assert restored > 10


def test_the_schedules_have_all_verdicts_and_reach_beyond_all_windows() -> None:
    letters = ""
    for shape, steps in SHAPES:
        played = list(decided(1, steps, shape))
        letters += "".join(each.letters for each in played)
        longest = max(minutes for _, minutes in shape.windows) * MINUTE
        assert played[-1].step.then - T0 > 2 * longest
        late = [
            each.step.now - swap.timestamp
            for each in played
            for swap, letter in zip(each.step.swaps, each.letters, strict=True)
            if letter == "C" and swap is not None
        ]
        assert max(late) > 0.9 * min(shape.grace_ms, DAY)
    # Records of another partition's tokens never reach the engine.
    assert set(letters) == {verdict.value for verdict in Verdict} - {"M", "F"}
