"""What every log guarantees, tested on the one in memory and on Kafka."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from aggregator.contracts.records import LogRecord
from aggregator.member.log import LONGEST_METADATA, Log, LogExtent, Polled
from aggregator.runtime.errors import Fatal, Fenced, Retry
from infra.embedded.stack import Stack
from tests.contract.topics import PARTITIONS, InMemory, OnKafka, Topic

WITHIN_S = 60
ALL = set(range(PARTITIONS))


@pytest.fixture(params=["memory", "kafka"])
def topic(request: pytest.FixtureRequest) -> Iterator[Topic]:
    if request.param == "memory":
        made: Topic = InMemory()
    else:
        stack: Stack = request.getfixturevalue("stack")
        made = OnKafka(stack.env())
    yield made
    made.close()


class Member:
    """A log with its listener, and all that its polls brought."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.held: set[int] = set()
        self.calls: list[tuple[str, set[int]]] = []
        self.records: list[LogRecord] = []
        self.polled: list[Polled] = []
        self.at_revoke: Callable[[Sequence[int]], None] = lambda _: None
        log.subscribe(self)

    def on_assign(self, partitions: Sequence[int]) -> None:
        self.calls.append(("assign", set(partitions)))
        self.held.update(partitions)

    def on_revoke(self, partitions: Sequence[int]) -> None:
        self.at_revoke(partitions)
        self.calls.append(("revoke", set(partitions)))
        self.held.difference_update(partitions)

    def on_lost(self, partitions: Sequence[int]) -> None:
        self.calls.append(("lost", set(partitions)))
        self.held.difference_update(partitions)

    def poll(self, limit: int = 100, timeout_s: float = 0.05) -> Polled:
        polled = self.log.poll(limit, timeout_s)
        self.polled.append(polled)
        for records in polled.records:
            self.records += [records.record(place) for place in range(len(records))]
        return polled

    def values(self, partition: int = 0) -> list[bytes | None]:
        return [each.value for each in self.records if each.partition == partition]

    def ends(self, partition: int = 0) -> list[int]:
        return [each.ends[partition] for each in self.polled if partition in each.ends]

    @property
    def out_of_range(self) -> list[int]:
        return [partition for each in self.polled for partition in each.out_of_range]


def until(condition: Callable[[], bool], *members: Member) -> None:
    """Poll the members in turn until the condition holds."""
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline
        for member in members:
            member.poll()


def answered(ask: Callable[[], LogExtent]) -> LogExtent:
    """Return the answer, asked again as `Retry` demands while a new partition has no leader."""
    deadline = time.monotonic() + WITHIN_S
    while True:
        try:
            return ask()
        except Retry:
            assert time.monotonic() < deadline
            time.sleep(0.1)


@pytest.fixture
def member(topic: Topic) -> Member:
    """A member that owns every partition."""
    member = Member(topic.new_log())
    until(lambda: member.held == ALL, member)
    return member


def quiet(member: Member, polls: int = 10) -> None:
    for _ in range(polls):
        member.poll()


def test_what_was_assigned_is_paused_until_begin(topic: Topic, member: Member) -> None:
    topic.append(0, b"a")
    topic.append(1, b"b")
    quiet(member)
    assert (member.records, member.ends(0), member.ends(1)) == ([], [], [])
    member.log.begin(0, 0)
    until(lambda: member.ends(0) == [1], member)
    assert member.values(0) == [b"a"]
    assert member.values(1) == []


def test_a_record_is_read_with_all_that_it_has(topic: Topic, member: Member) -> None:
    topic.append(0, b"a", key=b"k", timestamp=1_700_000_000_000, headers=[("h", b"1")])
    topic.append(0, None, timestamp=1_700_000_000_001)
    member.log.begin(0, 0)
    until(lambda: len(member.records) == 2, member)
    assert member.records == [
        LogRecord(0, 0, 1_700_000_000_000, b"k", b"a", [("h", b"1")]),
        LogRecord(0, 1, 1_700_000_000_001, None, None, ()),
    ]


