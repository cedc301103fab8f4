"""Entries that come from the archive: folded per id, remembered for a time, or looked up once."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest

from aggregator.contracts.arrays import Array
from aggregator.seen.known import Known
from aggregator.seen.seen import Seen
from tests.spec.seen import BLOCK, LogRecordSpec, SeenSpec, known_of
from tests.support.seen_streams import Streams, columns
from tests.unit.seen.test_seen import RULES, check_batch, spec
from tests.unit.seen.test_table import ADD, ID, NOW, OTHER, REMOVAL, TTL, judged, new_seen

Row = tuple[bytes, str, int, int]


class Rows(NamedTuple):
    markers: Array
    letters: Array
    offsets: Array
    block_checks: Array


def rows(*given: Row) -> Rows:
    """Rows of (id, letter, offset, block check)."""
    return Rows(
        np.frombuffer(b"".join(row[0] for row in given), np.uint64).reshape(-1, 2),
        np.array([ord(row[1]) for row in given], np.uint8),
        np.array([row[2] for row in given], np.int64),
        np.array([row[3] for row in given], np.uint16),
    )


def after(letters: str, add: LogRecordSpec = ADD) -> str:
    """The letters of an add and of a removal of an id with these rows of block 0."""
    known = Known.of(rows(*((ID, letter, i, 0) for i, letter in enumerate(letters))))
    return "".join(
        new_seen(next_offset=100)
        .judge(*columns([replace(record, offset=100)]), known)
        .letters.tobytes()
        .decode()
        for record in (add, REMOVAL)
    )


@pytest.mark.parametrize(
    ("letters", "add_and_removal"),
    [
        ("", "CT"),
        ("C", "DU"),
        ("L", "DU"),
        ("CU", "CD"),
        ("CG", "CD"),
        ("G", "CD"),
        ("T", "VD"),
        ("TV", "CD"),
        ("LP", "DU"),
        ("CN", "DU"),
        ("N", "DU"),
        ("n", "DU"),
        # A row that takes out an older row, and the mark of a batch that is void, change nothing.
        ("Cu", "DU"),
        ("CUu", "CD"),
        ("u", "CT"),
        ("-", "CT"),
        ("DIBMF", "CT"),
    ],
)
def test_the_rows_of_an_id_make_its_entry(letters: str, add_and_removal: str) -> None:
    assert after(letters) == add_and_removal


def test_the_block_is_that_of_the_last_transition() -> None:
    known = Known.of(rows((ID, "C", 1, 7), (OTHER, "C", 2, 7), (ID, "N", 3, 9), (OTHER, "u", 4, 9)))
    records = [replace(ADD, offset=100, block=7), replace(ADD, offset=101, id=OTHER, block=7)]
    seen = new_seen(next_offset=100)
    assert seen.judge(*columns(records), known).letters.tobytes() == b"ND"
    assert len(known) == 2


def test_rows_must_be_in_the_order_of_their_offsets() -> None:
    with pytest.raises(ValueError, match="order"):
        Known.of(rows((ID, "C", 2, 0), (ID, "U", 1, 0)))


def test_no_rows_are_known() -> None:
    assert len(Known.of(rows())) == 0


def test_the_journal_knows_better_than_what_is_remembered_or_looked_up() -> None:
    seen = new_seen(next_offset=100)
    judged(seen, ADD, REMOVAL)
    seen.remember(Known.of(rows((ID, "C", 1, 0))), NOW + TTL)
    assert judged(seen, ADD)[0] == "C"
    known = Known.of(rows((ID, "T", 1, 0), (OTHER, "C", 2, 0)))
    records = [replace(ADD, offset=seen.next_offset), replace(ADD, offset=999, id=OTHER)]
    assert seen.judge(*columns(records), known).letters.tobytes() == b"DD"


def test_what_is_remembered_is_preferred_to_what_is_looked_up() -> None:
    seen = new_seen(next_offset=100)
    seen.remember(Known.of(rows((ID, "CU"[0], 1, 0))), NOW)
    known = Known.of(rows((ID, "T", 1, 0)))
    assert seen.judge(*columns([replace(ADD, offset=100)]), known).letters.tobytes() == b"D"


@pytest.mark.parametrize(("until", "letter"), [(NOW, "U"), (NOW - 1, "T")])
def test_entries_are_remembered_until_the_clock_passes(until: int, letter: str) -> None:
    seen = new_seen(next_offset=100)
    seen.remember(Known.of(rows((ID, "C", 1, 0))), until)
    assert judged(seen, REMOVAL) == (letter, [-1])


def test_an_entry_that_the_journal_replaced_does_not_come_back() -> None:
    seen = new_seen(next_offset=100)
    known = Known.of(rows((ID, "C", 1, 0)))
    seen.remember(known, NOW + 10 * TTL)
    assert judged(seen, REMOVAL)[0] == "U"
    later = replace(ADD, timestamp=NOW + 2 * TTL, event_time=NOW + 2 * TTL, removed=True)
    assert judged(seen, later, at=BLOCK)[0] == "T"
    # The table that was given still has it.
    assert len(known) == 1
    assert new_seen().judge(*columns([REMOVAL]), known).letters.tobytes() == b"U"


def test_has_an_entry() -> None:
    seen = new_seen(next_offset=100)
    judged(seen, ADD)
    third = bytes(16)
    seen.remember(Known.of(rows((OTHER, "C", 1, 0), (third, "u", 2, 0))), NOW + 5)
    records = [
        replace(ADD, offset=200),
        replace(ADD, offset=201, id=OTHER),
        replace(ADD, offset=202, id=third),
        replace(ADD, offset=203, id=OTHER, timestamp=NOW + 6),
        replace(ADD, offset=204, timestamp=NOW + TTL),
        replace(ADD, offset=205, timestamp=NOW + TTL + 1),
    ]
    swaps, _ = columns(records)
    assert seen.has(swaps, np.arange(6)).tolist() == [True, True, False, False, True, False]
    assert seen.has(swaps, np.array([5, 0])).tolist() == [False, True]
    assert seen.has(swaps, np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("seed", range(20))
def test_has_promises_only_what_judging_finds(seed: int) -> None:
    seen, expected = Seen(**RULES, next_offset=0), spec(next_offset=0)
    for batch in Streams(seed, ttl=80).batches(1500):
        swaps, _ = columns(batch)
        promised = seen.has(swaps, np.arange(len(batch)))
        clocks = seen.clocks(swaps).tolist()
        for record, promise, clock in zip(batch, promised.tolist(), clocks, strict=True):
            if promise:
                assert entry_then(expected, record) is not None
            elif expected.clock is not None and clock <= expected.clock + 80:
                assert expected.entry(record.id) is None or clock > earliest_end(expected, record)
        check_batch(seen, expected, batch)


def entry_then(expected: SeenSpec, record: LogRecordSpec) -> object:
    """The entry of an id now."""
    return expected.entry(record.id)


def earliest_end(expected: SeenSpec, record: LogRecordSpec) -> int:
    """The least clock until which the entry of an id lasts."""
    entry = expected.entry(record.id)
    assert entry is not None and expected.clock is not None
    end = expected.ends.get(entry.at // BLOCK, expected.clock)
    return (expected.clock if end is None else end) + 80


@pytest.mark.parametrize("seed", range(30))
def test_a_log_is_decided_with_known_entries_as_the_specification_says(seed: int) -> None:
    draw = random.Random(seed)
    start = draw.choice((0, 77, 5 * BLOCK - 20))
    streams = Streams(seed, ttl=80, offset=start)
    seen, expected = Seen(**RULES, next_offset=start), spec(next_offset=start)
    for batch in streams.batches(1500):
        if draw.random() < 0.1:
            given = archived(draw, streams.ids(), start)
            expected.remembered = known_of(given)
            expected.remembered_until = seen.clock or 10_000
            expected.remembered_until += draw.choice((-10, 0, 80, 500))
            seen.remember(Known.of(rows(*given)), expected.remembered_until)
        given = archived(draw, streams.ids(), start)
        check_batch(seen, expected, batch, Known.of(rows(*given)), known_of(given))


def archived(draw: random.Random, ids: list[bytes], end: int) -> list[Row]:
    count = draw.choice((0, 1, 5, 60))
    return [
        (draw.choice(ids), draw.choice("CLUVTNnPuGD-"), i - count + end, draw.choice((0, 1, 2)))
        for i in range(count)
    ]
