"""Where an archiver continues that finds no commit of its group, and what it then reports."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import structlog

from aggregator.archiving.jobs import ArchiveJobs, TopicId
from aggregator.archiving.partition import ArchivePartition
from aggregator.archiving.takeover import ArchiveTakeover
from aggregator.member.memory import MemoryLog, MemoryTopic
from aggregator.runtime.config import load
from tests.support.processes import wait_until

CONFIG = load({"CLICKHOUSE_URL": "clickhouse://127.0.0.1:9000/x"})
START = 5


class _Listener:
    def on_assign(self, partitions: Sequence[int]) -> None: ...
    def on_revoke(self, partitions: Sequence[int]) -> None: ...
    def on_lost(self, partitions: Sequence[int]) -> None: ...


@pytest.mark.parametrize(
    ("archived", "continues", "gaps"),
    [
        pytest.param(0, START, [], id="nothing is archived: the archive begins with the log"),
        pytest.param(3, START, [(3, START)], id="Kafka deleted offsets that are not archived"),
        pytest.param(5, 5, [], id="archived up to the start of the log"),
        pytest.param(7, 7, [], id="archived further than the start of the log"),
    ],
)
def test_without_a_commit(
    monkeypatch: pytest.MonkeyPatch, archived: int, continues: int, gaps: list[tuple[int, int]]
) -> None:
    monkeypatch.setattr(ArchiveJobs, "next_offset", lambda *_: archived)
    monkeypatch.setattr(ArchiveJobs, "last_unnamed", lambda *_: None)
    topic = MemoryTopic()
    for number in range(9):
        topic.append(0, b"{}", timestamp=number)
    topic.trim(0, START)
    member = MemoryLog(topic, "archiver")
    member.subscribe(_Listener())
    member.poll(1, 0)
    takeover = ArchiveTakeover(CONFIG, member, TopicId())
    taken: list[ArchivePartition] = []

    def acquired() -> bool:
        if (found := takeover.acquire(0)) is not None:
            taken.append(found)
        return bool(taken)

    with structlog.testing.capture_logs() as logs:
        wait_until(acquired, 30, "the partition")
    takeover.close()
    assert taken[0].next_offset == continues
    assert member.committed(0)[0] == continues
    found = [(each["first"], each["end"]) for each in logs if each["event"] == "archive_gap"]
    assert found == gaps
