"""The compiled fold decides as the readable one does, and continues from a save unchanged."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from aggregator.contracts.seen import NEVER
from aggregator.seen import journal
from aggregator.seen.seen import Seen, SeenChanges
from aggregator.seen.words import LETTERS
from tests.spec.seen import BLOCK, LogRecordSpec, SeenSpec
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


def test_the_logs_have_every_letter_and_every_kind_of_removal() -> None:
    found = set()
    for seed in range(10):
        seen = Seen(**RULES, next_offset=0)
        for batch in Streams(seed, ttl=80).batches(2000):
            verdicts = seen.judge(*columns(batch))
            found |= set(zip(verdicts.letters.tolist(), verdicts.counted_at >= 0, strict=True))
    letters = {(ord(letter), False) for letter in LETTERS}
    assert found == letters | {(ord("U"), True)}


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


@pytest.mark.parametrize("seed", range(40))
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


@pytest.mark.parametrize("seed", range(40))
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


@pytest.mark.parametrize("bits", [(20, 27), (27, 29), (28, 30), (29, 31), (30, 32), (32, 32)])
def test_a_table_of_very_many_places(bits: tuple[int, int], monkeypatch: Any) -> None:
    """With more places an entry has fewer bits left for the distance and the hash."""
    wanted = {4: bits[0]}
    monkeypatch.setattr(journal, "place_bits", lambda places: wanted.get(places // BLOCK, bits[1]))
    seen, expected = Seen(**RULES, next_offset=0), spec(next_offset=0)
    for batch in Streams(7, ttl=80).batches(4000):
        check_batch(seen, expected, batch)
    assert len(seen._journal.slots) > 4
    saved = seen.whole()
    restored = Seen.restore(saved.header, saved.blocks, saved.sections, **RULES)
    assert restored.whole() == saved
    assert restored.ids == seen.ids


def test_a_large_batch_makes_room_as_it_goes() -> None:
    """Nothing is forgotten, so the words, the table and the list of moved swaps all grow."""
    rules = RULES | {"ttl_ms": 10**9}
    seen, expected = Seen(**rules, next_offset=0), spec(next_offset=0)
    expected.ttl = 10**9
    records = [record for batch in Streams(3, ttl=1).batches(15_000) for record in batch]
    check_batch(seen, expected, records)
    assert seen.ids > 3_000
    store = Store()
    store.save_whole(seen.whole())
    restored = store.restored(ttl_ms=10**9)
    assert (restored.ids, restored.whole()) == (seen.ids, seen.whole())
    more = Streams(4, ttl=1, offset=seen.next_offset)
    repeats = [replace(next(iter(more.batches(1)))[0], id=record.id) for record in records[:9_000]]
    check_batch(restored, expected, repeats)
