"""A member whose instance id was fenced joins again; of two with one id, one stops and says why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from uuid import uuid4

import pytest

from aggregator.member import fencing as fences
from aggregator.member.kafka import KafkaLog
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import Fatal
from infra.embedded.stack import Stack
from tests.support.namesake import take_name
from tests.support.processes import wait_until

EVERY = {0, 1, 2, 3}


class Quiet:
    """Notes the partitions that it is assigned and loses."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.lost: set[int] = set()

    def on_assign(self, partitions: Sequence[int]) -> None:
        self.held.update(partitions)

    def on_revoke(self, partitions: Sequence[int]) -> None:
        self.held.difference_update(partitions)

    def on_lost(self, partitions: Sequence[int]) -> None:
        self.held.difference_update(partitions)
        self.lost.update(partitions)


class Member:
    """A member that polls when a test asks it to."""

    def __init__(self, config: Config) -> None:
        self.listener = Quiet()
        self.log = KafkaLog(config)
        self.log.subscribe(self.listener)

    def polled(self) -> set[int]:
        """Poll once; return the partitions that it holds then."""
        self.log.poll(100, 0.05)
        return self.listener.held


@pytest.fixture
def named(stack: Stack) -> Config:
    topic = f"swaps-{uuid4().hex[:8]}"
    names = {"KAFKA_TOPIC": topic, "KAFKA_GROUP": f"group-{topic}", "KAFKA_INSTANCE_ID": "member-1"}
    config = load(stack.env() | names)
    ensure_topics(config)
    return config


@pytest.fixture
def member(named: Config) -> Iterator[Member]:
    found = Member(named)
    yield found
    found.log.close()


def test_a_member_whose_name_was_taken_joins_again(named: Config, member: Member) -> None:
    wait_until(lambda: member.polled() == EVERY, 60, "every partition")
    take_name(named)
    wait_until(lambda: member.polled() == set(), 60, "the loss of all")
    assert member.listener.lost == EVERY
    wait_until(lambda: member.polled() == EVERY, 60, "every partition again")
    # It is a member of the group again: it may commit, and reads from the offset it is given.
    member.log.commit({0: (0, "mine")})
    assert member.log.committed(0) == (0, "mine")
    member.log.begin(0, 0)


def test_of_two_with_one_name_one_ends_and_says_so(
    named: Config, member: Member, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fences, "_REJOINS", 1)
    monkeypatch.setattr(fences, "_FIRST_PAUSE_S", 0.05)
    wait_until(lambda: member.polled() == EVERY, 60, "every partition")
    both = [member, Member(named)]
    deadline = time.monotonic() + 60
    ended: list[Member] = []
    while not ended:
        assert time.monotonic() < deadline, "both live on"
        for each in both:
            try:
                each.polled()
            except Fatal as error:
                assert "KAFKA_INSTANCE_ID=member-1" in str(error)
                assert "another process has the same name" in str(error)
                ended.append(each)
    (stays,) = (each for each in both if each not in ended)
    try:
        wait_until(lambda: stays.polled() == EVERY, 60, "every partition with the other")
    finally:
        with suppress(Fatal):
            both[1].log.close()
