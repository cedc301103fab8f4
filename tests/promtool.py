"""Asking promtool, and what the dashboards and alerts ask Prometheus."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import yaml

INFRA = Path(__file__).parents[1] / "infra"


def told(promtool: Path, *arguments: str | Path, given: bytes | None = None) -> tuple[int, str]:
    """promtool's exit status, and what it wrote."""
    done = subprocess.run(
        [promtool, *arguments], input=given, capture_output=True, check=False, timeout=60
    )
    return done.returncode, (done.stdout + done.stderr).decode()


def expressions() -> dict[str, str]:
    """Every expression by the panel or alert that it is of."""
    found = {}
    for path in sorted((INFRA / "grafana/dashboards").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for number, target in enumerate(panel["targets"]):
                found[f"{path.stem}: {panel['title']} {number}"] = target["expr"]
    rules = yaml.safe_load((INFRA / "prometheus/rules/swaps.yml").read_text())
    for group in rules["groups"]:
        for rule in group["rules"]:
            found[rule["alert"]] = rule["expr"]
    return found