def test_columns_and_their_parts(topic: Topic, member: Member) -> None:
    for number in range(5):
        topic.append(0, b"%d" % number, timestamp=1_700_000_000_000 + number)
    member.log.begin(0, 0)
    until(lambda: len(member.records) == 5, member)
    for records in (records for polled in member.polled for records in polled.records):
        first = records.offsets[0]
        assert records.values == [b"%d" % offset for offset in records.offsets]
        assert records.timestamps == [1_700_000_000_000 + each for each in records.offsets]
        assert records.origins is None
        assert len(records) == len(records.offsets)
        assert records.since(first + 1).offsets == records.offsets[1:]
        assert records.since(first - 1) is records
        assert records.part(0, 1).record(0).value == b"%d" % first


def test_a_poll_is_limited(topic: Topic, member: Member) -> None:
    for number in range(20):
        topic.append(0, b"%d" % number)
    member.log.begin(0, 0)
    while len(member.records) < 20:
        polled = member.poll(3)
        assert sum(map(len, polled.records)) <= 3
    assert [each.offset for each in member.records] == list(range(20))


def test_origins_of_forwarded_records(topic: Topic, member: Member) -> None:
    topic.append(0, b"plain")
    topic.append(0, b"forwarded", headers=[("a", b"b"), ("origin", b"3:17:1700000000000")])
    topic.append(0, b"a header of the producer's", headers=[("origin", b"chain-7")])
    member.log.begin(0, 0)
    until(lambda: len(member.records) == 3, member)
    found = [
        origin
        for polled in member.polled
        for records in polled.records
        for origin in records.origins or [None] * len(records)
    ]
    assert found == [None, (3, 17), None]
    assert member.records[1].headers == [("a", b"b"), ("origin", b"3:17:1700000000000")]


def test_an_end_is_reported_each_time_it_is_reached(topic: Topic, member: Member) -> None:
    member.log.begin(0, 0)
    until(lambda: member.ends() == [0], member)
    topic.append(0, b"a")
    until(lambda: member.ends() == [0, 1], member)
    quiet(member)
    assert member.ends() == [0, 1]
    assert member.log.newest_end(0) == 1


def test_reading_begins_where_its_owner_says(topic: Topic, member: Member) -> None:
    for number in range(6):
        topic.append(0, b"%d" % number)
    member.log.begin(0, 4)
    until(lambda: member.ends() != [], member)
    assert member.values() == [b"4", b"5"]
    member.log.begin(0, 1)
    until(lambda: len(member.ends()) == 2, member)
    assert member.values() == [b"4", b"5", b"1", b"2", b"3", b"4", b"5"]
    member.log.begin(0, 6)
    until(lambda: len(member.ends()) == 3, member)
    assert len(member.values()) == 7


def test_offsets_without_a_record_are_passed_by_the_end(topic: Topic, member: Member) -> None:
    topic.transact(0, b"a")
    topic.transact(0, b"b")
    member.log.begin(0, 0)
    until(lambda: member.ends()[-1:] == [4], member)
    assert [each.offset for each in member.records] == [0, 2]


def test_a_trimmed_offset_is_out_of_range_until_begin(topic: Topic, member: Member) -> None:
    for number in range(6):
        topic.append(0, b"%d" % number)
    topic.trim(0, 4)
    member.log.begin(0, 1)
    member.log.begin(1, 0)
    until(lambda: member.out_of_range == [0], member)
    quiet(member)
    assert member.out_of_range == [0]
    assert member.values() == []
    member.log.begin(0, 4)
    until(lambda: member.ends() == [6], member)
    assert member.values() == [b"4", b"5"]


def test_an_offset_above_the_end_is_out_of_range(topic: Topic, member: Member) -> None:
    topic.append(0, b"a")
    member.log.begin(0, 5)
    until(lambda: member.out_of_range == [0], member)


