"""The loop of a member, with a small sink on a topic in memory."""

from __future__ import annotations

import threading
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.member.loop import STEADY_S
from aggregator.member.memory import MemoryTopic
from aggregator.member.sink import Release
from aggregator.runtime.errors import Fatal, Fenced, Retry
from tests.unit.member.toys import Store, ToyMember


def topic_of(*counts: int) -> MemoryTopic:
    """A topic with so many records on each partition."""
    topic = MemoryTopic(len(counts), now_ms=lambda: 0)
    for partition, count in enumerate(counts):
        fill(topic, partition, count)
    return topic


def fill(topic: MemoryTopic, partition: int, count: int) -> None:
    for _ in range(count):
        offset = len(topic.records(partition))
        topic.append(partition, b"%d" % offset)


def numbers(begin: int, end: int) -> list[bytes]:
    return [b"%d" % number for number in range(begin, end)]


def test_records_are_taken_in_order_and_ends_reported() -> None:
    member = ToyMember(topic_of(25, 3))
    member.rounds()
    assert member.loop.owned == {0, 1}
    assert (member.values(0), member.values(1)) == (numbers(0, 25), numbers(0, 3))
    assert member.sink.count("reached", 0) == 1
    assert member.loop.faults() == {}
    assert member.counted == [2]


def test_an_owner_resumes_where_the_last_one_stopped() -> None:
    topic, store = topic_of(12), Store()
    first = ToyMember(topic, store)
    first.rounds()
    first.leave()
    fill(topic, 0, 3)
    second = ToyMember(topic, store)
    second.rounds()
    assert second.values() == numbers(0, 15)
    assert [offset for _, offset in second.sink.taken] == [12, 13, 14]


def test_offsets_without_records_are_passed() -> None:
    topic = topic_of(2)
    topic.skip(0, 3)
    member = ToyMember(topic)
    member.rounds()
    assert member.sink.states[0].next_offset == 5


def test_records_that_come_again_are_skipped_by_the_sink() -> None:
    member = ToyMember(topic_of(8))
    member.rounds()
    member.log.rewind(0, 3)
    member.rounds()
    assert member.values() == numbers(0, 8)


# Joining.


def test_turns_go_on_while_the_group_cannot_be_joined() -> None:
    topic = topic_of(1)
    topic.reachable = False
    member = ToyMember(topic)
    member.rounds(50, pause_s=0.1)
    assert member.sink.count("turn", -1) == 50
    assert "no answer" in member.loop.faults()["kafka"]
    assert member.loop.owned == set()
    topic.reachable = True
    member.rounds(60, pause_s=0.2)
    assert member.values() == numbers(0, 1)
    assert member.loop.faults() == {}


def test_the_topics_are_prepared_first_with_pauses_that_grow() -> None:
    calls = list[float]()

    def prepare() -> None:
        calls.append(member.clock.now)
        if len(calls) < 8:
            raise Retry("the broker starts")

    member = ToyMember(topic_of(1), prepare=prepare)
    member.rounds(3_000, pause_s=0.01)
    assert len(calls) == 8
    pauses = [after - before for before, after in pairwise(calls)]
    assert pauses[-1] > 1.0 > pauses[0]
    assert member.loop.owned == {0}


def test_topics_that_may_not_be_used_end_the_process() -> None:
    def prepare() -> None:
        raise Fatal("the topic is unbounded")

    member = ToyMember(topic_of(1), prepare=prepare)
    with pytest.raises(Fatal, match="unbounded"):
        member.loop.run()
    assert member.sink.stopped == 1


# Taking partitions.


def test_a_partition_that_takes_long_keeps_no_other_waiting() -> None:
    member = ToyMember(topic_of(3, 3))
    member.sink.waits[0] = 1_000
    member.rounds(500)
    assert member.loop.owned == {1}
    assert member.loop.pending == {0}
    assert member.values(1) == numbers(0, 3)
    assert member.loop.faults() == {}, "to wait is no fault"
    member.rounds(600)
    assert member.values(0) == numbers(0, 3)


def test_a_partition_that_fails_backs_off_alone() -> None:
    member = ToyMember(topic_of(3, 3))
    member.sink.errors["acquire 0"] = [Retry("redis is away") for _ in range(1_000)]
    member.rounds(3_000, pause_s=0.01)
    assert member.values(1) == numbers(0, 3)
    assert member.loop.faults() == {"assignment": "partition 0: redis is away"}
    assert 8 <= member.sink.count("acquire", 0) <= 30, "in 30 s"
    assert member.sink.count("discard", 0) == 0, "after Retry it continues"
    member.sink.errors.clear()
    member.rounds(100, pause_s=0.1)
    assert member.loop.owned == {0, 1}
    assert member.loop.faults() == {}


