"""Recorded events: reading them from files, and moving them in time."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest

from aggregator.feed.stream import Record
from aggregator.feed.tape import Tape, endless, recorded, relived, shifted
from aggregator.runtime.errors import Fatal

LINE = (
    b'{"chain":"base","tx_hash":"0xAA","log_index":1,"timestamp":1700000000123,'
    b'"token":"0xABABABABABABABABABABABABABABABABABABABAB","amount":1.10,"x":{"y": [1e3]}}'
)
KEY = b"base:0x" + b"ab" * 20
ISO = LINE.replace(b"1700000000123", b'"2023-11-14T23:13:20.123456+01:00"')

GARBAGE = [
    pytest.param(b"not json", id="no JSON"),
    pytest.param(b"[1,2]", id="no object"),
    pytest.param(b"[" * 5_000, id="nested too deep"),
    pytest.param(b'{"chain":"\xff"}', id="no UTF-8"),
    pytest.param(LINE.replace(b'"token"', b'"tken"'), id="no token"),
    pytest.param(LINE.replace(b'"0xABABABABABABABABABABABABABABABABABABABAB"', b"7"), id="type"),
    pytest.param(LINE.replace(b"0xABABABABABAB", b"\\ud800"), id="half a surrogate pair"),
    pytest.param(LINE.replace(b"1700000000123", b'"2023-11-14T23:13:20"'), id="time without zone"),
    pytest.param(LINE.replace(b"1700000000123", b"1" * 40), id="time past any calendar"),
]


def test_files_plain_and_gzip_are_read_in_order_without_blank_lines(tmp_path: Path) -> None:
    (tmp_path / "a.ndjson").write_bytes(b"1\n\n2\r\n")
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"3\n4"))
    tape = Tape([tmp_path / "b.gz", tmp_path / "a.ndjson"])
    assert list(tape.lines()) == [b"3", b"4", b"1", b"2"]
    assert list(tape.lines()) == [b"3", b"4", b"1", b"2"]
    assert tape.share() == 1.0


def test_the_share_grows_with_what_is_read(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"line\n" * 20_000)
    tape = Tape([tmp_path / "a", tmp_path / "b"])
    assert tape.share() == 0.0
    shares = [tape.share() for _ in tape.lines()]
    assert shares == sorted(shares)
    assert shares[0] < 0.2
    assert shares[19_999] == pytest.approx(0.5, abs=0.05)


def test_every_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Fatal, match=r"no such file: .*one.*, .*two"):
        Tape([tmp_path / "one", tmp_path / "two"])


@pytest.mark.parametrize("cut", [20, 60, -4])
def test_a_damaged_gzip_file_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(LINE * 50)[:cut])
    with pytest.raises(Fatal, match=r"cut\.gz cannot be read"):
        list(Tape([path]).lines())


@pytest.mark.parametrize("line", [LINE, ISO], ids=["ms", "ISO 8601"])
def test_a_recorded_line_keeps_its_bytes(line: bytes) -> None:
    assert list(recorded([line])) == [Record(KEY, line, 1_700_000_000_123)]


@pytest.mark.parametrize("line", GARBAGE)
def test_what_is_no_event_passes_unchanged_without_a_key(line: bytes) -> None:
    for play in (recorded([line]), shifted([line], 5), relived([line], "run", lambda: 5)):
        assert list(play) == [Record(None, line, None)]


@pytest.mark.parametrize("line", [LINE, ISO], ids=["ms", "ISO 8601"])
def test_a_shift_changes_the_time_and_no_other_byte_of_a_value(line: bytes) -> None:
    (record,) = shifted([line], 1_000)
    assert record == Record(KEY, LINE.replace(b"0123,", b"1123,"), 1_700_000_001_123)


def test_newest_is_the_greatest_time_of_all_files(tmp_path: Path) -> None:
    later = LINE.replace(b"1700000000123", b"1700000009999")
    (tmp_path / "a").write_bytes(later + b"\nbad\n")
    (tmp_path / "b").write_bytes(LINE)
    assert Tape([tmp_path / "a", tmp_path / "b"]).newest() == 1_700_000_009_999


def test_without_any_time_there_is_no_newest(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"bad\n")
    with pytest.raises(Fatal, match="no event in these files has a time"):
        Tape([tmp_path / "a"]).newest()


def test_a_relived_trade_is_new_and_happens_now() -> None:
    retraction = LINE[:-1] + b',"removed":true}'
    clock = iter([10, 20])
    first, undoing = relived([LINE, retraction], "run:0", lambda: next(clock))
    (other_turn,) = relived([LINE], "run:1", lambda: 10)
    event, undo, other = (json.loads(r.value) for r in (first, undoing, other_turn))
    assert (event["timestamp"], undo["timestamp"]) == (10, 20)
    assert first.key == KEY
    assert event["tx_hash"] == undo["tx_hash"] != other["tx_hash"]
    assert event["tx_hash"].startswith("0x")
    assert len(bytes.fromhex(event["tx_hash"][2:])) == 32
    unchanged = {**event, "timestamp": 1_700_000_000_123, "tx_hash": "0xAA"}
    assert unchanged == json.loads(LINE)
    assert b'"amount":1.10' in first.value


def test_an_endless_tape_begins_again_with_the_next_turn(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1\n2\n")
    played = endless(
        Tape([tmp_path / "a"]),
        lambda lines, turn: (Record(None, b"%d:%s" % (turn, line), None) for line in lines),
    )
    values = [record.value for record in islice(played, 5)]
    assert values == [b"0:1", b"0:2", b"1:1", b"1:2", b"2:1"]


def test_an_endless_tape_without_a_line_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\n")
    with pytest.raises(Fatal, match="hold no line"):
        next(endless(Tape([tmp_path / "a"]), lambda lines, _: recorded(lines)))
