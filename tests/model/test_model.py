"""The rules hold in 2,000 random schedules, and the simulator notices when one is missing."""

from __future__ import annotations

import pytest

from tests.model.campaign import SCHEDULES, campaign, rules_without
from tests.model.oracle import play
from tests.model.rules import FAULTS, RULES

EVERY_FAULT = list(FAULTS)


@pytest.mark.parametrize("first_seed", range(0, 2000, 500))
def test_no_schedule_breaks_the_rules(first_seed: int) -> None:
    tally = campaign(frozenset(RULES), EVERY_FAULT, 500, first_seed)
    assert tally.counts[SCHEDULES] == 0, tally.first_seeds


@pytest.mark.parametrize(
    ("rule", "violation"),
    [
        ("home", "window twice"),
        ("cas", "window lost"),
        ("logttl", "archive twice"),
        ("toggle", "archive lost"),
        ("reader", "reader final value"),
    ],
)
def test_a_rule_that_is_switched_off_is_noticed(rule: str, violation: str) -> None:
    rules = rules_without(rule)
    assert any(violation in play(seed, rules, EVERY_FAULT) for seed in range(100))


def test_a_seed_repeats_its_schedule(capsys: pytest.CaptureFixture[str]) -> None:
    def trace() -> str:
        play(7, frozenset(RULES), EVERY_FAULT, trace=True)
        return capsys.readouterr().out

    first = trace()
    assert len(first.splitlines()) > 5
    assert trace() == first