def test_a_paused_partition_keeps_its_place(topic: Topic, member: Member) -> None:
    topic.append(0, b"a")
    member.log.begin(0, 0)
    member.log.begin(1, 0)
    until(lambda: member.values() == [b"a"], member)
    member.log.pause([0])
    topic.append(0, b"b")
    topic.append(1, b"c")
    until(lambda: member.values(1) == [b"c"], member)
    quiet(member)
    assert member.values() == [b"a"]
    member.log.resume([0])
    until(lambda: member.values() == [b"a", b"b"], member)
    assert member.held == ALL


def test_nothing_is_committed_at_first(member: Member) -> None:
    assert member.log.committed(0) == (None, "")


def test_a_commit_is_read_back_with_its_metadata(topic: Topic, member: Member) -> None:
    text = '{"epoch":7,"name":"☃"}'
    member.log.commit({0: (5, text), 1: (0, "")})
    assert member.log.committed(0) == (5, text)
    assert member.log.committed(1) == (0, "")
    member.log.commit({0: (3, "lower")})
    assert member.log.committed(0) == (3, "lower")
    assert topic.new_log("another").committed(0) == (None, "")


def test_a_commit_without_waiting(member: Member) -> None:
    member.log.commit({0: (9, "m")}, wait=False)
    until(lambda: member.log.committed(0) == (9, "m"), member)
    assert member.log.commit_fault == ""


def test_metadata_has_a_longest_length(member: Member) -> None:
    longest = "m" * LONGEST_METADATA
    member.log.commit({0: (1, longest)})
    assert member.log.committed(0) == (1, longest)
    with pytest.raises(Fatal):
        member.log.commit({0: (2, longest + "m")})
    assert member.log.committed(0) == (1, longest)


def test_the_extent_of_an_empty_partition(member: Member) -> None:
    assert member.log.extent(0, None) == LogExtent(0, 0, 0)
    assert member.log.extent(0, 1_700_000_000_000) == LogExtent(0, 0, 0)
    assert member.log.first_timestamp(0) is None
    assert member.log.last_timestamp(0) is None


BASE = 1_700_000_000_000


@pytest.mark.parametrize(
    ("name", "at", "since"),
    [
        ("before the first", -5, 0),
        ("the first", 0, 0),
        ("between two", 5, 1),
        ("the first of two that are equal", 10, 1),
        ("after two that are equal", 11, 3),
        ("a record after it is older", 30, 3),
        ("the last", 31, 5),
        ("after the last", 41, 6),
    ],
)
def test_look_ups_by_time(topic: Topic, member: Member, name: str, at: int, since: int) -> None:
    for after in (0, 10, 10, 30, 20, 40):
        topic.append(0, b"", timestamp=BASE + after)
    assert member.log.extent(0, BASE + at) == LogExtent(0, 6, since), name
    assert member.log.extent(0, None) == LogExtent(0, 6, 0)


def test_look_ups_in_a_trimmed_log(topic: Topic, member: Member) -> None:
    for after in range(6):
        topic.append(0, b"", timestamp=BASE + after)
    topic.trim(0, 3)
    assert member.log.extent(0, BASE) == LogExtent(3, 6, 3)
    assert member.log.extent(0, BASE + 4) == LogExtent(3, 6, 4)
    assert member.log.extent(0, None) == LogExtent(3, 6, 3)
    assert member.log.first_timestamp(0) == BASE + 3
    topic.trim(0, 6)
    assert member.log.extent(0, BASE) == LogExtent(6, 6, 6)
    assert member.log.first_timestamp(0) is None
    assert member.log.last_timestamp(0) is None


def test_the_last_record_may_be_older_and_followed_by_markers(topic: Topic, member: Member) -> None:
    topic.append(0, b"", timestamp=BASE + 9)
    topic.append(0, b"", timestamp=BASE + 7)
    assert member.log.last_timestamp(0) == BASE + 7
    assert member.log.first_timestamp(0) == BASE + 9
    topic.transact(1, b"a")
    # The marker of the transaction is written after the commit was answered.
    until(lambda: member.log.extent(1, None).end == 2, member)
    assert member.log.last_timestamp(1) == member.log.read_at(1, [0])[0].timestamp


