"""A partition of an archiver: what it has read, decided and archived, and what it reports."""

from __future__ import annotations

from aggregator.archiving.decisions import LogSource
from aggregator.archiving.intents import LogPosition
from aggregator.archiving.partition import ArchivePartition, InFlightInsert, Progress
from aggregator.contracts.homes import Homes
from aggregator.contracts.records import LogRecord
from aggregator.member.log import LogExtent, Records
from aggregator.runtime.config import load
from aggregator.seen.seen import Seen
from tests.unit.archiving.test_archive_intents import decided

CONFIG = load({"CLICKHOUSE_URL": "clickhouse://127.0.0.1:9000/x"})


def owner(position: LogPosition | None = None, end: int = 1_000) -> ArchivePartition:
    begun = Progress(100, position or LogPosition(), LogExtent(0, end, 0), Homes("murmur2", 1))
    held = ArchivePartition(CONFIG, LogSource("topic", 1), begun)
    seen = Seen(ttl_ms=9, grace_ms=9, max_future_ms=9, next_offset=100)
    held.settled()
    held.begin(seen, 0)
    return held


def records(first: int, count: int) -> Records:
    offsets = list(range(first, first + count))
    values: list[bytes | None] = [b"x" * 10] * count
    return Records(1, offsets, [1_000] * count, values, None, offsets, _record)


def _record(offset: int) -> LogRecord:
    return LogRecord(1, offset, 1_000, None, None)


def test_records_that_were_read_are_skipped() -> None:
    held = owner()
    held.take(records(100, 5))
    held.take(records(102, 6))
    assert (held.read_offset, held.waits, held.size) == (108, 8, 80)
    first, rest = held.next_run(), held.next_run(below=107)
    assert first is not None
    assert rest is not None
    assert first.offsets + rest.offsets == list(range(100, 107))
    assert held.waits == 1


def test_an_offset_is_archived_only_when_all_before_it_are() -> None:
    held = owner()
    held.take(records(100, 5))
    held.next_run()
    for part in decided("CCDCC"):
        held.decide(part, 0.0)
    held.reached(106)
    held.advance_when_idle()
    assert (held.next_offset, held.size, held.waits) == (100, 50, 5)
    batch = held.cut(now_ms=0)
    held.in_flight = InFlightInsert(batch, 0.0)
    status = held.status(now_ms=1_500, end=None, fault="")
    assert (status.lag, status.age_ms, status.state) == (900, 500, "archiving")
    held.complete(batch)
    assert (held.next_offset, held.size, held.position.clock) == (105, 0, 4)
    held.advance_when_idle()
    assert held.next_offset == 106
    assert held.uncommitted
    assert held.status(now_ms=0, end=106, fault="").lag == 0


def test_a_new_epoch_is_for_the_group_to_know() -> None:
    held = owner()
    held.note_epoch(0)
    assert not held.uncommitted
    held.note_epoch(3)
    assert held.uncommitted
    for part in decided("C"):
        held.decide(part, 0.0)
    assert held.cut(now_ms=0).promised.epoch == 3


def test_gaps_are_kept_beside_a_batch_that_was_cut_before() -> None:
    held = owner()
    for part in decided("C"):
        held.decide(part, 0.0)
    batch = held.cut(now_ms=0)
    held.add_gap(3, 7)
    held.complete(batch)
    assert held.gaps == [(3, 7)]
    held.skip_to(200)
    assert (held.gaps, held.next_offset) == ([(3, 7), (101, 200)], 200)
    assert held.status(now_ms=0, end=300, fault="kafka: away").state == "stalled"
