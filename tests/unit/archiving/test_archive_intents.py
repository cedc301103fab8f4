"""Intents fit in the commit metadata, survive packing, and name their batch exactly."""

from __future__ import annotations

import random
from typing import Any

import pytest

from aggregator.archiving.intents import (
    MAX_DAYS,
    MAX_METADATA,
    LogPosition,
    SwapQueue,
    cut,
    pack,
    rebuild_blocks,
    span_of,
    unpack,
)
from aggregator.clickhouse.writer import ArchiveBlock
from aggregator.contracts.archive_rows import SwapRows, as_rows
from aggregator.contracts.event import Swap, marker_of
from aggregator.contracts.units import DAY_MS
from aggregator.runtime.errors import Fatal

PART = 7


def a_swap(number: int, timestamp: int = 0) -> Swap:
    return Swap(
        token_id="eth:T",
        chain="eth",
        token="T",
        tx_hash=f"0x{number}",
        log_index=0,
        timestamp=timestamp,
        is_buy=True,
        amount_attos=1,
        usd_micros=1,
        price_usd=1.0,
        removed=False,
        marker=marker_of("eth", f"0x{number}", 0, None),
    )


def decided(
    verdicts: str, offsets: list[int] | None = None, times: list[int] | None = None
) -> SwapQueue:
    count = len(verdicts)
    offsets = offsets or list(range(100, 100 + count))
    swaps = some_rows(offsets, times or [0] * count, [1_000 + n for n in range(count)])
    swaps.swaps["verdict"] = list(verdicts.encode())
    swaps.rows["watermark"] = range(count)
    held = SwapQueue()
    # In parts, as polls deliver them.
    for begin in range(0, count, PART):
        held.add(swaps.part(begin, min(begin + PART, count)))
    return held


def some_rows(offsets: list[int], times: list[int], recorded: list[int]) -> SwapRows:
    """Swaps of 10 bytes each."""
    swaps = as_rows([a_swap(offset, time) for offset, time in zip(offsets, times, strict=True)])
    swaps.swaps["offset"] = offsets
    swaps.rows["recorded"] = recorded
    swaps.rows["size"] = 10
    return swaps


def contents(blocks: list[ArchiveBlock]) -> list[tuple[Any, ...]]:
    """Return everything in these blocks."""
    return [
        (
            block.partition,
            block.day,
            block.ingested_at,
            block.swaps.swaps.tolist(),
            block.swaps.rows["marker"].tolist(),
            [block.swaps.texts(place) for place in range(len(block.swaps))],
        )
        for block in blocks
    ]


def test_unpack_reverses_pack() -> None:
    batch = cut(decided("CCDLUV"), 3, [(1, 5)], max_rows=100, now_ms=77)
    text = pack(batch.promised)
    assert unpack(text) == batch.promised
    intent = batch.intent
    assert (intent.first, intent.last, intent.decided_at) == (100, 105, 77)
    assert intent.letters() == "CCDLUV"
    assert (batch.after.watermark, batch.after.claimed_to, batch.after.gaps) == (5, 106, [(1, 5)])
    assert (batch.next_offset, batch.rows, batch.size, batch.oldest) == (106, 5, 60, 1_000)
    assert unpack("") == LogPosition()


def test_another_groups_metadata_is_refused() -> None:
    with pytest.raises(Fatal, match="ARCHIVER_GROUP"):
        unpack('{"epoch":7}')


def test_offsets_without_a_record_are_in_no_block() -> None:
    batch = cut(decided("CLC", [7, 9, 14]), 0, [], max_rows=100, now_ms=0)
    assert batch.intent.letters() == "CXLXXXXC"
    (block,) = batch.blocks
    assert block.swaps.swaps["offset"].tolist() == [7, 9, 14]


def test_a_batch_is_cut_by_rows() -> None:
    held = decided("C" * 10)
    first = cut(held, 0, [], max_rows=4, now_ms=0)
    second = cut(held, 0, [], max_rows=40, now_ms=0)
    assert (first.intent.first, first.intent.last, first.after.watermark) == (100, 103, 3)
    assert (second.intent.first, second.intent.last) == (104, 109)
    assert len(held) == 0


def test_each_day_is_a_block_whose_span_is_its_own() -> None:
    times = [DAY_MS - 1, DAY_MS, DAY_MS - 2, DAY_MS + 1, DAY_MS + 2]
    batch = cut(decided("CCDCL", times=times), 0, [], max_rows=100, now_ms=0)
    assert [tuple(span_of(block)) for block in batch.blocks] == [(0, 100, 100), (1, 101, 104)]
    assert batch.intent.block_spans() == [span_of(block) for block in batch.blocks]
    offsets = [block.swaps.swaps["offset"].tolist() for block in batch.blocks]
    assert offsets == [[100], [101, 103, 104]]


def test_a_batch_is_cut_by_days() -> None:
    held = decided("C" * 40, times=[n * DAY_MS for n in range(40)])
    batch = cut(held, 0, [], max_rows=100, now_ms=0)
    assert len(batch.blocks) == MAX_DAYS
    assert held.first_offset == 100 + MAX_DAYS


def test_only_duplicates_make_no_block() -> None:
    batch = cut(decided("DDD"), 0, [], max_rows=100, now_ms=0)
    assert batch.blocks == []
    assert batch.next_offset == 103


@pytest.mark.parametrize(
    ("name", "letters", "least"),
    [
        ("all counted", "C", 50_000),
        ("one in a hundred repeated", "C" * 99 + "D", 50_000),
        ("half repeated", "CD", 4_000),
        ("anything", "CLUVD", 4_000),
    ],
)
def test_the_metadata_stays_within_the_brokers_limit(name: str, letters: str, least: int) -> None:
    draw = random.Random(name)
    held = decided("".join(draw.choices(letters, k=50_000)))
    gaps = [(2**62 + n, 2**62 + n + 1) for n in range(50)]
    cuts, offset = 0, 100
    while held:
        batch = cut(held, 0, gaps, max_rows=50_000, now_ms=2**41)
        assert len(pack(batch.promised).encode()) <= MAX_METADATA
        assert batch.intent.first == offset
        offset = batch.next_offset
        cuts += 1
    assert offset == 50_100
    assert 50_000 / cuts >= least


def test_the_blocks_of_an_intent_are_rebuilt_from_the_log() -> None:
    times = [DAY_MS - 1, DAY_MS, DAY_MS - 2, DAY_MS + 1, DAY_MS + 2]
    offsets = [5, 6, 8, 9, 11]
    batch = cut(decided("CCDCL", offsets, times), 2, [], max_rows=100, now_ms=9)
    swaps = some_rows(offsets, times, [0] * 5)
    blocks = rebuild_blocks(batch.intent, 2, [swaps.part(0, 2), swaps.part(2, 5)])
    assert contents(blocks) == contents(batch.blocks)
    assert [len(block.swaps) for block in blocks] == [1, 3]
    with pytest.raises(Fatal, match="not those that were to be archived"):
        rebuild_blocks(batch.intent, 2, [swaps.part(0, 4)])
