"""SECURITY.md names a test for every attack, and each named test exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "SECURITY.md"
_TEST = re.compile(r"`((?:unit|integration|contract|e2e)/[\w/]+\.py)`|`(test_\w+)`")


def attacks() -> list[tuple[str, str]]:
    """Return each row's attack, and the cell with its tests."""
    table = PAGE.read_text().partition("## Attacks")[2].partition("\n## ")[0]
    rows = [line.strip("| \n").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return [(row[0], row[2]) for row in rows[2:]]


def functions(path: Path) -> set[str]:
    return {
        each.name
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize(("attack", "tests"), attacks(), ids=[row[0][:60] for row in attacks()])
def test_every_named_test_exists(attack: str, tests: str) -> None:
    held: set[str] = set()
    named = 0
    for path, name in _TEST.findall(tests):
        if path:
            assert (TESTS / path).is_file(), f"{path}, named against: {attack}"
            held = functions(TESTS / path)
        else:
            assert name in held, f"{name} is not in the file named before it"
            named += 1
    assert named, f"no test is named against: {attack}"


def test_the_table_is_read() -> None:
    assert len(attacks()) >= 25
