"""A small storm on a real chain; `python -m tests.storm` plays the whole one."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.embedded.stack import Stack
from tests.storm.storm import Plan, play


@pytest.mark.timeout(300)
def test_a_small_storm(stack: Stack, tmp_path: Path) -> None:
    outcome = play(Plan(swaps=100, reorganisations=8, kills=4, seed=3), tmp_path, stack, print)
    assert outcome.faults == []
    assert sum(outcome.kinds.values()) >= 100
    assert outcome.dropped
    assert outcome.moved
