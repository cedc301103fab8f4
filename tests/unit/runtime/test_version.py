"""The version of pyproject.toml is the source; every copy that a format forces is compared with it.

A release changes pyproject.toml and the places of `COPIES`. The image has no pyproject.toml, so the
service has its version as a constant; the packages of the clients are installed without the rest of
the repository; Compose and Kustomize name the image's tag.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import swapclient
import yaml

from aggregator.runtime.version import VERSION

ROOT = Path(__file__).parents[3]
SOURCE: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def kustomized(name: str) -> str:
    base: dict[str, Any] = yaml.safe_load((ROOT / "infra/k8s/base/kustomization.yaml").read_text())
    [tag] = [each["newTag"] for each in base["images"] if each["name"] == name]
    return str(tag)


def composed() -> str:
    text = (ROOT / "docker-compose.yml").read_text()
    [tag] = re.findall(r"image: swap-aggregator:\$\{SWAPS_VERSION:-(.+)\}", text)
    return str(tag)


COPIES: dict[str, Callable[[], str]] = {
    "aggregator/runtime/version.py": lambda: VERSION,
    "clients/js/package.json": lambda: json.loads((ROOT / "clients/js/package.json").read_text())[
        "version"
    ],
    "clients/python/swapclient/__init__.py": lambda: swapclient.__version__,
    "docker-compose.yml": composed,
    "infra/k8s/base/kustomization.yaml": lambda: kustomized("swap-aggregator"),
}


@pytest.mark.parametrize("place", COPIES)
def test_it_is_that_of_pyproject(place: str) -> None:
    assert COPIES[place]() == SOURCE


def test_the_changelog_has_a_dated_section_of_it() -> None:
    sections = re.findall(r"^## \[(.+?)\](?: - (\d{4}-\d\d-\d\d))?$", changelog(), re.MULTILINE)
    assert sections[0] == ("Unreleased", "")
    assert sections[1][0] == SOURCE
    assert all(date for _, date in sections[1:])


def test_the_changelog_uses_the_headings_of_keep_a_changelog() -> None:
    headings = re.findall(r"^### (.+)$", changelog(), re.MULTILINE)
    known = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert set(headings) <= known
    for section in re.split(r"^## ", changelog(), flags=re.MULTILINE):
        found = re.findall(r"^### (.+)$", section, re.MULTILINE)
        assert len(found) == len(set(found)), section.partition("\n")[0]


def changelog() -> str:
    return (ROOT / "CHANGELOG.md").read_text()
