"""The rows of the compiled engine equal msgspec's JSON of their `TokenStats`, byte for byte."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.contracts.stats import TokenStats
from aggregator.windows.engine import ColumnarWindows
from tests.unit.windows.schedules import GRACE, WINDOWS, schedule
from tests.unit.windows.service import MAX_FUTURE, T0, Markers

decode = msgspec.json.Decoder(TokenStats).decode


@pytest.mark.parametrize("seed", range(3))
def test_a_row_is_the_json_of_its_stats_at_every_step(seed: int) -> None:
    engine = ColumnarWindows(
        partition=3, windows=WINDOWS, grace_ms=GRACE, max_future_ms=MAX_FUTURE, now_ms=T0
    )
    markers, offset, seq_taken = Markers(), 0, 0
    for step in schedule(seed, 80):
        late = engine.observe([swap.timestamp for swap in step.swaps], [step.now] * len(step.swaps))
        verdicts = "".join(map(markers.decide, step.swaps, late))
        engine.apply(step.swaps, range(offset, offset + len(step.swaps)), verdicts)
        offset += len(step.swaps)
        engine.advance(step.then)
        dirty = engine.take_dirty()
        rows = engine.rows_of(dirty, epoch=2, first_seq=seq_taken + 1, next_offset=offset)
        for seq, (token_id, row) in enumerate(zip(dirty, rows, strict=True), seq_taken + 1):
            stats = decode(row)
            assert msgspec.json.encode(stats) == row
            assert (stats.token_id, stats.seq, stats.epoch) == (token_id, seq, 2)
            assert (stats.next_offset, stats.as_of) == (offset, engine.now_ms)
        seq_taken += len(rows)
    assert seq_taken > 500


def test_rows_of_one_state_may_share_a_seq() -> None:
    engine = ColumnarWindows(
        partition=0, windows=WINDOWS, grace_ms=GRACE, max_future_ms=MAX_FUTURE, now_ms=T0
    )
    step = next(step for step in schedule(1, 20) if len(step.swaps) > 5)
    engine.apply(step.swaps, range(len(step.swaps)), "C" * len(step.swaps))
    engine.advance(step.then)
    held = list(engine.token_ids())
    rows = engine.rows_of(held, epoch=1, first_seq=1, next_offset=9, seq_step=0)
    assert [decode(row).token_id for row in rows] == held
    assert {decode(row).seq for row in rows} == {1}
    assert engine.rows_of([], epoch=1, first_seq=1, next_offset=9) == []
    with pytest.raises(KeyError):
        engine.rows_of(["c:nobody"], epoch=1, first_seq=1, next_offset=9)
