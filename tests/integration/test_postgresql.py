"""The admin's tables in PostgreSQL, by DATABASE_URL: migrations, pages, roles, revocations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.integration.admin_site import PASSWORD, Browser
from tests.support.postgres import postgresql
from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes

# The first test starts every engine of the module, which is slow on a busy machine.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

TOKENS, REVOCATIONS = "/admin/api/registeredtoken/", "/admin/api/revocation/"
PAGES = (
    "/admin/", TOKENS, f"{TOKENS}add/", f"{TOKENS}import/", f"{TOKENS}export/", REVOCATIONS,
    "/admin/api/apisubject/", "/admin/api/pipeline/", "/admin/auth/user/", "/admin/auth/group/",
    "/admin/admin/logentry/",
)  # fmt: skip


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql() as url:
        yield url


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory, database: str) -> Iterator[Nodes]:
    directory: Path = tmp_path_factory.mktemp("postgresql")
    settings = {"DATABASE_URL": database, "DATABASE_FILE": ""}
    with Nodes(directory, TRUSTED_PROXIES="127.0.0.1", **settings) as running:
        yield running


@pytest.fixture(scope="module")
def node(nodes: Nodes) -> Node:
    nodes.run(
        "manage.py", "createsuperuser", "--noinput", "--username", "root", "--email", "a@b.example",
        DJANGO_SUPERUSER_PASSWORD=PASSWORD,
    )  # fmt: skip
    nodes.shell(
        "from django.contrib.auth.models import User, Group\n"
        "for role in ('viewer', 'operator', 'admin'):\n"
        f"    made = User.objects.create_user(role, password={PASSWORD!r}, is_staff=True)\n"
        "    made.groups.add(Group.objects.get(name=role))\n"
    )
    return nodes.web()


def test_the_migrations_make_every_table_and_can_run_again(
    nodes: Nodes, node: Node, database: str
) -> None:
    with psycopg.connect(database) as connection:
        found = connection.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        ).fetchall()
    tables = {name for (name,) in found}
    assert {"auth_user", "django_session", "django_admin_log", "api_registeredtoken"} <= tables
    assert "[ ]" not in nodes.run("manage.py", "showmigrations")
    assert "No changes detected" in nodes.run("manage.py", "makemigrations", "--check", "--dry-run")
    nodes.run("manage.py", "migrate", "-v", "0")
    assert not (nodes.directory / "db.sqlite3").exists()


def test_every_page_of_the_admin(node: Node) -> None:
    with Browser(node, "198.51.100.1") as root:
        answers = {path: root.get(path).status_code for path in PAGES}
        assert answers == dict.fromkeys(PAGES, 200)
        assert root.get(f"{TOKENS}?q=x&verified__exact=1&o=-1").status_code == 200


@pytest.mark.parametrize(
    ("role", "listed", "added", "users"),
    [("viewer", 200, 403, 403), ("operator", 200, 200, 403), ("admin", 200, 200, 200)],
)
def test_roles(node: Node, role: str, listed: int, added: int, users: int) -> None:
    with Browser(node, "198.51.100.2", role) as browser:
        assert browser.get(TOKENS).status_code == listed
        assert browser.get(f"{TOKENS}add/").status_code == added
        assert browser.get("/admin/auth/user/").status_code == users


def test_edits_are_kept_logged_searched_and_exported(node: Node) -> None:
    with Browser(node, "198.51.100.3", "operator") as browser:
        table = "token_id,symbol,name\nethereum:0xaa,AYE,Aye \u00fc\nbase:0xbb,BEE,Bee\n"
        upload = {"file": ("tokens.csv", table.encode(), "text/csv")}
        assert browser.form(f"{TOKENS}import/", files=upload).status_code == 302
        found = browser.get(f"{TOKENS}?q=AYE").text
        assert "ethereum:0xaa" in found and "base:0xbb" not in found
        key = found.split('name="_selected_action" value="')[1].split('"')[0]
        done = browser.form(TOKENS, action="mark_spam", _selected_action=key)
        assert done.status_code == 302
        assert "by an action: spam = True" in browser.get(f"{TOKENS}{key}/history/").text
        exported = browser.get(f"{TOKENS}export/").text
        assert "ethereum:0xaa,AYE,Aye \u00fc," in exported and "base:0xbb,BEE,Bee" in exported


def test_a_revocation_reaches_the_node(nodes: Nodes, node: Node) -> None:
    token = nodes.token("mallory")
    assert node.get(token).status_code == 200
    with Browser(node, "198.51.100.4", "operator") as browser:
        added = browser.form(
            f"{REVOCATIONS}add/", kind="sub", value="mallory", reason="", expires_at_0="",
            expires_at_1="",
        )  # fmt: skip
        assert added.status_code == 302, added.text
    wait_until(lambda: node.refuses(token), 2, "mallory is out")
