"""When the aggregator flushes again: soon under little load, after COALESCE under much."""

from __future__ import annotations

from itertools import pairwise

import pytest

from aggregator.counting.flush_schedule import FlushSchedule


@pytest.mark.parametrize(
    ("patches", "gap_ms"),
    [(0, 20), (25, 20), (100, 20), (250, 50), (500, 100), (50_000, 100)],
)
def test_the_more_patches_the_longer_they_are_gathered(patches: int, gap_ms: int) -> None:
    schedule, now_ms, instants = FlushSchedule(100), 1_000, []
    for _ in range(5):
        schedule.flushed(patches, now_ms)
        now_ms = schedule.next_at
        instants.append(now_ms)
    assert [after - before for before, after in pairwise(instants)] == [gap_ms] * 4


def test_a_short_delay_is_caught_up_and_a_long_one_is_not() -> None:
    schedule = FlushSchedule(100)
    schedule.flushed(0, 1_000)
    assert schedule.next_at == 1_020
    schedule.flushed(0, 1_025)
    assert schedule.next_at == 1_040
    schedule.flushed(0, 9_000)
    assert schedule.next_at == 9_020


def test_flushes_are_never_further_apart_than_coalesce() -> None:
    schedule = FlushSchedule(10)
    schedule.flushed(1_000, 1_000)
    assert schedule.next_at == 1_010
