"""A fenced member joins again a few times; then it stops and says why."""

from __future__ import annotations

import pytest

from aggregator.member.fencing import Fences
from aggregator.runtime.errors import Fatal


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_member_that_is_fenced_repeatedly_stops() -> None:
    clock = Clock()
    fences = Fences("archiver", "archiver-1", clock)
    pauses = []
    for _ in range(3):
        pauses.append(fences.pause_s())
        clock.now += 8
    assert 0 < pauses[0] < 1
    assert 0.5 < pauses[2] / 2 < 2
    with pytest.raises(Fatal, match=r"KAFKA_INSTANCE_ID=archiver-1 .*archiver 4 times"):
        fences.pause_s()


def test_a_broker_that_restarts_now_and_then_never_stops_a_member() -> None:
    clock = Clock()
    fences = Fences("archiver", "archiver-1", clock)
    for _ in range(20):
        assert fences.pause_s() < 4
        clock.now += 21
