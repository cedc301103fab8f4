"""The guard that stops a process whose input is mostly bad."""

from __future__ import annotations

import pytest

from aggregator.errors import DeadLetter, Fatal
from aggregator.ingest.dead_letters import PoisonGuard

BAD = DeadLetter("rule", "side", "hold")


def test_half_of_the_window_is_borne() -> None:
    guard = PoisonGuard(window=10)
    for _ in range(100):
        guard.good(1)
        guard.bad(BAD)


def test_one_more_than_half_is_fatal_and_names_the_newest() -> None:
    guard = PoisonGuard(window=10)
    guard.good(1000)
    for _ in range(5):
        guard.bad(BAD)
    with pytest.raises(Fatal, match="rule: side: hold"):
        guard.bad(BAD)


def test_old_bad_messages_leave_the_window() -> None:
    guard = PoisonGuard(window=10)
    for _ in range(50):
        guard.bad(BAD)
        guard.good(9)


def test_a_topic_of_garbage_is_stopped_before_the_window_is_full() -> None:
    guard = PoisonGuard()
    for _ in range(500):
        guard.bad(BAD)
    with pytest.raises(Fatal, match="nothing was passed over"):
        guard.bad(BAD)
