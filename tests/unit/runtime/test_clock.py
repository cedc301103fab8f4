"""The clock at which windows end: which steps of the host's clock it follows, and when."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest

from aggregator.runtime.clock import AHEAD_MS, BACK_MS, CONFIRM_MS, NOTED_MS, TrustedClock

T0 = 1_760_000_000_000
HOUR = 3_600_000
SECOND = 1_000


class Host:
    """A machine: time passes on both clocks, and a test may set the host's clock."""

    def __init__(self) -> None:
        self.wall, self.monotonic = T0, 5_000
        self.clock = TrustedClock(lambda: self.wall, lambda: self.monotonic)
        self.began = self.monotonic

    @property
    def elapsed(self) -> int:
        return self.monotonic - self.began

    @property
    def now(self) -> int:
        """ms since T0."""
        return self.clock.now_ms() - T0

    def run(self, ms: int, *, record_age: int | None = None, step: int = 20) -> list[int]:
        """Let time pass; each reading comes with a record `record_age` ms older than true time."""
        read = []
        for _ in range(ms // step):
            self.wall += step
            self.monotonic += step
            read.append(self.now)
            if record_age is not None:
                self.clock.witness(T0 + self.elapsed - record_age)
        return read


@pytest.fixture
def host() -> Host:
    return Host()


def test_a_clock_that_is_right_is_followed(host: Host) -> None:
    assert host.run(HOUR, step=SECOND)[-1] == HOUR
    assert host.clock.fault is None


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR, -HOUR, -49 * HOUR])
def test_one_wrong_reading_changes_nothing(host: Host, leap: int) -> None:
    host.run(SECOND)
    host.wall += leap
    assert host.now == SECOND
    way = "ahead of" if leap > 0 else "back from"
    assert f"{abs(leap) // 1000} s {way}" in str(host.clock.fault)
    host.wall -= leap
    assert host.run(SECOND)[-1] == 2 * SECOND
    assert host.clock.fault is None
    assert not host.clock.take_step_back()


@pytest.mark.parametrize("leap", [HOUR, 49 * HOUR, -HOUR, -49 * HOUR])
def test_records_of_the_true_time_keep_a_wrong_step_from_being_followed(
    host: Host, leap: int
) -> None:
    host.wall += leap
    read = host.run(HOUR, record_age=200, step=SECOND)
    assert read == list(range(SECOND, HOUR + 1, SECOND))
    assert host.clock.fault is not None
    assert not host.clock.take_step_back()


@pytest.mark.parametrize("leap", [HOUR, -HOUR])
def test_a_lasting_step_is_followed_if_no_record_contradicts_it(host: Host, leap: int) -> None:
    host.wall += leap
    before = host.run(CONFIRM_MS)
    assert before[-1] == CONFIRM_MS
    after = host.run(SECOND)
    assert after[-1] == CONFIRM_MS + SECOND + leap
    assert "is followed" in str(host.clock.fault)
    assert host.clock.take_step_back() is (leap < 0)
    assert not host.clock.take_step_back()
    host.run(NOTED_MS, step=SECOND)
    assert host.clock.fault is None


def test_records_confirm_a_step_ahead_as_far_as_they_go(host: Host) -> None:
    host.wall += HOUR
    assert host.now == 0
    host.clock.witness(T0 + HOUR // 2)
    assert host.now == HOUR // 2
    assert host.clock.fault is not None
    host.clock.witness(T0 + HOUR - 300)
    assert host.now == HOUR
    assert host.clock.fault is None


def test_a_record_ahead_of_the_host_moves_the_clock_no_further_than_the_host(host: Host) -> None:
    host.clock.witness(T0 + 49 * HOUR)
    assert host.now == 0
    host.wall += HOUR
    assert host.now == 0
    host.clock.witness(T0 + 49 * HOUR)
    assert host.now == HOUR


def test_a_right_step_back_is_followed_while_records_arrive(host: Host) -> None:
    """The host's clock is an hour ahead from the start; then it is corrected."""
    host.wall -= HOUR
    read = host.run(CONFIRM_MS + SECOND, record_age=HOUR + 200)
    assert read[-1] == CONFIRM_MS + SECOND - HOUR
    assert host.clock.take_step_back()


@pytest.mark.parametrize("step", [AHEAD_MS, 1_500, 1])
def test_a_small_step_ahead_is_followed_immediately(host: Host, step: int) -> None:
    host.wall += step
    assert host.now == step
    assert host.clock.fault is None


@pytest.mark.parametrize("step", [1, 1_500, BACK_MS])
def test_a_small_step_back_never_makes_it_go_back(host: Host, step: int) -> None:
    host.run(SECOND)
    host.wall -= step
    read = host.run(HOUR, step=SECOND)
    assert all(after > before for before, after in pairwise(read))
    assert read[-1] == HOUR + SECOND - step
    assert host.clock.fault is None
    # A web node that compares it with its clock must not treat the numbers as late.
    five_minutes = 300
    lost = [now - place * SECOND for place, now in enumerate(read)]
    assert max(lost[i] - lost[i + five_minutes] for i in range(len(lost) - five_minutes)) < 3_000


def test_a_host_clock_that_stands_still_is_not_followed(host: Host) -> None:
    for _ in range(50):
        host.monotonic += SECOND
        now = host.now
    assert host.elapsed - BACK_MS <= now <= host.elapsed
    assert host.clock.fault is not None


def test_a_host_clock_that_runs_at_double_speed_is_noticed(host: Host) -> None:
    for _ in range(600):
        host.monotonic += SECOND
        host.wall += 2 * SECOND
        now = host.now
    assert host.clock.fault is not None
    assert now <= host.elapsed * 1.1 + AHEAD_MS


def test_it_never_goes_back_whatever_the_host_does_within_a_minute(host: Host) -> None:
    rng = random.Random(7)
    last = host.now
    for _ in range(2_000):
        passed = rng.randrange(25)
        host.monotonic += passed
        host.wall += passed
        if rng.random() < 0.05:
            host.wall += rng.choice([-1, 1]) * round(10 ** rng.uniform(1, 9))
        now = host.now
        assert now >= last
        last = now
