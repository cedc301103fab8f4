"""The table of transitions, row by row, and the edges of lateness and forgetting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from aggregator.contracts.seen import NEVER
from aggregator.contracts.verdict import Verdict
from aggregator.seen.seen import Seen
from aggregator.seen.words import LETTERS
from tests.spec.seen import BLOCK, LogRecordSpec
from tests.support.seen_streams import columns

TTL, GRACE, MAX_FUTURE = 1_000, 600, 100
NOW = 1_000_000
ID = bytes(range(16))
OTHER = bytes(range(1, 17))

ADD = LogRecordSpec(0, ID, NOW, NOW)
LATE_ADD = replace(ADD, event_time=NOW - GRACE - 1)
REMOVAL = replace(ADD, removed=True)

# What makes the entry before, and what follows it. A and B are blocks; none is block 0.
A, B = 7, 9


def in_block(record: LogRecordSpec, block: int) -> LogRecordSpec:
    return replace(record, block=block)


def new_seen(**options: Any) -> Seen:
    rules = {"ttl_ms": TTL, "grace_ms": GRACE, "max_future_ms": MAX_FUTURE, "next_offset": 0}
    return Seen(**(rules | options))


def judged(seen: Seen, *records: LogRecordSpec, at: int | None = None) -> tuple[str, list[int]]:
    """Append the records from offset `at` on, by default where the log ends."""
    first = seen.next_offset if at is None else at
    placed = [replace(record, offset=first + i) for i, record in enumerate(records)]
    verdicts = seen.judge(*columns(placed))
    return verdicts.letters.tobytes().decode(), verdicts.counted_at.tolist()


def letters(*records: LogRecordSpec) -> str:
    return judged(new_seen(), *records)[0]


FIRST = {
    "none": (),
    "counted": (in_block(ADD, A),),
    "counted, block unknown": (ADD,),
    "late": (in_block(LATE_ADD, A),),
    "removed": (in_block(ADD, A), in_block(REMOVAL, A)),
    "removal first": (in_block(REMOVAL, A),),
    "removal first, block unknown": (REMOVAL,),
    "moved": (in_block(ADD, A), in_block(ADD, B)),
    "moved while late": (in_block(LATE_ADD, A), in_block(LATE_ADD, B)),
    "promoted": (in_block(LATE_ADD, A), in_block(ADD, B)),
    "void": (REMOVAL, ADD),
}

# For each entry before: the letters of an add, a late add, a removal, each in block A and in B.
TABLE = {
    "none": "CLT CLT",
    "counted": "DDU NNI",
    "counted, block unknown": "DDU DDU",
    "late": "DDU PnI",
    "removed": "CLD CLD",
    "removal first": "VVD CLD",
    "removal first, block unknown": "VVD VVD",
    "moved": "NNI DDU",
    "moved while late": "PnI DDU",
    "promoted": "NNI DDU",
    "void": "CLD CLD",
}


@pytest.mark.parametrize("before", TABLE)
def test_the_table(before: str) -> None:
    found = [
        letters(*FIRST[before], in_block(record, block))[-1]
        for block in (A, B)
        for record in (ADD, LATE_ADD, REMOVAL)
    ]
    assert "".join(found) == TABLE[before].replace(" ", "")


@pytest.mark.parametrize("before", TABLE)
def test_a_record_without_a_block_is_of_the_same_block(before: str) -> None:
    same = [letters(*FIRST[before], record)[-1] for record in (ADD, LATE_ADD, REMOVAL)]
    block = B if before in {"moved", "moved while late", "promoted"} else A
    expected = [letters(*FIRST[before], in_block(r, block))[-1] for r in (ADD, LATE_ADD, REMOVAL)]
    assert same == expected


def test_sequences_of_a_reorganised_chain() -> None:
    a, b, ra, rb = (in_block(record, block) for record in (ADD, REMOVAL) for block in (A, B))
    assert letters(ADD, REMOVAL, ADD) == "CUC"
    assert letters(ADD, REMOVAL, ADD, REMOVAL) == "CUCU"
    assert letters(REMOVAL, ADD, ADD) == "TVC"
    assert letters(a, ra, b, rb, a) == "CUCUC"
    assert letters(a, b, ra, rb) == "CNIU"
    assert letters(ra, b) == "TC"
    assert letters(a, a, ra, b, b) == "CDUCD"


def test_what_changes_nothing_does_not_renew_an_id() -> None:
    """The entry was made in block 0; repeats in block 1 do not make it last longer."""
    seen = new_seen()
    judged(seen, ADD)
    later = replace(ADD, timestamp=NOW + 900, event_time=NOW + 900)
    assert judged(seen, later, at=BLOCK)[0] == "D"
    after = replace(ADD, timestamp=NOW + TTL + 1, event_time=NOW + TTL + 1)
    assert judged(seen, after)[0] == "C"


def test_an_add_in_another_block_renews_an_id() -> None:
    seen = new_seen()
    judged(seen, in_block(ADD, A))
    later = replace(in_block(ADD, B), timestamp=NOW + 900, event_time=NOW + 900)
    assert judged(seen, later, at=BLOCK)[0] == "N"
    after = replace(later, timestamp=NOW + TTL + 1, event_time=NOW + TTL + 1)
    assert judged(seen, after, at=2 * BLOCK)[0] == "D"


@pytest.mark.parametrize(("passed", "letter"), [(TTL, "D"), (TTL + 1, "C")])
def test_an_id_lives_until_ttl_after_its_block_closed(passed: int, letter: str) -> None:
    seen = new_seen()
    judged(seen, ADD)
    judged(seen, replace(ADD, id=OTHER, timestamp=NOW + 50), at=BLOCK - 1)
    closed = NOW + 50
    repeat = replace(ADD, timestamp=closed + passed, event_time=closed + passed)
    assert judged(seen, repeat)[0] == letter
    assert seen.ids == (3 if letter == "D" else 1) - (letter == "D")


def test_the_open_block_is_never_forgotten() -> None:
    seen = new_seen()
    judged(seen, ADD)
    assert judged(seen, replace(ADD, timestamp=NOW + 50 * TTL))[0] == "D"


def test_the_clock_jumps_past_ttl_within_one_batch() -> None:
    seen = new_seen()
    later = replace(ADD, timestamp=NOW + 2 * TTL, event_time=NOW + 2 * TTL)
    records = [replace(ADD, offset=0), replace(ADD, offset=5), replace(later, offset=BLOCK)]
    records += [replace(later, offset=BLOCK + 1), replace(later, offset=2 * BLOCK, removed=True)]
    verdicts = seen.judge(*columns(records))
    assert verdicts.letters.tobytes() == b"CDCDU"
    assert verdicts.counted_at.tolist() == [-1, -1, -1, -1, BLOCK]
    assert seen.whole().header.first_block == 1


def test_a_removal_takes_out_what_counted() -> None:
    a, b = in_block(ADD, A), in_block(ADD, B)
    assert judged(new_seen(), ADD, ADD, REMOVAL) == ("CDU", [-1, -1, 0])
    # Moved to another block: its swap still is that of the first add.
    assert judged(new_seen(), a, b, a, in_block(REMOVAL, A)) == ("CNNU", [-1, -1, -1, 0])
    # Late: no window has it.
    assert judged(new_seen(), LATE_ADD, REMOVAL) == ("LU", [-1, -1])
    assert judged(new_seen(), in_block(LATE_ADD, A), b, REMOVAL) == ("LPU", [-1, -1, 1])


def test_a_removal_of_what_counted_in_a_forgotten_block_takes_nothing_out() -> None:
    seen = new_seen()
    judged(seen, in_block(ADD, A))
    judged(seen, replace(in_block(ADD, B), timestamp=NOW + 10), at=BLOCK)
    judged(seen, replace(ADD, id=OTHER, timestamp=NOW + TTL + 10), at=2 * BLOCK)
    assert seen.whole().header.first_block == 1
    assert judged(seen, in_block(REMOVAL, B)) == ("U", [-1])


@pytest.mark.parametrize(("age", "letter"), [(GRACE, "C"), (GRACE + 1, "L")])
def test_an_add_is_late_by_the_clock_that_includes_it(age: int, letter: str) -> None:
    assert letters(replace(ADD, event_time=NOW - age)) == letter
    seen = new_seen(clock=NOW)
    assert judged(seen, replace(ADD, event_time=NOW - age, timestamp=NOW - 99))[0] == letter


def test_an_add_below_the_floor_is_late() -> None:
    seen = new_seen(floor=NOW - 10)
    below = replace(ADD, event_time=NOW - 11)
    assert judged(seen, below, replace(ADD, id=OTHER, event_time=NOW - 10))[0] == "LC"
    assert seen.floor == NOW - 10
    assert new_seen().floor == NEVER


def test_what_is_not_judged_here_moves_the_clock_and_enters_nothing() -> None:
    seen = new_seen()
    bad = replace(ADD, bad=True, timestamp=NOW + 1)
    away = replace(ADD, away=True, timestamp=NOW + 2)
    bad_and_away = replace(bad, away=True, origin=(3, 4))
    assert judged(seen, bad, away, bad_and_away)[0] == "BMB"
    assert (seen.clock, seen.ids, seen.origins) == (NOW + 2, 0, {})


def test_the_clock_by_event_times() -> None:
    seen = new_seen(by_event_time=True)
    assert judged(seen, replace(ADD, bad=True))[0] == "B"
    assert seen.clock is None
    judged(seen, replace(ADD, event_time=NOW - 5), replace(ADD, event_time=NOW - 9))
    assert seen.clock == NOW - 5
    judged(seen, replace(REMOVAL, event_time=NOW * 1_000))
    assert seen.clock == NOW + MAX_FUTURE


def test_a_forward_that_was_read_before_is_dropped() -> None:
    seen = new_seen(origins={4: 10})
    forward = [replace(ADD, origin=(4, offset)) for offset in (10, 11, 11)]
    removal = replace(REMOVAL, origin=(4, 12))
    elsewhere = replace(ADD, origin=(9, 0))
    assert judged(seen, *forward, removal, forward[1], elsewhere)[0] == "FCFUFC"
    assert seen.origins == {4: 12, 9: 0}
    # Away from home its origin is not looked at.
    assert judged(seen, replace(ADD, origin=(4, 20), away=True))[0] == "M"
    assert seen.origins == {4: 12, 9: 0}


def test_the_origins_given_are_not_the_ones_changed() -> None:
    origins = {4: 10}
    seen = new_seen(origins=origins)
    judged(seen, replace(ADD, origin=(4, 11)))
    seen.origins[4] = 0
    assert (origins, seen.origins) == ({4: 10}, {4: 11})


def test_a_block_without_a_clock_is_forgotten_by_the_first() -> None:
    seen = new_seen()
    seen.skip_to(2 * BLOCK)
    assert seen.clocks(columns([replace(ADD, bad=True)])[0]).tolist() == [NOW]
    judged(seen, ADD)
    assert seen.whole().header.first_block == 2


def test_an_empty_batch_changes_nothing() -> None:
    seen = new_seen(clock=NOW)
    verdicts = seen.judge(*columns([]))
    assert (len(verdicts.letters), len(verdicts.counted_at)) == (0, 0)
    assert seen.clocks(columns([])[0]).tolist() == []
    assert (seen.next_offset, seen.clock) == (0, NOW)


def test_offsets_must_ascend_from_the_next_one() -> None:
    seen = new_seen(next_offset=5)
    for offsets in ((4,), (5, 5), (7, 6)):
        with pytest.raises(ValueError, match="ascend"):
            seen.judge(*columns([replace(ADD, offset=offset) for offset in offsets]))
    assert (seen.next_offset, seen.clock, seen.ids) == (5, None, 0)


def test_skipping_offsets() -> None:
    seen = new_seen(next_offset=5)
    seen.skip_to(3)
    assert seen.next_offset == 5
    judged(seen, ADD)
    seen.skip_to(20 * BLOCK + 7)
    assert seen.next_offset == 20 * BLOCK + 7
    assert judged(seen, REMOVAL) == ("U", [5])


def test_clocks_are_those_after_each_record() -> None:
    seen = new_seen()
    records = [replace(ADD, offset=i, timestamp=NOW + t) for i, t in enumerate((3, 1, 4, 1, 5))]
    swaps, _ = columns(records)
    assert (seen.clocks(swaps) - NOW).tolist() == [3, 3, 4, 4, 5]
    assert seen.clock is None
    assert (new_seen(clock=NOW + 4).clocks(swaps) - NOW).tolist() == [4, 4, 4, 4, 5]


def test_ids_whose_hashes_collide_are_separate() -> None:
    """Markers with 64 equal bits share one position: every search among them is a long one."""
    seen = new_seen()
    count = 3_000
    ids = [ID[:8] + number.to_bytes(2, "little") + ID[10:] for number in range(count)]
    adds = [replace(ADD, id=key) for key in ids]
    assert judged(seen, *adds)[0] == "C" * count
    assert judged(seen, *adds)[0] == "D" * count
    removed = judged(seen, *[replace(add, removed=True) for add in adds])
    assert removed == ("U" * count, list(range(count)))
    # All of them are forgotten, and the table has no trace of them.
    later = replace(ADD, id=OTHER, timestamp=NOW + 2 * TTL, event_time=NOW + 2 * TTL)
    judged(seen, later, at=2 * BLOCK)
    assert seen.ids == 1
    assert np.count_nonzero(seen._journal.table) == 1
    assert judged(seen, *[replace(later, id=key) for key in ids])[0] == "C" * count


def test_the_last_forty_eight_bits_of_a_marker_do_not_matter() -> None:
    assert letters(ADD, replace(ADD, id=ID[:10] + b"other!"), replace(ADD, id=OTHER)) == "CDC"


def test_the_letters_are_those_of_the_verdicts() -> None:
    assert set(LETTERS) == {verdict.value for verdict in Verdict}
