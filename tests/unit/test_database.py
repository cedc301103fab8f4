"""The database of the admin: SQLite by default, PostgreSQL with DATABASE_URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from aggregator.runtime.config import load
from aggregator.runtime.errors import ConfigError
from swapsite.database import databases


def test_sqlite_by_default(tmp_path: Path) -> None:
    found = databases(load({}), tmp_path / "db.sqlite3")["default"]
    assert found["ENGINE"] == "django.db.backends.sqlite3"
    assert found["NAME"] == tmp_path / "db.sqlite3"
    named = databases(load({"DATABASE_FILE": "/data/admin.db"}), tmp_path)["default"]
    assert named["NAME"] == Path("/data/admin.db")


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_postgresql_by_its_address(scheme: str, tmp_path: Path) -> None:
    url = f"{scheme}://sw%40ps:p%2Fw%3A%25@db.example:6432/ad%20min?sslmode=require"
    found = databases(load({"DATABASE_URL": url}), tmp_path)["default"]
    wanted = {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": "ad min",
        "USER": "sw@ps",
        "PASSWORD": "p/w:%",
        "HOST": "db.example",
        "PORT": "6432",
    }
    assert {name: found[name] for name in wanted} == wanted
    assert found["OPTIONS"]["sslmode"] == "require"


def test_absent_parts_are_left_to_libpq(tmp_path: Path) -> None:
    found = databases(load({"DATABASE_URL": "postgresql://db/admin"}), tmp_path)["default"]
    assert (found["USER"], found["PASSWORD"], found["PORT"]) == ("", "", "")


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"DATABASE_URL": "mysql://u:s3cret@h/n"}, "give a URL such as postgresql://"),
        ({"DATABASE_URL": "postgresql://u:s3cret@h:99999/n"}, "give a URL such as postgresql://"),
        ({"DATABASE_URL": "postgresql://u:s3cret@h"}, "give the database's name"),
        ({"DATABASE_URL": "postgresql://u:s3cret@h/"}, "give the database's name"),
        ({"DATABASE_URL": "postgresql://h/n", "DATABASE_FILE": "x"}, "not both"),
    ],
)
def test_a_bad_address_is_named_without_its_password(environ: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(environ)
    assert said in str(caught.value)
    assert "DATABASE_URL" in str(caught.value)
    assert "s3cret" not in str(caught.value)
