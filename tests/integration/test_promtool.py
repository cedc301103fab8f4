"""promtool, built from its pinned source, accepts the rules, the configuration and our metrics."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from prometheus_client.exposition import generate_latest

import aggregator.runtime.metrics  # noqa: F401 - declares what is checked
from tests.support.promtool import told

PROMETHEUS = Path(__file__).parents[2] / "infra/prometheus"

pytestmark = [
    pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed"),
    # The first build of a machine fetches and compiles some hundred modules.
    pytest.mark.timeout(1_200),
]


def test_the_configuration_and_its_rules_are_right(promtool: Path) -> None:
    status, text = told(
        promtool, "check", "config", "--lint=all", "--lint-fatal", PROMETHEUS / "prometheus.yml"
    )
    assert status == 0, text
    assert "rules found" in text


def test_a_wrong_rule_is_noticed(promtool: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "rules.yml"
    rules = (PROMETHEUS / "rules/swaps.yml").read_text()
    wrong.write_text(rules.replace("clamp_min(", "clamp_least("))
    status, text = told(promtool, "check", "rules", wrong)
    assert status != 0
    assert "clamp_least" in text


def test_alerts_fire_when_they_should_and_only_then(promtool: Path) -> None:
    status, text = told(promtool, "test", "rules", PROMETHEUS / "rules.test/swaps.test.yml")
    assert status == 0, text


def test_our_metrics_are_written_as_they_should_be(promtool: Path) -> None:
    status, text = told(promtool, "check", "metrics", given=generate_latest(REGISTRY))
    ours = [line for line in text.splitlines() if line.startswith("swaps_")]
    assert (ours, status in {0, 3}) == ([], True), text
