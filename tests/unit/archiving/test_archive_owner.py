"""An archiver decides lateness as the windows do, and knows how far it is."""

from __future__ import annotations

import random

from aggregator.archiving.intents import LogPosition, column
from aggregator.archiving.partition import ArchivePartition, InFlightInsert
from aggregator.member.kafka import LogExtent
from aggregator.runtime.config import load
from aggregator.windows.engine import ColumnarWindows
from tests.unit.archiving.test_archive_intents import some_rows

CONFIG = load({"CLICKHOUSE_URL": "clickhouse://127.0.0.1:9000/x"})


def owner(position: LogPosition | None = None, end: int = 1_000) -> ArchivePartition:
    return ArchivePartition(CONFIG, 1, 0, position or LogPosition(), LogExtent(0, end, 0))


def test_lateness_is_decided_as_in_the_windows() -> None:
    draw = random.Random(5)
    times = [max(0, 3_600_000 + n * 500 + draw.randint(-400_000, 400_000)) for n in range(3_000)]
    recorded = [3_600_000 + n * 500 for n in range(3_000)]
    windows = ColumnarWindows(
        partition=1,
        windows=CONFIG.windows,
        grace_ms=CONFIG.grace_ms,
        max_future_ms=CONFIG.max_future_ms,
        now_ms=0,
    )
    expected = windows.observe(times, recorded)
    held = owner()
    held.read(some_rows(list(range(3_000)), times, recorded), 3_000)
    found: list[bool] = []
    while held.waiting:
        late, watermarks = held.lateness(held.waiting.first(700))
        found += late.tolist()
        held.decide("C" * len(late), watermarks, 0.0)
    assert True in expected
    assert found == expected
    assert column(held.decided.first(3_000), "watermark")[-1] == windows.watermark


def test_the_watermark_continues_from_the_commit_metadata() -> None:
    held = owner(LogPosition(watermark=10_000_000))
    held.read(some_rows([0], [0], [0]), 1)
    late, watermarks = held.lateness(held.waiting.first(1))
    assert (late.tolist(), watermarks.tolist()) == ([True], [10_000_000])


def test_an_offset_is_archived_only_when_all_before_it_are() -> None:
    held = owner()
    held.begin()
    held.read(some_rows(list(range(5)), [0] * 5, [50_000] * 5), 6)
    _, watermarks = held.lateness(held.waiting.first(5))
    held.decide("CCDCC", watermarks, 0.0)
    held.advance_when_idle()
    assert (held.next_offset, held.size) == (0, 50)
    batch = held.cut(now_ms=0)
    held.in_flight = InFlightInsert(batch, 0.0)
    held.advance_when_idle()
    assert held.next_offset == 0
    assert held.status(now_ms=51_000, end=9, fault="").age_ms == 1_000
    held.complete(batch)
    assert (held.next_offset, held.size, held.uncommitted) == (5, 0, True)
    held.advance_when_idle()
    assert held.next_offset == 6
    status = held.status(now_ms=51_000, end=6, fault="")
    assert (status.lag, status.age_ms, status.state) == (0, 0, "archiving")


def test_a_fault_stalls_and_is_named() -> None:
    held = owner()
    held.begin()
    status = held.status(now_ms=0, end=None, fault="clickhouse: gone")
    assert (status.state, status.fault, status.lag) == ("stalled", "clickhouse: gone", 1_000)


def test_gaps_are_kept_and_bounded() -> None:
    held = owner()
    for n in range(20):
        held.skip_to(10 * n + 10)
    assert held.next_offset == 200
    assert len(held.gaps) == 8
    assert held.gaps[-1] == (190, 200)
