"""The saved form: its bytes, what a save adds to the one before it, and what a restore refuses."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest

from aggregator.contracts.seen import NEVER, SeenHeader
from aggregator.seen.seen import Seen, SeenChanges
from tests.spec.seen import BLOCK, LogRecordSpec
from tests.unit.seen.test_table import (
    ADD,
    GRACE,
    ID,
    MAX_FUTURE,
    NOW,
    OTHER,
    REMOVAL,
    TTL,
    judged,
    new_seen,
)

SECTION = 512
WORD = 12


def later(record: LogRecordSpec, ms: int) -> LogRecordSpec:
    return replace(record, timestamp=NOW + ms, event_time=NOW + ms)


def restore(saved: SeenChanges, **changed: Any) -> Seen:
    values = saved._asdict() | changed
    return Seen.restore(
        values["header"],
        values["blocks"],
        values["sections"],
        ttl_ms=TTL,
        grace_ms=GRACE,
        max_future_ms=MAX_FUTURE,
    )


def test_the_bytes_of_a_word() -> None:
    """80 bits of the marker, 12 bits of block check, 4 bits of letter, from the lowest bit on."""
    seen = new_seen()
    late = replace(ADD, event_time=0)
    records = [
        replace(ADD, block=0xABC),  # C
        replace(late, id=OTHER, block=1),  # L
        replace(ADD, block=0xABC),  # D
        replace(REMOVAL, block=0xABC),  # U
        replace(REMOVAL, id=bytes(16)),  # T
        replace(ADD, id=bytes(16)),  # V
        replace(late, id=OTHER, block=2),  # n
        replace(ADD, id=OTHER, block=4095),  # P
        replace(ADD, id=OTHER, block=3),  # N
        replace(REMOVAL, id=OTHER, block=1),  # I
        replace(ADD, bad=True),  # B
        replace(ADD, away=True),  # M
        replace(ADD, origin=(0, 0), id=bytes(8) + b"\xff" * 8),  # C
        replace(ADD, origin=(0, 0)),  # F
    ]
    assert judged(seen, *records)[0] == "CLDUTVnPNIBMCF"
    section = seen.whole().sections[b"w:0"]
    assert len(section) == SECTION * WORD
    words = [section[i : i + WORD].hex(" ") for i in range(0, 15 * WORD, WORD)]
    assert words == [
        "00 01 02 03 04 05 06 07 08 09 bc 1a",
        "01 02 03 04 05 06 07 08 09 0a 01 20",
        "00 00 00 00 00 00 00 00 00 00 00 30",
        "00 01 02 03 04 05 06 07 08 09 bc 4a",
        "00 00 00 00 00 00 00 00 00 00 00 60",
        "00 00 00 00 00 00 00 00 00 00 00 50",
        "01 02 03 04 05 06 07 08 09 0a 02 90",
        "01 02 03 04 05 06 07 08 09 0a ff af",
        "01 02 03 04 05 06 07 08 09 0a 03 80",
        "00 00 00 00 00 00 00 00 00 00 00 70",
        "00 00 00 00 00 00 00 00 00 00 00 b0",
        "00 00 00 00 00 00 00 00 00 00 00 c0",
        "00 00 00 00 00 00 00 00 ff ff 00 10",
        "00 00 00 00 00 00 00 00 00 00 00 d0",
        "00 00 00 00 00 00 00 00 00 00 00 00",
    ]
    assert not any(section[14 * WORD :])


def test_the_bytes_of_a_block() -> None:
    seen = new_seen()
    judged(seen, replace(ADD, block=0xABC), at=3 * BLOCK)
    judged(seen, later(REMOVAL, 5), at=4 * BLOCK - 1)
    judged(seen, later(ADD, 6), at=4 * BLOCK)
    block = seen.whole().blocks[3]
    assert len(block) == 98_328
    head = "01 00 00 00 00 20 00 00 00 60 00 00 00 00 00 00"
    assert block[:16].hex(" ") == head
    assert block[16:24] == struct.pack("<q", NOW + 5)
    assert block[24:36].hex(" ") == "00 01 02 03 04 05 06 07 08 09 bc 1a"
    assert not any(block[36:-12])
    assert block[-12:].hex(" ") == "00 01 02 03 04 05 06 07 08 09 00 40"


def test_a_block_without_records_is_a_header() -> None:
    seen = new_seen()
    judged(seen, ADD)
    judged(seen, later(REMOVAL, 9), at=3 * BLOCK)
    blocks = seen.whole().blocks
    assert sorted(blocks) == [0, 1, 2]
    assert blocks[2].hex(" ") == (
        "01 00 00 00 00 00 00 00 00 40 00 00 00 00 00 00 " + struct.pack("<q", NOW).hex(" ")
    )


def test_the_header_says_where_the_log_goes_on() -> None:
    seen = new_seen(next_offset=2 * BLOCK + 5, floor=NOW - 3, origins={1: 2})
    assert seen.changes().header == SeenHeader(2 * BLOCK + 5, None, NOW - 3, {1: 2}, 2, 2)
    judged(seen, replace(ADD, origin=(4, 2**40)))
    judged(seen, later(ADD, 7), at=4 * BLOCK + 1)
    header = SeenHeader(4 * BLOCK + 2, NOW + 7, NOW - 3, {1: 2, 4: 2**40}, 2, 4)
    assert seen.changes().header == header
    assert new_seen().whole().header == SeenHeader(0, None, NEVER, {}, 0, 0)


def test_a_save_adds_what_changed() -> None:
    seen = new_seen()
    judged(seen, *[replace(ADD, id=bytes([i]) * 16) for i in range(10)])
    assert sorted(seen.changes().sections) == [b"w:0"]
    assert seen.changes()[1:] == ({}, {}, [], [])
    judged(seen, ADD, at=SECTION - 1)
    judged(seen, ADD, at=SECTION)
    assert sorted(seen.changes().sections) == [b"w:0", b"w:1"]
    # Sections between that have no record are not saved.
    judged(seen, ADD, at=SECTION * 7)
    assert sorted(seen.changes().sections) == [b"w:7"]
    # The block closes: it takes the place of the sections that are not written again.
    judged(seen, ADD, at=BLOCK + SECTION)
    changes = seen.changes()
    assert sorted(changes.blocks) == [0]
    assert sorted(changes.sections) == [b"w:1"]
    assert changes.dropped == [b"w:0", b"w:7"]
    assert changes.forgotten == []
    judged(seen, later(ADD, TTL + 1), at=BLOCK + SECTION + 1)
    changes = seen.changes()
    assert (changes.blocks, changes.dropped, changes.forgotten) == ({}, [], [0])


def test_a_block_that_no_save_held_is_not_forgotten_by_one() -> None:
    seen = new_seen()
    judged(seen, ADD)
    judged(seen, later(ADD, TTL + 1), at=BLOCK)
    changes = seen.changes()
    assert (changes.header.first_block, changes.blocks, changes.forgotten) == (1, {}, [])


def test_a_whole_save_has_everything() -> None:
    seen = new_seen()
    judged(seen, ADD)
    seen.changes()
    judged(seen, ADD, at=BLOCK)
    whole = seen.whole()
    assert sorted(whole.blocks) == [0]
    assert sorted(whole.sections) == [b"w:0"]
    assert whole.dropped == []
    assert seen.changes()[1:] == ({}, {}, [], [])
    assert seen.whole() == whole


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s._replace(blocks={}), "block 0 is missing"),
        (lambda s: s._replace(blocks={0: s.blocks[0][:-1]}), "98327 bytes"),
        (lambda s: s._replace(blocks={0: s.blocks[0][:20]}), "20 bytes"),
        (lambda s: s._replace(blocks={0: b"\2" + s.blocks[0][1:]}), "format 2"),
        (lambda s: s._replace(blocks={0: s.blocks[0][:8] + b"\1" + s.blocks[0][9:]}), "offset 1,"),
        (lambda s: s._replace(sections={b"w:0": b"short"}), "5 bytes"),
        (lambda s: s._replace(sections={b"w:16": bytes(SECTION * WORD)}), "no tail section"),
        (lambda s: s._replace(sections={b"w:01": bytes(SECTION * WORD)}), "no tail section"),
    ],
)
def test_a_restore_refuses_what_is_no_save(change: Any, message: str) -> None:
    seen = new_seen()
    judged(seen, ADD)
    judged(seen, ADD, at=BLOCK)
    with pytest.raises(ValueError, match=message):
        restore(change(seen.whole()))


def test_a_restored_state_knows_where_a_moved_swap_counted() -> None:
    seen = new_seen()
    judged(seen, replace(ADD, block=1))
    judged(seen, replace(ADD, block=2), at=BLOCK)
    judged(seen, replace(ADD, block=3), at=2 * BLOCK)
    restored = restore(seen.whole())
    assert judged(restored, replace(REMOVAL, block=3)) == ("U", [0])


def test_the_time_of_a_forgotten_block_is_saved() -> None:
    """The clock may stand where a block is just not forgotten; the restored one goes on there."""
    seen = new_seen()
    judged(seen, ADD)
    judged(seen, later(replace(ADD, id=OTHER), TTL), at=BLOCK)
    restored = restore(seen.whole())
    assert (restored.ids, restored.clock) == (2, NOW + TTL)
    assert judged(restored, later(replace(ADD, id=ID), TTL + 1))[0] == "C"
    assert restored.changes().forgotten == [0]
