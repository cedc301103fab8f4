"""A partition that ends too early is an error to retry for a while, and then fatal."""

from __future__ import annotations

import pytest

from aggregator.member.end_offset_check import PATIENCE_S, EndOffsetCheck
from aggregator.runtime.errors import Fatal, Retry


class Clock:
    """Seconds, moved by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_short_log_is_retried_first_and_fatal_after_a_while() -> None:
    clock = Clock()
    check = EndOffsetCheck("swaps", "counted", "Begin again.", clock).check
    check(0, 10, 10)
    with pytest.raises(Retry, match="partition 0 of swaps ends at 9, but the offsets below 10 are"):
        check(0, 10, 9)
    clock.now += PATIENCE_S - 1
    with pytest.raises(Retry):
        check(0, 10, 9)
    clock.now += 1
    with pytest.raises(Fatal, match=r"counted: the topic was created again .*\. Begin again\."):
        check(0, 10, 9)


def test_an_end_that_came_back_is_trusted_and_each_partition_has_its_own_patience() -> None:
    clock = Clock()
    check = EndOffsetCheck("swaps", "archived", "Begin again.", clock).check
    with pytest.raises(Retry):
        check(0, 10, 9)
    clock.now += PATIENCE_S
    check(0, 10, 12)
    for partition in (0, 1):
        with pytest.raises(Retry):
            check(partition, 10, 9)
