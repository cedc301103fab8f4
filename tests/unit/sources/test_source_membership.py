"""A member of a source's group whose name another process has taken, on a client of the test."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, TopicPartition

from aggregator.runtime.config import load
from aggregator.runtime.errors import Fatal, Fenced
from sources import membership
from sources.membership import SourceMembership


class OneAssignment:
    """A consumer that is assigned the partition in its first poll and dies in its second."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.callbacks: dict[str, Any] = {}
        self.polls = 0

    def subscribe(self, _topics: list[str], **callbacks: Any) -> None:
        self.callbacks = callbacks

    def poll(self, _seconds: float) -> Any:
        self.polls += 1
        if self.polls == 1:
            self.callbacks["on_assign"](self, [TopicPartition("swap-sources", 0)])
            return None
        return SimpleNamespace(error=lambda: KafkaError(KafkaError._FATAL))

    def incremental_assign(self, _partitions: object) -> None:
        pass

    def pause(self, _partitions: object) -> None:
        pass

    def close(self) -> None:
        pass


class Taken:
    def pause_s(self) -> float:
        raise Fatal("another process has the same name")


async def test_a_name_that_is_taken_again_and_again_stops_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(membership, "Consumer", OneAssignment)
    monkeypatch.setattr(membership, "_fences", lambda *_: Taken())
    member = SourceMembership(load({}), "eth", instance_id="eth-0")
    with pytest.raises(Fenced):
        member.require()
    with pytest.raises(Fatal, match="the same name"):
        for _ in range(100):
            await member.join()
            await asyncio.sleep(0.01)
    with pytest.raises(Fatal, match="the same name"):
        member.require()
    assert not member.assigned
    await member.leave()
