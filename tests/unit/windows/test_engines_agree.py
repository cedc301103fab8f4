"""The compiled engine against the specification, in lockstep over long random schedules.

After every step both show the same numbers of every token, have marked every change dirty, and hold
as much. Only the distinct traders of an approximate window may differ: the specification keeps them
exact there.
"""

from __future__ import annotations

import msgspec
import pytest

from aggregator.contracts.batch import SwapBatch
from aggregator.contracts.stats import TokenStats
from aggregator.contracts.verdict import Verdict
from tests.spec.windows import ReferenceWindows
from tests.support.oracle import MINUTE
from tests.unit.windows.schedules import GRACE, WINDOWS, Step, schedule
from tests.unit.windows.service import MAX_FUTURE, T0, Engine, Markers

columnar = pytest.importorskip(
    "aggregator.windows.engine", exc_type=ImportError, reason="the columnar engine is not here"
)
FAST_ENGINES = [columnar.ColumnarWindows]

SEEDS = 8
STEPS = 250


class Reader:
    """An engine, and what a reader of its patches knows.

    `by_event`: the windows end at the watermark, as in a replay of old data.
    """

    def __init__(self, engine: Engine, history_from: int | None, by_event: bool) -> None:
        self.engine = engine(
            partition=3,
            windows=WINDOWS,
            grace_ms=GRACE,
            max_future_ms=MAX_FUTURE,
            now_ms=0 if by_event else T0,
            history_from=history_from,
        )
        self.board: dict[str, TokenStats] = {}
        self._by_event = by_event
        self._next_offset = 0

    def observe(self, step: Step) -> list[bool]:
        times = [swap.timestamp for swap in step.swaps]
        return self.engine.observe(times, [step.now] * len(times))

    def apply(self, step: Step, verdicts: str) -> None:
        offsets = list(range(self._next_offset, self._next_offset + len(step.swaps)))
        self._next_offset += len(offsets)
        self.engine.apply(step.swaps, offsets, verdicts)

    def publish(self, step: Step) -> None:
        self.engine.advance((self.engine.watermark or 0) if self._by_event else step.then)
        for token in self.engine.take_dirty():
            self.board[token] = self.stats(token)
        for token in self.engine.forget_idle() if step.forget else ():
            del self.board[token]

    def stats(self, token: str) -> TokenStats:
        return self.engine.stats(token, epoch=2, seq=7, next_offset=self._next_offset)

    def fresh(self) -> dict[str, TokenStats]:
        """Return every token as it is now."""
        return {token: self.stats(token) for token in sorted(self.engine.token_ids())}

    def held(self) -> dict[str, object]:
        """Return what the engine reports of itself."""
        engine = self.engine
        return {
            "counts": {verdict: engine.counts[verdict] for verdict in Verdict},
            "watermark": engine.watermark,
            "now_ms": engine.now_ms,
            "token_count": engine.token_count,
            "bucket_count": engine.bucket_count,
        }


def comparable(stats: TokenStats) -> TokenStats:
    """Return the stats without the numbers in which engines may differ."""
    windows = {
        name: msgspec.structs.replace(window, traders=0, buyers=0, sellers=0)
        if window.approximate
        else window
        for name, window in stats.windows.items()
    }
    return msgspec.structs.replace(stats, windows=windows)


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


def numbered(batches: list[SwapBatch]) -> list[tuple[str, int, int]]:
    """Return the trades of the batches in the form of the specification."""
    return [
        (batch.swap(place).token_id, batch.offsets[place], n)
        for batch in batches
        for place, n in enumerate(batch.swaps["n"].tolist())
        if n
    ]


@pytest.mark.parametrize("fast", FAST_ENGINES, ids=lambda engine: engine.__name__)
@pytest.mark.parametrize("seed", range(SEEDS))
def test_engines_agree_on_every_number_after_every_step(seed: int, fast: Engine) -> None:
    # In every other schedule `history_from` is known; one of four runs at event time.
    history_from = T0 + 20 * MINUTE if seed % 2 else None
    one = Reader(ReferenceWindows, history_from, by_event=seed % 4 == 3)
    other = Reader(fast, history_from, by_event=seed % 4 == 3)
    markers, seen = Markers(), set()
    for number, step in enumerate(schedule(seed, STEPS)):
        where = f"seed {seed}, step {number}"
        late = one.observe(step)
        assert other.observe(step) == late, where
        verdicts = "".join(
            markers.decide(swap, was_late) for swap, was_late in zip(step.swaps, late, strict=True)
        )
        seen |= set(verdicts)
        for reader in (one, other):
            reader.apply(step, verdicts)
            reader.publish(step)
        assert other.held() == one.held(), where
        assert numbered(other.engine.take_applied()) == one.engine.take_trades(), where
        expected, shown = one.fresh(), other.fresh()
        assert shown.keys() == expected.keys(), where
        for token, stats in expected.items():
            assert comparable(shown[token]) == comparable(stats), f"{where}, {token}"
        assert_published(one, expected, where)
        assert_published(other, shown, where)
    assert seen == {verdict.value for verdict in Verdict}
