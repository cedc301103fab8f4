"""The scopes are defined once; code, docs, pages and the demo name no others."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
from django.core.management import get_commands, load_command_class

from api.auth.scopes import SCOPES

_ROOT: Final = Path(__file__).parents[3]
_SCOPE: Final = re.compile(r"\b[a-z]+:(?:read|connect|write)\b")
_READERS: Final = (
    "README.md",
    "docs/rest.md",
    "docs/websocket.md",
    "docs/archive.md",
    "docs/operations.md",
    "infra/embedded/demo.py",
    "api/page/static/page/login.js",
    "api/page/templates/page/login.html",
)


@pytest.mark.parametrize("name", _READERS)
def test_a_text_names_known_scopes_only(name: str) -> None:
    named = set(_SCOPE.findall((_ROOT / name).read_text()))
    assert named
    assert named <= set(SCOPES)


def test_the_docs_name_every_scope() -> None:
    texts = "".join(path.read_text() for path in (_ROOT / "docs").glob("*.md"))
    assert set(SCOPES) <= set(_SCOPE.findall(texts))


def test_the_code_spells_a_scope_in_one_place() -> None:
    files = [path for room in ("api", "console") for path in (_ROOT / room).rglob("*.py")]
    quoted = re.compile(r"\"[^\"\n]*(?:" + "|".join(SCOPES) + r")[^\"\n]*\"")
    spelt = {str(path.relative_to(_ROOT)) for path in files if quoted.search(path.read_text())}
    assert spelt == {"api/auth/scopes.py"}


def test_the_help_of_issue_token_lists_every_scope() -> None:
    command = load_command_class(get_commands()["issue_token"], "issue_token")
    parser = command.create_parser("manage.py", "issue_token")
    assert set(_SCOPE.findall(parser.format_help())) == set(SCOPES)
    assert parser.get_default("scope").split() == list(SCOPES)
