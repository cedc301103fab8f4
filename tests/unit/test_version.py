"""The version that the service says is the one that it is released under."""

from __future__ import annotations

import tomllib
from pathlib import Path

from aggregator.version import VERSION


def test_it_is_that_of_pyproject() -> None:
    project = Path(__file__).parents[2] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == VERSION
