"""The console uses a database of version 0.1.0 unchanged: same tables, app labels and rights.

`tests/data/operators-0.1.0.sql` is the dump of such a database: its migrations applied, an
operator, and one row of each kind.
"""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from django.apps import apps

ROOT = Path(__file__).parents[2]
DUMP = ROOT / "tests/data/operators-0.1.0.sql"
TABLES = "SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
RIGHTS = """
    SELECT g.name, c.app_label, c.model, p.codename
    FROM auth_group g
    JOIN auth_group_permissions gp ON gp.group_id = g.id
    JOIN auth_permission p ON p.id = gp.permission_id
    JOIN django_content_type c ON c.id = p.content_type_id
"""
READ_BACK = """
from django.contrib.auth.models import User
from console.models import ApiSubject, RegisteredToken, Revocation

print(ApiSubject.objects.get().rate_per_s, Revocation.objects.get().value)
print(RegisteredToken.objects.get().symbol)
olga = User.objects.get(username="olga")
print(olga.has_perm("api.change_registeredtoken"), olga.has_perm("aggregator.view_deadletter"))
"""


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Return the file of a database that 0.1.0 filled."""
    file = tmp_path / "db.sqlite3"
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript(DUMP.read_text())
    return file


def manage(database: Path, *arguments: str) -> str:
    """Run a command and return its output."""
    done = subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "DATABASE_FILE": str(database)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(database: Path, query: str) -> set[tuple[str, ...]]:
    """Return the rows of the query."""
    with closing(sqlite3.connect(database)) as connection:
        return set(connection.execute(query))


def test_tables_and_rights_of_0_1_0_are_used_as_they_are(database: Path) -> None:
    tables, rights = rows(database, TABLES), rows(database, RIGHTS)
    assert len(tables) > 10
    assert len(rights) > 10

    manage(database, "migrate", "--verbosity=0")

    made = dict(rows(database, TABLES))
    # A token id may be longer now.
    assert {name for name, sql in tables if made.get(name) != sql} <= {"api_registeredtoken"}
    assert made.keys() >= dict(tables).keys()
    assert rows(database, RIGHTS) >= rights
    assert "No changes detected" in manage(database, "makemigrations", "--check", "--dry-run")


def test_rows_of_0_1_0_are_read_back(database: Path) -> None:
    manage(database, "migrate", "--verbosity=0")
    printed = manage(database, "shell", "--no-imports", "-c", READ_BACK).split("\n")
    assert printed[:3] == ["5 gone", "WETH", "True True"]


def test_the_console_is_the_one_app_with_models_of_ours() -> None:
    ours = [each for each in apps.get_models() if each._meta.app_label in {"aggregator", "api"}]
    assert len(ours) > 5
    assert {each.__module__.partition(".")[0] for each in ours} == {"console"}
    labels = {each._meta.app_label for each in apps.get_models() if each not in ours}
    assert labels <= {"admin", "auth", "contenttypes", "sessions"}
