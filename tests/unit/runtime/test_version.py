"""The service and its clients report the version of their release."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import swapclient

from aggregator.runtime.version import VERSION


def test_it_is_the_version_of_pyproject() -> None:
    project = Path(__file__).parents[3] / "pyproject.toml"
    assert tomllib.loads(project.read_text())["project"]["version"] == VERSION


def test_it_is_the_version_of_both_clients() -> None:
    package = json.loads((Path(__file__).parents[3] / "clients/js/package.json").read_text())
    assert (swapclient.__version__, package["version"]) == (VERSION, VERSION)