def test_pauses_are_not_in_step() -> None:
    member = ToyMember(topic_of(*[0] * 20))
    member.sink.errors["acquire"] = [Retry("all fail") for _ in range(20)]
    member.rounds(2)
    tried = [member.sink.count("acquire", each) for each in range(20)]
    member.rounds(1, pause_s=0.1)
    again = [member.sink.count("acquire", each) for each in range(20)]
    assert tried == [1] * 20
    assert 0 < again.count(2) < 20


def test_a_seek_that_is_refused_is_repeated_alone() -> None:
    member = ToyMember(topic_of(3))
    member.log.failing["begin"] = [Retry("seeking: erroneous state") for _ in range(3)]
    member.rounds(50, pause_s=0.1)
    assert member.values() == numbers(0, 3)
    assert member.sink.count("acquire") == 1


def test_a_fenced_acquisition_starts_over() -> None:
    member = ToyMember(topic_of(3))
    member.sink.errors["acquire"] = [Fenced("a newer owner has it")]
    member.rounds(2)
    assert member.sink.calls[1:3] == [("acquire", 0), ("discard", 0)]
    member.rounds(20, pause_s=0.1)
    assert member.values() == numbers(0, 3)


def test_a_log_that_is_wrong_does_not_end_the_counting_of_others() -> None:
    member = ToyMember(topic_of(3, 3))
    member.sink.errors["acquire 0"] = [Fatal("the log was cut") for _ in range(1_000)]
    member.rounds(6_000, pause_s=0.1)
    assert member.values(1) == numbers(0, 3)
    assert member.loop.failed() == {0: "the log was cut"}
    assert member.loop.faults() == {"assignment": "partition 0: the log was cut"}
    assert 10 <= member.sink.count("acquire", 0) <= 25, "in 600 s"
    assert member.sink.count("discard", 0) == member.sink.count("acquire", 0)
    member.sink.errors.clear()
    member.rounds(1_000, pause_s=0.1)
    assert member.loop.owned == {0, 1}
    assert member.loop.failed() == {}


def test_where_no_partition_is_left_the_process_ends() -> None:
    member = ToyMember(topic_of(3, 3))
    member.sink.errors["acquire"] = [Fatal("the log was cut") for _ in range(2)]
    with pytest.raises(Fatal, match="the log was cut"):
        member.loop.run()
    assert member.sink.stopped == 1
    assert member.store.saved == {}


def test_a_partition_that_waits_is_one_that_is_left() -> None:
    member = ToyMember(topic_of(3, 3))
    member.sink.errors["acquire 0"] = [Fatal("the log was cut")]
    member.sink.waits[1] = 5
    member.rounds(3)
    assert member.loop.failed() == {0: "the log was cut"}


# Reading.


def test_a_sink_that_is_not_ready_is_not_given_more() -> None:
    topic = topic_of(3, 3)
    member = ToyMember(topic)
    member.rounds()
    member.sink.unready = {0}
    member.rounds()
    fill(topic, 0, 100)
    fill(topic, 1, 5)
    member.rounds()
    assert member.log.paused == {0}
    assert member.values(0) == numbers(0, 3)
    assert member.values(1) == numbers(0, 8)
    member.sink.unready = set()
    member.rounds(20)
    assert member.values(0) == numbers(0, 103)


def test_one_that_is_not_ready_from_the_start_reads_nothing() -> None:
    member = ToyMember(topic_of(3))
    member.sink.unready = {0}
    member.rounds()
    assert member.loop.owned == {0}
    assert member.sink.taken == []


def test_a_trimmed_log_is_a_gap_that_begins_where_reading_stopped() -> None:
    topic = topic_of(5)
    member = ToyMember(topic, save_every=1_000)
    member.rounds()
    fill(topic, 0, 20)
    topic.trim(0, 17)
    member.rounds(1)
    assert member.sink.count("drain") == 1
    member.rounds(20, pause_s=0.1)
    assert member.sink.states[0].gaps == [(5, 17)]
    assert member.values() == numbers(0, 5) + numbers(17, 25)


@pytest.mark.parametrize("error", [Retry("no"), Fenced("no")])
@pytest.mark.parametrize("call", ["take", "reached"])
def test_a_batch_that_is_refused_releases_its_partition(call: str, error: Retry | Fenced) -> None:
    member = ToyMember(topic_of(3, 3), save_every=1_000)
    member.sink.errors[f"{call} 0"] = [error]
    member.rounds(30, pause_s=0.1)
    assert member.sink.count("discard", 0) == 1
    assert member.sink.count("drain", 0) == 0
    assert member.sink.count("discard", 1) == 0
    assert member.values(0) == numbers(0, 3)


