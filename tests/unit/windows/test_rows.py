"""The rows of the compiled engine equal msgspec's JSON of their `TokenStats`, byte for byte."""

from __future__ import annotations

import msgspec
import pytest

from aggregator.contracts.stats import TokenStats
from aggregator.windows.engine import ColumnarWindows
from tests.unit.windows.readers import decided
from tests.unit.windows.schedules import BUSY
from tests.unit.windows.service import T0, apply

decode = msgspec.json.Decoder(TokenStats).decode


@pytest.mark.parametrize("seed", range(3))
def test_a_row_is_the_json_of_its_stats_at_every_step(seed: int) -> None:
    engine = ColumnarWindows(partition=3, windows=BUSY.windows, now_ms=T0, history_from=T0)
    offset, seq_taken = 0, 0
    for each in decided(seed, 80, BUSY):
        apply(engine, each.step.swaps, each.offsets, each.letters, each.undone)
        offset += len(each.offsets)
        engine.advance(each.step.then)
        dirty = engine.take_dirty()
        rows = engine.rows_of(
            dirty, epoch=2, first_seq=seq_taken + 1, next_offset=offset, watermark=each.clock
        )
        for seq, (token_id, row) in enumerate(zip(dirty, rows, strict=True), seq_taken + 1):
            stats = decode(row)
            assert msgspec.json.encode(stats) == row
            assert (stats.token_id, stats.seq, stats.epoch) == (token_id, seq, 2)
            assert (stats.next_offset, stats.as_of) == (offset, engine.now_ms)
            assert stats.watermark == each.clock
        seq_taken += len(rows)
    assert seq_taken > 500


def test_rows_of_one_state_may_share_a_seq() -> None:
    engine = ColumnarWindows(partition=0, windows=BUSY.windows, now_ms=T0)
    each = next(each for each in decided(1, 20, BUSY) if len(each.step.swaps) > 5)
    apply(engine, each.step.swaps, each.offsets, each.letters, each.undone)
    engine.advance(each.step.then)
    held = list(engine.token_ids())
    rows = engine.rows_of(held, epoch=1, first_seq=1, next_offset=9, watermark=1, seq_step=0)
    assert [decode(row).token_id for row in rows] == held
    assert {decode(row).seq for row in rows} == {1}
    assert engine.rows_of([], epoch=1, first_seq=1, next_offset=9, watermark=None) == []
    with pytest.raises(KeyError):
        engine.rows_of(["c:nobody"], epoch=1, first_seq=1, next_offset=9, watermark=None)
