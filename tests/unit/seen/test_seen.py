"""The compiled fold decides as the readable one does, and continues from a save as if never stopped."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from aggregator.contracts.seen import NEVER
from aggregator.seen.known import Known
from aggregator.seen.seen import Seen, SeenChanges
from tests.spec.seen import BLOCK, LogRecordSpec, SeenSpec, known_of
from tests.support.seen_streams import Streams, columns

RULES = {"ttl_ms": 80, "grace_ms": 60, "max_future_ms": 10}
STARTS = (0, 5, BLOCK - 3, 2**32 - 700, 2**40 + 1)


def spec(**start: Any) -> SeenSpec:
    return SeenSpec(ttl=80, grace=60, max_future=10, **start)


class Store:
    """What a save leaves, kept as a store of keys would keep it."""

    def __init__(self) -> None:
        self.header: Any = None
        self.blocks: dict[int, bytes] = {}
        self.sections: dict[bytes, bytes] = {}

    def save(self, changes: SeenChanges) -> None:
        self.header = changes.header
        self.blocks |= changes.blocks
        self.sections |= changes.sections
        for name in changes.dropped:
            del self.sections[name]
        for number in changes.forgotten:
            del self.blocks[number]

    def save_whole(self, changes: SeenChanges) -> None:
        self.__init__()
        self.header, self.blocks = changes.header, changes.blocks
        self.sections = changes.sections

    def restored(self, **rules: Any) -> Seen:
        return Seen.restore(self.header, self.blocks, self.sections, **(RULES | rules))


def check_batch(
    seen: Seen,
    expected: SeenSpec,
    records: list[LogRecordSpec],
    known: Any = None,
    known_rows: Any = None,
) -> None:
    swaps, away = columns(records)
    clocks = seen.clocks(swaps)
    verdicts = seen.judge(swaps, away, known)
    wanted, wanted_clocks = [], []
    for record in records:
        wanted.append(expected.judge(record, known_rows))
        wanted_clocks.append(NEVER if expected.clock is None else expected.clock)
    letters = verdicts.letters.tobytes().decode()
    counted = [None if offset == -1 else offset for offset in verdicts.counted_at.tolist()]
    assert list(zip(letters, counted, strict=True)) == wanted
    assert clocks.tolist() == wanted_clocks
    assert state_of(seen) == state_of(expected)
    assert seen.ids == len(expected.entries)


def state_of(seen: Seen | SeenSpec) -> tuple[Any, ...]:
    floor = None if seen.floor == NEVER else seen.floor
    return seen.next_offset, seen.clock, floor, seen.origins


@pytest.mark.parametrize("seed", range(60))
def test_a_long_log_is_decided_as_the_specification_says(seed: int) -> None:
    draw = random.Random(seed)
    by_event_time = draw.random() < 0.3
    start = draw.choice(STARTS)
    floor = draw.choice((None, None, 10_050))
    clock = draw.choice((None, 10_020))
    seen = Seen(
        **RULES,
        next_offset=start,
        clock=clock,
        floor=NEVER if floor is None else floor,
        by_event_time=by_event_time,
    )
    expected = spec(next_offset=start, clock=clock, floor=floor, by_event_time=by_event_time)
    for batch in Streams(seed, ttl=80, offset=start).batches(3000):
        check_batch(seen, expected, batch)


@pytest.mark.parametrize("seed", range(60))
def test_a_restored_state_continues_as_if_never_stopped(seed: int) -> None:
    draw = random.Random(seed)
    start = draw.choice(STARTS)
    seen, expected, store = Seen(**RULES, next_offset=start), spec(next_offset=start), Store()
    streams = Streams(seed, ttl=80, offset=start)
    store.save_whole(seen.whole())
    for batch in streams.batches(2500):
        check_batch(seen, expected, batch)
        if draw.random() < 0.1:
            skipped = draw.choice((0, 1, 700, 3 * BLOCK))
            seen.skip_to(seen.next_offset + skipped)
            expected.next_offset += skipped
            streams.skip(skipped)
        if draw.random() < 0.4:
            store.save(seen.changes())
        elif draw.random() < 0.1:
            store.save_whole(seen.whole())
        else:
            continue
        assert sorted(store.blocks) == list(
            range(store.header.first_block, store.header.open_block)
        )
        if draw.random() < 0.5:
            before, seen = seen, store.restored()
            assert state_of(seen) == state_of(before)
            assert seen.whole() == before.whole()
            nothing = seen.changes()
            assert not any(nothing[1:])