def test_a_turn_may_release_partitions() -> None:
    member = ToyMember(topic_of(3, 3))
    member.rounds()
    member.sink.errors["turn"] = [Release([1, 7], "the clock was set back")]
    member.rounds(1)
    assert member.loop.owned == {0}
    assert member.loop.faults() == {"assignment": "partition 1: the clock was set back"}
    member.rounds(10, pause_s=0.1)
    assert member.loop.owned == {0, 1}
    assert member.sink.count("acquire", 0) == 1
    assert member.values(1) == numbers(0, 3)


def test_a_fenced_turn_releases_all() -> None:
    member = ToyMember(topic_of(3, 3))
    member.rounds()
    member.sink.errors["turn"] = [Fenced("a newer owner has it")]
    member.rounds(1)
    assert member.loop.owned == set()
    member.rounds(10, pause_s=0.1)
    assert member.loop.owned == {0, 1}


def test_a_partition_that_is_fenced_each_time_uses_few_epochs() -> None:
    member = ToyMember(topic_of(3))
    for _ in range(3_000):
        if member.sink.states:
            member.sink.errors["turn"] = [Release([0], "fenced")]
        member.rounds(1, pause_s=0.01)
    assert member.sink.count("acquire") <= 30, "in 30 s"
    member.sink.errors.clear()
    member.rounds(200, pause_s=STEADY_S / 100)
    before = member.sink.count("acquire")
    member.sink.errors["turn"] = [Release([0], "fenced")]
    member.rounds(1)
    member.rounds(1, pause_s=0.2)
    assert member.sink.count("acquire") == before + 1, "after a steady time the pause is short"


def test_a_turn_that_fails_is_a_fault_until_one_works() -> None:
    member = ToyMember(topic_of(3))
    member.rounds()
    member.sink.errors["turn"] = [Retry("no"), Retry("no")]
    member.rounds(2)
    assert member.loop.faults() == {"sink": "no"}
    assert member.loop.owned == {0}
    member.rounds(1)
    assert member.loop.faults() == {}


@pytest.mark.parametrize("call", ["take", "reached", "turn"])
def test_what_would_do_harm_ends_the_process_without_a_save(call: str) -> None:
    member = ToyMember(topic_of(3), save_every=1_000)
    member.sink.errors[call] = [Fatal("wrong")]
    with pytest.raises(Fatal, match="wrong"):
        member.loop.run()
    assert member.sink.count("drain") == 0
    assert member.sink.stopped == 1


def test_a_bug_of_the_sink_is_not_swallowed() -> None:
    member = ToyMember(topic_of(3), save_every=1_000)
    member.sink.unready = None  # type: ignore[assignment]
    with pytest.raises(TypeError):
        member.loop.run()
    assert member.sink.count("drain") == 0
    assert member.sink.stopped == 1


# Kafka away.


def wait_for(member: ToyMember, faults: dict[str, str]) -> None:
    """Run rounds until the thread that asks the broker has its answer."""
    for _ in range(10_000):
        member.rounds(1, pause_s=0.1)
        if member.loop.faults() == faults:
            return
        threading.Event().wait(0.001)
    raise AssertionError(member.loop.faults())


def test_a_broker_that_goes_away_is_a_fault_until_it_answers() -> None:
    topic = topic_of(3)
    member = ToyMember(topic, save_every=1_000_000)
    member.rounds()
    topic.reachable = False
    wait_for(member, {"kafka": "all brokers are down"})
    assert member.loop.owned == {0}
    topic.reachable = True
    fill(topic, 0, 2)
    wait_for(member, {})
    assert member.values() == numbers(0, 5)
    assert member.sink.count("acquire") == 1


def test_polls_that_fail_back_off() -> None:
    member = ToyMember(topic_of(3))
    member.rounds()
    member.log.failing["poll"] = [Retry("kafka: broken") for _ in range(1_000)]
    member.rounds(300, pause_s=0.1)
    assert member.loop.faults() == {"kafka": "kafka: broken"}
    assert 980 <= len(member.log.failing["poll"]) <= 995
    member.log.failing.clear()
    member.rounds(100, pause_s=0.1)
    assert member.loop.faults() == {}


# Rebalances.


def test_a_revoked_partition_is_drained_and_goes_on_elsewhere() -> None:
    topic, store = topic_of(5, 5), Store()
    first = ToyMember(topic, store, save_every=1_000)
    first.rounds()
    second = ToyMember(topic, store, save_every=1_000)
    for _ in range(5):
        second.rounds(1)
        first.rounds(1)
    [moved] = second.loop.owned
    assert first.loop.owned == {0, 1} - {moved}
    assert first.sink.count("drain", moved) == 1
    assert second.values(moved) == numbers(0, 5)
    assert second.sink.taken == []