def test_records_are_read_at_offsets(topic: Topic, member: Member) -> None:
    for number in range(400):
        topic.append(0, b"%d" % number, key=b"k", timestamp=BASE + number)
    member.log.begin(0, 390)
    wanted = [399, 0, 1, 2, 7, 7, 350, 400, 10_000]
    found = member.log.read_at(0, wanted)
    assert list(found) == [0, 1, 2, 7, 350, 399]
    assert found[350] == LogRecord(0, 350, BASE + 350, b"k", b"350", ())
    topic.trim(0, 2)
    assert list(member.log.read_at(0, [0, 1, 2, 3])) == [2, 3]
    assert member.log.read_at(0, [0]) == {}
    assert member.log.read_at(0, []) == {}
    assert member.log.read_at(1, [0]) == {}
    until(lambda: member.ends() == [400], member)
    assert len(member.records) == 10, "the member's own position stays"


def test_a_hole_is_absent(topic: Topic, member: Member) -> None:
    topic.transact(0, b"a")
    topic.append(0, b"b")
    topic.transact(0, b"c")
    until(lambda: member.log.extent(0, None).end == 5, member)
    found = member.log.read_at(0, [0, 1, 2, 3, 4])
    assert {offset: each.value for offset, each in found.items()} == {0: b"a", 2: b"b", 3: b"c"}
    assert member.log.read_at(0, [1]) == {}
    assert member.log.read_at(0, [4]) == {}


def test_the_topic_has_an_id_until_it_is_made_again(topic: Topic) -> None:
    log = topic.new_log()
    first = log.topic_id()
    assert first != ""
    assert topic.new_log().topic_id() == first
    topic.append(0, b"a")
    topic.make_again()
    assert log.topic_id() not in ("", first)
    assert answered(lambda: log.extent(0, None)) == LogExtent(0, 0, 0)


def test_the_partitions_are_counted(topic: Topic) -> None:
    assert topic.new_log().partition_count() == PARTITIONS
    assert topic.new_log().still_reachable()


def test_a_second_member_gets_its_share_after_a_revocation(topic: Topic, member: Member) -> None:
    topic.append(0, b"a")
    topic.append(1, b"b")
    for partition in ALL:
        member.log.begin(partition, 0)
    until(lambda: len(member.records) == 2, member)
    member.at_revoke = lambda partitions: member.log.commit(
        dict.fromkeys(partitions, (1, "drained"))
    )
    second = Member(topic.new_log())
    until(lambda: len(member.held) == 1 and second.held == ALL - member.held, member, second)
    [moved] = second.held
    assert ("revoke", {moved}) in member.calls
    assert second.log.committed(moved) == (1, "drained")
    topic.append(moved, b"c")
    [kept] = member.held
    topic.append(kept, b"d")
    second.log.begin(moved, 1)
    until(lambda: second.values(moved) == [b"c"] and len(member.records) == 3, member, second)
    assert member.values(kept)[-1] == b"d", "what it keeps it goes on reading"
    second.log.close()
    assert second.calls[-1] == ("revoke", {moved})
    until(lambda: member.held == ALL, member)
    quiet(member)
    assert len(member.records) == 3, "it is paused again"


def test_a_member_that_was_replaced_is_fenced_and_loses_its_partitions(topic: Topic) -> None:
    first = Member(topic.new_log(instance_id="name"))
    until(lambda: first.held == ALL, first)
    first.log.commit({0: (1, "first")})
    second = Member(topic.new_log(instance_id="name"))
    until(lambda: second.held == ALL, second)
    with pytest.raises(Fenced):
        first.log.commit({0: (2, "zombie")})
    assert second.log.committed(0) == (1, "first")
    second.log.commit({0: (3, "second")})
    until(lambda: first.calls[-1] == ("lost", ALL), first)
    assert first.held == set()


def test_close_revokes_what_is_held(member: Member) -> None:
    committed: list[int] = []

    def drain(partitions: Sequence[int]) -> None:
        member.log.commit(dict.fromkeys(partitions, (1, "last")))
        committed.extend(partitions)

    member.at_revoke = drain
    member.log.close()
    assert set(committed) == ALL
    assert member.held == set()
