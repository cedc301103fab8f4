"""Intents fit in the commit metadata, survive packing, and name their batch exactly."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import numpy as np
import pytest

from aggregator.archiving.batches import MAX_DAYS, DecidedQueue, Rebuilding, cut, span_of
from aggregator.archiving.decisions import Decided
from aggregator.archiving.intents import (
    MAX_METADATA,
    LogPosition,
    Place,
    Switch,
    pack,
    unpack,
)
from aggregator.clickhouse.writer import ArchiveBlock
from aggregator.contracts.event import Swap, marker_of
from aggregator.contracts.swaps import Swaps, swaps_of
from aggregator.contracts.units import DAY_MS
from aggregator.runtime.errors import Fatal

PART = 7
START = LogPosition(clock=5, topic_id="a" * 36, homes=4, partitioner="murmur2", epoch=7)


def a_swap(number: int, timestamp: int = 0, *, removed: bool = False) -> Swap:
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
        removed=removed,
        marker=marker_of("eth", f"0x{number}", 0, "T"),
    )


def some_swaps(offsets: list[int], times: list[int], letters: str) -> Swaps:
    """Records of 10 bytes each; those with the letter U are retractions."""
    swaps = swaps_of(
        [
            a_swap(offset, time, removed=letter == "U")
            for offset, time, letter in zip(offsets, times, letters, strict=True)
        ],
        offsets,
        recorded=[1_000 + n for n in range(len(offsets))],
    )
    swaps.records["size"] = 10
    return swaps


def decided(
    letters: str,
    offsets: list[int] | None = None,
    times: list[int] | None = None,
    negated: dict[int, Place] | None = None,
) -> DecidedQueue:
    count = len(letters)
    offsets = offsets or list(range(100, 100 + count))
    swaps = some_swaps(offsets, times or [0] * count, letters)
    swaps.swaps["verdict"] = list(letters.encode())
    all_negated = {
        at: Place(0, at) for at, each in zip(offsets, letters, strict=True) if each == "U"
    }
    whole = Decided(swaps, np.arange(count), all_negated | (negated or {}))
    held = DecidedQueue()
    # In parts, as polls deliver them.
    for begin in range(0, count, PART):
        held.add(whole.part(begin, min(begin + PART, count)))
    return held


def contents(blocks: list[ArchiveBlock]) -> list[tuple[Any, ...]]:
    """Return everything in these blocks."""
    return [
        (
            block.partition,
            block.day,
            block.ingested_at,
            block.swaps.swaps[["offset", "timestamp", "verdict", "usd"]].tolist(),
            block.swaps.markers.tolist(),
            [block.swaps.texts(place) for place in range(len(block.swaps))],
        )
        for block in blocks
    ]


def test_unpack_reverses_pack() -> None:
    before = msgspec.structs.replace(START, gaps=[(1, 5)], switch=Switch(9, 8), origins={7: 70})
    batch = cut(decided("CCDLUV"), 3, before, max_rows=100, now_ms=77)
    assert unpack(pack(batch.promised)) == batch.promised
    intent = batch.intent
    assert (intent.first, intent.last, intent.decided_at) == (100, 105, 77)
    assert intent.letters().tobytes() == b"CCXLUV"
    assert intent.negated_places() == [Place(0, 104)]
    assert (batch.after.clock, batch.after.origins, batch.after.gaps) == (5, {7: 70}, [(1, 5)])
    assert (batch.next_offset, batch.rows, batch.size, batch.oldest) == (106, 5, 60, 1_000)
    assert unpack("") == LogPosition()


def test_another_groups_metadata_is_refused() -> None:
    for text in ('{"epoch":7}', "[]", '["3"]', "no"):
        with pytest.raises(Fatal, match="ARCHIVER_GROUP"):
            unpack(text)


def test_a_position_of_the_version_before_is_read_unless_it_has_an_intent() -> None:
    found = unpack("[1795392000000,5,[[1,2]],null]")
    assert found.from_before
    assert found.gaps == [(1, 2)]
    with pytest.raises(Fatal, match="version's archiver"):
        unpack('[1795392000000,5,[],[5,6,7,[],"x"]]')


def test_clock_and_origins_are_those_at_the_end_of_the_batch() -> None:
    held = decided("CMFDC")
    swaps = next(iter(held)).swaps
    swaps.records["origin_partition"] = [2, 3, 4, 2, 2]
    swaps.records["origin_offset"] = [10, 11, 12, 13, 14]
    batch = cut(held, 0, START, max_rows=4, now_ms=0)
    # A record that is forwarded on, or was before, is not noted.
    assert (batch.after.clock, batch.after.origins) == (3, {2: 13})
    assert cut(held, 0, batch.after, max_rows=4, now_ms=0).after.origins == {2: 14}


def test_offsets_without_a_record_are_in_no_block() -> None:
    batch = cut(decided("CLC", [7, 9, 14]), 0, START, max_rows=100, now_ms=0)
    assert batch.intent.letters().tobytes() == b"CXLXXXXC"
    (block,) = batch.blocks
    assert block.swaps.offsets.tolist() == [7, 9, 14]


def test_each_day_is_a_block_whose_span_is_its_own() -> None:
    times = [DAY_MS - 1, DAY_MS, DAY_MS - 2, DAY_MS + 1, DAY_MS + 2]
    batch = cut(decided("CCDCL", times=times), 0, START, max_rows=100, now_ms=0)
    assert [tuple(span_of(block)) for block in batch.blocks] == [(0, 100, 100), (1, 101, 104)]
    assert batch.intent.block_spans() == [span_of(block) for block in batch.blocks]


def test_a_batch_is_cut_by_rows_and_by_days() -> None:
    held = decided("C" * 40, times=[n * DAY_MS for n in range(40)])
    assert len(cut(held, 0, START, max_rows=4, now_ms=0).blocks) == 4
    batch = cut(held, 0, START, max_rows=100, now_ms=0)
    assert len(batch.blocks) == MAX_DAYS
    assert batch.next_offset == 104 + MAX_DAYS
    repeats = cut(decided("DDD"), 0, START, max_rows=100, now_ms=0)
    assert (repeats.blocks, repeats.next_offset) == ([], 103)


@pytest.mark.parametrize(
    ("name", "letters", "least"),
    [
        ("all counted", "C", 20_000),
        ("one in a hundred repeated", "C" * 99 + "D", 20_000),
        ("one in a hundred retracted", "C" * 99 + "U", 4_000),
        ("anything", "CLUVD", 500),
    ],
)
def test_the_metadata_stays_within_the_brokers_limit(name: str, letters: str, least: int) -> None:
    draw = random.Random(name)
    chosen = "".join(draw.choices(letters, k=20_000))
    negated = {
        100 + at: Place(3, draw.randrange(2**40)) for at, each in enumerate(chosen) if each == "U"
    }
    held = decided(chosen, negated=negated)
    cuts, offset = 0, 100
    gaps = [(2**62 + n, 2**62 + n + 1) for n in range(8)]
    position = msgspec.structs.replace(START, gaps=gaps)
    while held:
        batch = cut(held, 0, position, max_rows=50_000, now_ms=2**41)
        assert len(pack(batch.promised).encode()) <= MAX_METADATA
        assert batch.intent.first == offset
        minus = [at for at in sorted(negated) if offset <= at < batch.next_offset]
        assert batch.intent.negated_places() == [negated[at] for at in minus]
        offset, cuts = batch.next_offset, cuts + 1
    assert offset == 20_100
    assert 20_000 / cuts >= least


def test_the_blocks_of_an_intent_are_rebuilt_from_the_log_and_the_archive() -> None:
    times = [DAY_MS - 1, DAY_MS, DAY_MS - 2, DAY_MS - 1, 7 * DAY_MS, DAY_MS + 2]
    offsets = [5, 6, 8, 9, 10, 11]
    negated = {9: Place(2, 5), 10: Place(2, 3)}
    # The first retraction is of this batch; the row of the other one lies in the archive.
    values = {Place(2, 3): a_swap(3, DAY_MS + 3)}
    queue = decided("CCDUUL", offsets, [*times[:4], DAY_MS + 3, times[5]], negated)
    batch = cut(queue, 2, START, max_rows=100, now_ms=9)
    swaps = some_swaps(offsets, times, "CCDUUL")
    rebuilding = Rebuilding(batch.intent, batch.promised, 2, [swaps.part(0, 2), swaps.part(2, 6)])
    assert rebuilding.asked == [Place(2, 3)]
    again = rebuilding.batch(values, max_future_ms=2**40)
    assert [tuple(span_of(block)) for block in again.blocks] == [(0, 5, 9), (1, 6, 11)]
    assert again.intent == batch.intent
    assert again.after == batch.after
    got = [block.swaps.swaps["timestamp"].tolist() for block in again.blocks]
    assert got == [[DAY_MS - 1, DAY_MS - 1], [DAY_MS, DAY_MS + 3, DAY_MS + 2]]
    short = Rebuilding(batch.intent, batch.promised, 2, [swaps.part(0, 2)])
    with pytest.raises(Fatal, match="not those that were to be archived"):
        short.batch(values, max_future_ms=2**40)