def test_an_acquisition_that_is_under_way_is_released() -> None:
    topic = topic_of(5, 5)
    first = ToyMember(topic)
    first.sink.waits = {0: 1_000, 1: 1_000}
    first.rounds()
    second = ToyMember(topic)
    for _ in range(5):
        second.rounds(1)
        first.rounds(1)
    assert len(second.loop.owned) == 1
    assert [name for name, _ in first.sink.calls].count("drain") == 1


def test_what_was_lost_is_not_saved() -> None:
    topic, store = topic_of(5), Store()
    first = ToyMember(topic, store, save_every=1_000)
    first.rounds()
    first.log.expire()
    second = ToyMember(topic, store)
    second.rounds()
    first.rounds(1)
    assert first.sink.calls[-2:] == [("discard", 0), ("turn", -1)]
    assert second.values() == numbers(0, 5)
    assert store.saved[0].values == numbers(0, 5)
    assert store.saved[0].epoch == 2


def test_a_drain_that_fails_is_no_reason_to_stop() -> None:
    topic, store = topic_of(5, 5), Store()
    first = ToyMember(topic, store)
    first.rounds()
    first.sink.errors["drain"] = [Retry("redis is away")]
    second = ToyMember(topic, store)
    for _ in range(5):
        second.rounds(1)
        first.rounds(1)
    assert len(first.loop.owned) == len(second.loop.owned) == 1


def test_harm_in_a_callback_ends_the_process_after_the_poll() -> None:
    topic = topic_of(5, 5)
    first = ToyMember(topic)
    first.rounds()
    first.sink.errors["drain"] = [Fatal("wrong")]
    second = ToyMember(topic)
    second.rounds(1)
    with pytest.raises(Fatal, match="wrong"):
        first.rounds(1)
    second.rounds(2)
    assert len(second.loop.owned) == 1, "the group goes on"


def test_a_stop_drains_and_leaves() -> None:
    topic, store = topic_of(5, 5), Store()
    member = ToyMember(topic, store, save_every=1_000)
    member.rounds()
    member.leave()
    assert member.sink.calls[-2:] == [("drain", 0), ("drain", 1)]
    assert member.sink.stopped == 1
    assert [store.saved[each].next_offset for each in (0, 1)] == [5, 5]
    second = ToyMember(topic, store)
    second.rounds(2)
    assert second.loop.owned == {0, 1}, "the group need not wait for a timeout"


def test_a_topic_with_more_partitions_later() -> None:
    topic = topic_of(3)
    member = ToyMember(topic)
    member.rounds()
    topic.add_partitions(1)
    fill(topic, 1, 2)
    member.rounds()
    assert member.values(1) == numbers(0, 2)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2)),
        st.tuples(st.just("round"), st.integers(0, 2)),
        st.tuples(st.just("join"), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 2)),
        st.tuples(st.just("expire"), st.integers(0, 2)),
        st.tuples(st.just("fence"), st.integers(0, 2)),
        st.tuples(st.just("hole"), st.integers(0, 2)),
        st.tuples(st.just("away"), st.just(0)),
        st.tuples(st.just("back"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(STEPS)
def test_every_record_is_taken_exactly_once_whatever_happens(steps: list[tuple[str, int]]) -> None:
    topic, store = topic_of(2, 0, 1), Store()
    members = [ToyMember(topic, store, save_every=3)]
    for step, number in steps:
        member = members[number % len(members)]
        if step == "append":
            topic.append(number, b"%d/%d" % (number, len(topic.records(number))))
        elif step == "hole":
            topic.skip(number)
        elif step == "round":
            member.rounds(1, pause_s=1.0)
        elif step == "join" and len(members) < 4:
            members.append(ToyMember(topic, store, save_every=3))
        elif step == "leave" and len(members) > 1 and topic.reachable:
            members.remove(member)
            member.leave()
        elif step == "expire":
            member.log.expire()
        elif step == "fence":
            member.sink.errors["turn"] = [Fenced("no")]
        elif step in ("away", "back"):
            topic.reachable = step == "back"
    topic.reachable = True
    for _ in range(40):
        for member in members:
            member.rounds(1, pause_s=2.0)
    owned = sorted(each for member in members for each in member.loop.owned)
    assert owned == [0, 1, 2]
    for partition in range(3):
        assert store.saved[partition].values == [each.value for each in topic.records(partition)]
