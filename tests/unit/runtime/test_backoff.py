"""Pauses that double up to a cap, with jitter, on a clock and a random source of the test."""

from __future__ import annotations

import pytest

from aggregator.runtime.backoff import Backoff, CircuitBreaker


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000.0

    def __call__(self) -> float:
        return self.now_s


def lengths(backoff: Backoff, count: int) -> list[float]:
    return [backoff.pause_s() for _ in range(count)]


def test_pauses_double_up_to_the_cap_and_start_over_after_a_success() -> None:
    backoff = Backoff(0.1, 1.0, draw=lambda: 0.5)
    assert lengths(backoff, 6) == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])
    backoff.reset()
    assert backoff.pause_s() == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("draw", "spread", "pause_s"),
    [
        (0.0, (0.5, 1.5), 1.0),
        (0.5, (0.5, 1.5), 2.0),
        (1.0, (0.5, 1.5), 3.0),
        (0.0, (0.8, 1.2), 1.6),
        (1.0, (0.5, 1.0), 2.0),
    ],
)
def test_a_draw_spreads_the_pause(draw: float, spread: tuple[float, float], pause_s: float) -> None:
    backoff = Backoff(2.0, 8.0, spread=spread, draw=lambda: draw)
    assert backoff.pause_s() == pytest.approx(pause_s)


def test_the_jitter_does_not_grow_into_the_next_pause() -> None:
    draws = iter([1.0, 0.5])
    backoff = Backoff(1.0, 8.0, draw=lambda: next(draws))
    assert lengths(backoff, 2) == pytest.approx([1.5, 2.0])


def test_one_failure_may_have_longer_bounds_than_another() -> None:
    backoff = Backoff(draw=lambda: 0.5)
    pauses = [
        backoff.pause_s(0.1, 2.0),
        backoff.pause_s(1.0, 15.0),
        backoff.pause_s(1.0, 15.0),
        backoff.pause_s(0.1, 2.0),
    ]
    assert pauses == pytest.approx([0.1, 1.0, 2.0, 2.0])


def test_a_started_pause_counts_down_on_the_clock() -> None:
    clock = Clock()
    backoff = Backoff(1.0, 8.0, draw=lambda: 0.5, clock=clock)
    assert backoff.left_s == 0
    assert backoff.start() == 1.0
    clock.now_s += 0.75
    assert backoff.left_s == pytest.approx(0.25)
    clock.now_s += 0.25
    assert backoff.left_s == 0
    backoff.hold(0.2)
    assert backoff.left_s == pytest.approx(0.2)
    assert backoff.start() == 2.0, "a pause of fixed length does not grow the next one"
    backoff.reset()
    assert backoff.left_s == 0


def test_a_circuit_breaker_stays_open_for_the_pause_after_a_failure() -> None:
    clock = Clock()
    breaker = CircuitBreaker("redis", Backoff(1.0, 8.0, draw=lambda: 0.5, clock=clock))
    assert (breaker.fault, breaker.open_for_s) == ("", 0)
    breaker.failed("refused")
    assert (breaker.fault, breaker.open_for_s) == ("refused", 1.0)
    clock.now_s += 1.0
    assert breaker.open_for_s == 0
    breaker.failed("refused")
    assert breaker.open_for_s == 2.0
    breaker.worked()
    assert (breaker.fault, breaker.open_for_s) == ("", 0)
    breaker.failed("refused")
    assert breaker.open_for_s == 1.0
