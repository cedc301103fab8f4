"""What a web node reports about the archivers."""

from __future__ import annotations

from typing import Any

from aggregator.contracts.stats import ArchiveStatus
from api.board.archives import Archives


def status(partition: int, **fields: Any) -> ArchiveStatus:
    values = {
        "partition": partition,
        "state": "archiving",
        "next_offset": 5,
        "lag": 0,
        "age_ms": 0,
        "gaps": [],
        "fault": None,
    }
    return ArchiveStatus(**(values | fields))


def test_no_fault_without_archivers_or_with_healthy_ones() -> None:
    archives = Archives()
    assert archives.status(0) == []
    archives.record(status(1), 100)
    archives.record(status(0), 100)
    assert [each.partition for each in archives.status(1_000)] == [0, 1]
    assert archives.faults(1_000) == []


def test_one_fault_of_several_partitions_is_one_sentence() -> None:
    archives = Archives()
    for partition in range(3):
        archives.record(status(partition, state="stalled", fault="clickhouse: gone"), 0)
    archives.record(status(3, state="filling"), 0)
    archives.record(status(4, gaps=[[1, 4]]), 0)
    assert archives.faults(100) == [
        "archive: clickhouse: gone (partitions 0, 1, 2)",
        "archive: filling (partitions 3)",
        "archive: gap: Kafka no longer held the offsets 1 to 3 (partitions 4)",
    ]


def test_a_silent_archiver_is_reported() -> None:
    archives = Archives()
    archives.record(status(0), 0)
    assert archives.status(5_001)[0].state == "silent"
    assert archives.faults(5_001) == ["archive: its archiver is silent (partitions 0)"]
    archives.record(status(0), 6_000)
    assert archives.faults(6_001) == []
