"""What each role may do at each address of the admin, and what the pages show."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from aggregator.contracts.records import LogRecord
from aggregator.dead_letters.producer import DeadLetters, Rejected
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from aggregator.runtime.errors import BadMessage
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.integration.admin_site import PASSWORD, Browser, owner_in_a_thread
from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes
from tests.unit.api.samples import Owner

# The first test starts every engine of the module, which is slow on a busy machine.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

ROLES = ("viewer", "operator", "admin", "clerk")
SCRIPT = '<script>alert("x")</script>'
TOKENS, LETTERS = "/admin/api/registeredtoken/", "/admin/aggregator/deadletter/"
SUBJECTS, REVOCATIONS = "/admin/api/apisubject/", "/admin/api/revocation/"
USERS, GROUPS = "/admin/auth/user/", "/admin/auth/group/"
PIPELINE = "/admin/api/pipeline/"


class Site:
    """A node with a row of each kind, and a browser for each role."""

    def __init__(self, nodes: Nodes, node: Node, closing: ExitStack) -> None:
        self.nodes = nodes
        self.node = node
        self.as_role = {
            role: closing.enter_context(Browser(node, f"198.51.100.{number}", role))
            for number, role in enumerate((*ROLES, "root"), 1)
        }


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Site]:
    directory: Path = tmp_path_factory.mktemp("roles")
    topic = f"swaps-{uuid4().hex[:8]}"
    kafka = {**stack.env(), "KAFKA_TOPIC": topic, "KAFKA_DLQ_TOPIC": f"{topic}.dlq"}
    ensure_topics(load(kafka))
    put_aside(kafka["KAFKA_BOOTSTRAP"], topic, SCRIPT.encode())
    owner = Owner()
    owner.trade("ethereum:0xaa")
    with ExitStack() as closing:
        engines = closing.enter_context(Stack(directory / "nats", only=(Nats,)))
        closing.enter_context(owner_in_a_thread(engines.nats.url, owner))
        settings = kafka | {"NATS_URL": engines.nats.url, "CLICKHOUSE_URL": ""}
        nodes = closing.enter_context(Nodes(directory, **settings, TRUSTED_PROXIES="127.0.0.1"))
        nodes.shell(
            "from django.contrib.auth.models import User, Group\n"
            "from console.models.access import *\n"
            f"User.objects.create_superuser('root', password={PASSWORD!r})\n"
            f"for role in {ROLES!r}:\n"
            f"    made = User.objects.create_user(role, password={PASSWORD!r}, is_staff=True)\n"
            "    made.groups.set(Group.objects.filter(name=role))\n"
            "RegisteredToken.objects.create(pk=1, token_id='ethereum:0xaa')\n"
            "ApiSubject.objects.create(pk=1, subject='someone')\n"
            "Revocation.objects.create(pk=1, kind='sub', value='mallory')\n"
        )
        yield Site(nodes, nodes.web(), closing)


def put_aside(bootstrap: str, topic: str, value: bytes) -> None:
    letters = DeadLetters(bootstrap, f"{topic}.dlq")
    error = BadMessage("not_json", "amount", f"why {SCRIPT}")
    letters.send([Rejected(topic, LogRecord(2, 41, 0, b"key", value), error)])
    letters.flush(20)
    letters.close()


# A row: the address, and the statuses for viewer, operator, admin and staff without a role.
GET = [
    ("/admin/", 200, 200, 200, 200),
    (TOKENS, 200, 200, 200, 403),
    (f"{TOKENS}add/", 403, 200, 200, 403),
    (f"{TOKENS}1/change/", 200, 200, 200, 403),
    (f"{TOKENS}1/delete/", 403, 200, 200, 403),
    (f"{TOKENS}1/history/", 200, 200, 200, 403),
    (f"{TOKENS}import/", 403, 200, 200, 403),
    (f"{TOKENS}export/", 200, 200, 200, 403),
    (f"{TOKENS}live/?id=ethereum:0xaa", 200, 200, 200, 403),
    (LETTERS, 200, 200, 200, 403),
    (f"{LETTERS}0:0/", 200, 200, 200, 403),
    (f"{LETTERS}replay/", 405, 405, 405, 405),
    (PIPELINE, 200, 200, 200, 403),
    (f"{PIPELINE}add/", 404, 404, 404, 404),
    ("/admin/aggregator/clickhousehealth/", 200, 200, 200, 403),
    (SUBJECTS, 200, 200, 200, 403),
    (f"{SUBJECTS}add/", 403, 200, 200, 403),
    (f"{SUBJECTS}1/change/", 200, 200, 200, 403),
    (f"{SUBJECTS}1/delete/", 403, 403, 200, 403),
    (REVOCATIONS, 200, 200, 200, 403),
    (f"{REVOCATIONS}add/", 403, 200, 200, 403),
    (f"{REVOCATIONS}1/delete/", 403, 200, 200, 403),
    ("/admin/admin/logentry/", 403, 200, 200, 403),
    ("/admin/admin/logentry/add/", 403, 403, 403, 403),
    (USERS, 403, 403, 200, 403),
    (f"{USERS}add/", 403, 403, 200, 403),
    (f"{USERS}1/delete/", 403, 403, 403, 403),
    (f"{USERS}1/password/", 403, 403, 403, 403),
    (GROUPS, 403, 403, 200, 403),
    (f"{GROUPS}add/", 403, 403, 403, 403),
    (f"{GROUPS}1/delete/", 403, 403, 403, 403),
]
# Key 99 does not exist: a user who may act is redirected to the list, any other is refused.
POST = [
    (f"{TOKENS}add/", 403, 200, 200, 403),
    (f"{TOKENS}99/change/", 403, 302, 302, 403),
    (f"{TOKENS}import/", 403, 200, 200, 403),
    (f"{TOKENS}99/delete/", 403, 302, 302, 403),
    (f"{LETTERS}replay/", 403, 302, 302, 403),
    (f"{SUBJECTS}add/", 403, 200, 200, 403),
    (f"{SUBJECTS}99/change/", 403, 302, 302, 403),
    (f"{SUBJECTS}99/delete/", 403, 403, 302, 403),
    (f"{REVOCATIONS}add/", 403, 200, 200, 403),
    (f"{REVOCATIONS}99/delete/", 403, 302, 302, 403),
    (f"{USERS}add/", 403, 403, 200, 403),
    (f"{USERS}1/change/", 403, 403, 403, 403),
    (f"{USERS}1/delete/", 403, 403, 403, 403),
    (f"{USERS}1/password/", 403, 403, 403, 403),
    (f"{GROUPS}1/change/", 403, 403, 403, 403),
    ("/admin/admin/logentry/1/delete/", 403, 403, 403, 403),
    (f"{PIPELINE}1/change/", 404, 404, 404, 404),
    ("/admin/aggregator/clickhousehealth/1/change/", 404, 404, 404, 404),
]


@pytest.mark.parametrize(("path", *ROLES), GET, ids=[row[0] for row in GET])
def test_who_may_look(
    site: Site, path: str, viewer: int, operator: int, admin: int, clerk: int
) -> None:
    expected = {"viewer": viewer, "operator": operator, "admin": admin, "clerk": clerk}
    got = {role: site.as_role[role].get(path).status_code for role in ROLES}
    assert got == expected
    root = site.as_role["root"].get(path).status_code
    assert root in {200, 405} or path in {f"{PIPELINE}add/", "/admin/admin/logentry/add/"}


@pytest.mark.parametrize(("path", *ROLES), POST, ids=[row[0] for row in POST])
def test_who_may_act(
    site: Site, path: str, viewer: int, operator: int, admin: int, clerk: int
) -> None:
    """An empty form: a user who may act gets a message about what is missing."""
    expected = {"viewer": viewer, "operator": operator, "admin": admin, "clerk": clerk}
    got = {}
    for role in ROLES:
        got[role] = site.as_role[role].form(path, page="/admin/").status_code
    assert got == expected


@pytest.mark.parametrize("path", sorted({row[0] for row in GET}))
def test_strangers_are_sent_to_the_login(site: Site, path: str) -> None:
    answer = httpx.get(f"{site.node.url}{path}")
    assert answer.status_code == 302
    assert answer.headers["Location"].startswith("/admin/login/")


def test_a_viewer_cannot_act_by_the_list(site: Site) -> None:
    for action in ("hide", "mark_spam", "delete_selected"):
        site.as_role["viewer"].form(TOKENS, action=action, _selected_action="1", post="yes")
    page = site.as_role["viewer"].get(f"{TOKENS}export/").text
    assert "ethereum:0xaa,,,,0,0,0," in page


def test_an_admin_makes_operators_but_no_superuser(site: Site) -> None:
    admin = site.as_role["admin"]
    made = admin.form(
        f"{USERS}add/", username="eve", usable_password="true", password1=PASSWORD,
        password2=PASSWORD,
    )  # fmt: skip
    assert made.status_code == 302, made.text
    change = made.headers["Location"]
    roles = re.findall(r'<option value="(\d+)"[^>]*>operator<', admin.get(change).text)
    answer = admin.form(
        change, username="eve", is_active="on", is_staff="on", is_superuser="on",
        groups=roles, user_permissions=["1", "2"], date_joined_0="2026-01-01",
        date_joined_1="00:00:00",
    )  # fmt: skip
    assert answer.status_code == 302, answer.text
    said = site.nodes.shell(
        "from django.contrib.auth.models import User\n"
        "eve = User.objects.get(username='eve')\n"
        "print(eve.is_superuser, eve.user_permissions.count(), [g.name for g in eve.groups.all()])"
    )
    assert said.strip() == "False 0 ['operator']"
    root = admin.form(USERS, action="delete_selected", _selected_action="1", post="yes")
    assert root.status_code in {200, 403}
    assert site.as_role["root"].get("/admin/").status_code == 200, "the superuser is still there"


def test_createsuperuser_makes_one_who_may_all(site: Site) -> None:
    site.nodes.run(
        "manage.py", "createsuperuser", "--noinput", "--username", "made", "--email", "a@b.example",
        DJANGO_SUPERUSER_PASSWORD=PASSWORD,
    )  # fmt: skip
    with Browser(site.node, "198.51.100.40", "made") as browser:
        assert browser.get(f"{GROUPS}add/").status_code == 200


def test_dead_letters_are_shown_and_replayed_and_logged(site: Site) -> None:
    browser = site.as_role["operator"]
    page = browser.get(LETTERS).text
    assert "0:0" in page and "not_json" in page and "41" in page
    assert SCRIPT not in page and "&lt;script&gt;" in page
    assert "0:0" not in browser.get(f"{LETTERS}?reason=rule").text
    letter = browser.get(f"{LETTERS}0:0/").text
    assert SCRIPT not in letter and "not yet" in letter and "the value is not one JSON" in letter
    for nowhere in ("0:999", "7:0", "nonsense"):
        assert browser.get(f"{LETTERS}{nowhere}/").status_code == 404
    assert browser.get(f"{LETTERS}?before=nonsense").status_code == 404
    assert "refused again: not_json" in page and "refused again: not_json" in letter
    refused = browser.form(f"{LETTERS}replay/", page=LETTERS, position=["0:0"])
    assert refused.headers["Location"] == LETTERS
    page = browser.get(LETTERS).text
    assert "0 letters replayed to" in page and "1 skipped" in page and SCRIPT not in page
    assert "not yet" in browser.get(f"{LETTERS}0:0/").text
    done = browser.form(f"{LETTERS}replay/", page=LETTERS, position=["0:0", "0:0"], force="on")
    assert done.headers["Location"] == LETTERS
    assert "1 letters replayed to" in browser.get(LETTERS).text
    assert "not yet" not in browser.get(f"{LETTERS}0:0/").text
    assert "dead letter 0:0" in browser.get("/admin/admin/logentry/").text
    assert '"event": "dead_letter_replayed"' in site.node.process.log.read_text()
    none = browser.form(f"{LETTERS}replay/", page=LETTERS)
    assert none.status_code == 302
    assert "Select 1 to 500 letters" in browser.get(LETTERS).text


def test_the_pipeline_page(site: Site) -> None:
    browser = site.as_role["viewer"]
    wait_until(lambda: "live" in browser.get(PIPELINE).text, 5, "the owner's heartbeat")
    page = browser.get(PIPELINE).text
    for said in ("Watermark age", "Snapshot age", "Dead letters", "No archiver reports"):
        assert said in page
    assert "no-store" in browser.get(PIPELINE).headers["Cache-Control"]


@pytest.mark.parametrize(
    "path",
    ["/admin/", TOKENS, f"{TOKENS}add/", f"{TOKENS}import/", LETTERS, f"{LETTERS}0:0/", PIPELINE],
)  # fmt: skip
def test_pages_keep_to_their_policy(site: Site, path: str) -> None:
    answer = site.as_role["root"].get(path)
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*application/json)", answer.text)
    assert not re.search(r"<[^>]+\s(style|on[a-z]+)=", answer.text), "an inline style or handler"
    assert not re.search(r'(src|href)="(https?:)?//', answer.text), "something from elsewhere"
    for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', answer.text):
        assert site.as_role["root"].get(asset).status_code == 200, asset


def test_dead_letters_without_kafka(site: Site) -> None:
    node = site.nodes.web("no-kafka", KAFKA_BOOTSTRAP=f"127.0.0.1:{free_port()}")
    with Browser(node, "198.51.100.41", "viewer") as browser:
        answer = browser.get(LETTERS)
        assert answer.status_code == 503
        assert "KAFKA_BOOTSTRAP" in answer.text
