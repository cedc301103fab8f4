"""The admin's login and forms at a web node, used by a browser and by an attacker."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

PASSWORD = "correct horse battery"
LOGIN = "/admin/login/"
# Full-width letters, which Django's form normalizes to plain ones.
_WIDE = {code: code + 0xFEE0 for code in range(ord("!"), ord("~") + 1)}
_TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    directory: Path = tmp_path_factory.mktemp("admin")
    with Nodes(directory, LOGIN_RATE="6/1h", TRUSTED_PROXIES="127.0.0.1") as running:
        running.shell(
            "from django.contrib.auth.models import User\n"
            f"User.objects.create_superuser('root', password={PASSWORD!r})\n"
            f"User.objects.create_user('clerk', password={PASSWORD!r}, is_staff=True)\n"
        )
        yield running


@pytest.fixture(scope="module")
def node(nodes: Nodes) -> Node:
    return nodes.web()


_open: list[httpx.Client] = []


@pytest.fixture(autouse=True)
def _close_browsers() -> Iterator[None]:
    yield
    while _open:
        _open.pop().close()


class Browser:
    """A browser: cookies, forms and its own address."""

    def __init__(self, node: Node, address: str) -> None:
        self.client = httpx.Client(
            base_url=node.url, headers={"X-Forwarded-For": address}, timeout=20
        )
        _open.append(self.client)

    def form(self, path: str, **fields: Any) -> httpx.Response:
        """Fill in the page's form and post it."""
        found = _TOKEN.search(self.client.get(path).text)
        assert found is not None, "the page has no form"
        data = {"csrfmiddlewaretoken": found[1], **fields}
        return self.client.post(path, data=data, headers={"Referer": str(self.client.base_url)})

    def login(self, name: str = "root", password: str = PASSWORD) -> httpx.Response:
        return self.form(LOGIN, username=name, password=password)


def test_an_operator_revokes_by_the_admin_and_it_is_logged(nodes: Nodes, node: Node) -> None:
    browser = Browser(node, "198.51.100.1")
    answer = browser.login()
    assert (answer.status_code, answer.headers["Location"]) == (302, "/accounts/profile/")
    token = nodes.token("mallory")
    assert node.get(token).status_code == 200
    added = browser.form(
        "/admin/api/revocation/add/", kind="sub", value="mallory", reason="test",
        expires_at_0="", expires_at_1="",
    )  # fmt: skip
    assert added.status_code == 302, added.text
    wait_until(lambda: node.refuses(token), 2, "mallory is out")
    history = browser.client.get("/admin/").text
    assert "sub mallory" in history
    assert '"event": "admin_login"' in node.process.log.read_text()


def test_an_action_without_the_form_is_refused(nodes: Nodes, node: Node) -> None:
    browser = Browser(node, "198.51.100.2")
    browser.login()
    nodes.shell(
        "from console.models.access import ApiSubject\n"
        "ApiSubject.objects.create(subject='victim', rate_per_s=1, burst=3)\n"
    )
    row = nodes.shell(
        "from console.models.access import ApiSubject; print(ApiSubject.objects.get().pk)"
    )
    action = {"action": "revoke", "_selected_action": row.strip()}
    page = "/admin/api/apisubject/"
    forged = browser.client.post(page, data=action, headers={"Origin": "https://evil.example"})
    assert forged.status_code == 403
    assert browser.client.post(page, data=action).status_code == 403, "no token"
    stale = browser.client.post(page, data=action | {"csrfmiddlewaretoken": "a" * 64})
    assert stale.status_code == 403
    assert nodes.shell("from console.models.access import Revocation as R\nprint('victim' in R.objects.values_list('value', flat=True))\n").strip() == "False"  # fmt: skip # noqa: E501
    done = browser.form(page, **action)
    assert done.status_code == 302
    assert nodes.shell("from console.models.access import Revocation as R\nprint('victim' in R.objects.values_list('value', flat=True))\n").strip() == "True"  # fmt: skip # noqa: E501


def test_an_action_by_get_does_nothing(nodes: Nodes, node: Node) -> None:
    browser = Browser(node, "198.51.100.3")
    browser.login()
    browser.client.get("/admin/api/revocation/add/?kind=sub&value=by-get")
    found = nodes.shell("from console.models.access import Revocation as R\nprint(R.objects.filter(value='by-get').count())\n")  # fmt: skip # noqa: E501
    assert found.strip() == "0"


def test_staff_without_a_permission_sees_and_changes_nothing(node: Node) -> None:
    browser = Browser(node, "198.51.100.4")
    assert browser.login("clerk").status_code == 302
    for path in ("/admin/api/revocation/", "/admin/api/apisubject/add/"):
        assert browser.client.get(path).status_code == 403
    stranger = Browser(node, "198.51.100.5")
    assert stranger.client.get("/admin/api/revocation/").status_code == 302


def test_guessing_is_limited_by_address_and_logged(node: Node) -> None:
    guesser = Browser(node, "198.51.100.66")
    codes = [guesser.login(f"user{number}", "guess").status_code for number in range(8)]
    assert codes == [200] * 6 + [429] * 2
    last = guesser.login()
    assert last.status_code == 429, "the right password does not help"
    assert 0 < int(last.headers["Retry-After"]) <= 3_600
    assert Browser(node, "198.51.100.67").login().status_code == 302, "others may"
    log = node.process.log.read_text()
    assert '"event": "admin_login_failed"' in log and '"event": "admin_login_limited"' in log
    assert "198.51.100.66" in log
    assert "guess" not in log.replace("guesser", "") and PASSWORD not in log


def test_guessing_one_name_from_many_addresses_is_limited(node: Node) -> None:
    codes = []
    for number in range(33):
        browser = Browser(node, f"203.0.113.{number}")
        codes.append(browser.login("Boss" if number % 2 else "boss", "wrong").status_code)
    assert codes[:30] == [200] * 30
    assert codes[30:] == [429] * 3


class Guesser:
    """Login attempts from one address with one form."""

    def __init__(self, node: Node, address: str) -> None:
        self._browser = Browser(node, address)
        found = _TOKEN.search(self._browser.client.get(LOGIN).text)
        assert found is not None
        self._token = found[1]

    def tries(self, name: str, count: int, password: str = "wrong") -> list[int]:
        """Return the status of each attempt."""
        client = self._browser.client
        fields = {"csrfmiddlewaretoken": self._token, "username": name, "password": password}
        sent = {"Referer": str(client.base_url)}
        return [client.post(LOGIN, data=fields, headers=sent).status_code for _ in range(count)]


def _quick(nodes: Nodes, *names: str) -> None:
    """Operators with a fast password hash, because these tests make hundreds of attempts."""
    nodes.shell(
        "from django.contrib.auth.hashers import PBKDF2SHA1PasswordHasher\n"
        "from django.contrib.auth.models import User\n"
        f"quick = PBKDF2SHA1PasswordHasher().encode({PASSWORD!r}, 'salt', 1)\n"
        "said = dict(password=quick, is_staff=True, is_superuser=True)\n"
        f"for name in {names!r}:\n"
        "    User.objects.update_or_create(username=name, defaults=said)\n"
    )


@pytest.fixture(scope="module")
def ten_an_hour(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    directory: Path = tmp_path_factory.mktemp("door")
    with Nodes(directory, LOGIN_RATE="10/1h", TRUSTED_PROXIES="127.0.0.1") as running:
        _quick(running, "anna", "ida", "olga")
        yield running


@pytest.fixture(scope="module")
def door(ten_an_hour: Nodes) -> Node:
    return ten_an_hour.web("door")


@pytest.mark.timeout(300)
def test_one_host_cannot_lock_an_operator_out(door: Node) -> None:
    codes = Guesser(door, "198.51.100.20").tries("anna", 60)
    assert codes == [200] * 10 + [429] * 50
    assert Browser(door, "198.51.100.21").login("anna").status_code == 302


@pytest.mark.timeout(300)
def test_spellings_of_a_name_share_its_limit(ten_an_hour: Nodes, door: Node) -> None:
    """Six spellings of one user, from 36 addresses: 50 of 324 attempts are checked."""
    known = Browser(door, "198.51.100.30")
    assert known.login("olga").status_code == 302
    ten_an_hour.run("manage.py", "unlock", "olga")
    _quick(ten_an_hour, "olga")
    wide = [name.translate(_WIDE) for name in ("o", "l", "g", "a", "olga")]
    spellings = [
        "olga",
        f"{wide[0]}lga",
        f"o{wide[1]}ga",
        f"ol{wide[2]}a",
        f"olg{wide[3]}",
        wide[4],
    ]
    codes = [
        code
        for number in range(36)
        for code in Guesser(door, f"203.0.113.{number}").tries(spellings[number % 6], 9)
    ]
    assert (codes.count(200), codes.count(429)) == (50, 274)
    assert Guesser(door, "198.51.100.33").tries("OLGA", 1) == [429], "capitals are one name too"
    stranger = Guesser(door, "198.51.100.31")
    assert stranger.tries("olga", 1, PASSWORD) == [429]
    # Her own browser is not locked out, not even at another address.
    known.client.headers["X-Forwarded-For"] = "198.51.100.32"
    known.client.cookies.delete("session")
    assert known.login("olga", "mistyped").status_code == 200
    assert known.login(wide[4]).status_code == 302
    ten_an_hour.run("manage.py", "unlock", "OLGA")
    assert stranger.tries("olga", 1, PASSWORD) == [302]


@pytest.mark.timeout(300)
def test_a_device_cookie_is_limited_too_and_cannot_be_made(ten_an_hour: Nodes, door: Node) -> None:
    known = Browser(door, "198.51.100.40")
    assert known.login("ida").status_code == 302
    _quick(ten_an_hour, "ida")
    cookie = known.client.cookies["device"]
    codes = []
    for number in range(12):
        thief = Browser(door, f"203.0.113.{100 + number}")
        thief.client.cookies.set("device", cookie)
        codes.append(thief.login("ida", "wrong").status_code)
    assert codes == [200] * 10 + [429] * 2
    for number in range(5):
        assert Guesser(door, f"203.0.113.{150 + number}").tries("ida", 10)[0] == 200
    forger = Browser(door, "198.51.100.41")
    forger.client.cookies.set("device", cookie[:-4] + "AAAA")
    assert forger.login("ida").status_code == 429


def test_the_login_page_and_its_cookies(node: Node) -> None:
    browser = Browser(node, "198.51.100.6")
    page = browser.client.get(LOGIN)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
    assert "unsafe-inline" not in policy and "unsafe-eval" not in policy
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Referrer-Policy"] == "same-origin"
    assert not re.search(r"<script(?![^>]*\bsrc=)(?![^>]*nonce=)", page.text), "an inline script"
    browser.login()
    cookies = {each.name: each for each in browser.client.cookies.jar}
    assert set(cookies) == {"session", "csrf", "device"}
    for cookie in cookies.values():
        assert cookie.has_nonstandard_attr("HttpOnly")
        assert cookie.get_nonstandard_attr("SameSite") == "Strict"


def test_with_tls_cookies_are_secure_and_http_redirects(nodes: Nodes) -> None:
    node = nodes.web("tls", HTTPS_ONLY="1")
    plain = httpx.get(f"{node.url}{LOGIN}")
    assert plain.status_code == 301 and plain.headers["Location"].startswith("https://")
    secure = httpx.get(f"{node.url}{LOGIN}", headers={"X-Forwarded-Proto": "https"})
    assert secure.status_code == 200
    assert "max-age=31536000" in secure.headers["Strict-Transport-Security"]
    cookie = secure.headers["Set-Cookie"]
    assert cookie.startswith("__Host-csrf=") and "Secure" in cookie and "HttpOnly" in cookie
    untrusting = nodes.web("untrusting", HTTPS_ONLY="1", TRUSTED_PROXIES="10.0.0.0/8")
    forged = httpx.get(f"{untrusting.url}{LOGIN}", headers={"X-Forwarded-Proto": "https"})
    assert forged.status_code == 301, "anybody can send that header"


def test_the_api_ignores_cookies_and_is_not_a_page(nodes: Nodes, node: Node) -> None:
    browser = Browser(node, "198.51.100.7")
    browser.login()
    assert browser.client.get("/api/status").status_code == 401, "a session is no token"
    answer = node.get(nodes.token())
    assert answer.headers["Content-Security-Policy"] == (
        "default-src 'none'; frame-ancestors 'none'"
    )
    assert "Set-Cookie" not in answer.headers
    assert "Content-Length" in answer.headers


def test_the_login_is_counted_without_redis_too(nodes: Nodes, tmp_path: Path) -> None:
    with Nodes(tmp_path, LOGIN_RATE="3/1h") as alone:
        node = alone.web()
        alone.engines.redis.kill()
        guesser = Browser(node, "198.51.100.8")
        codes = [guesser.login("root", "wrong").status_code for _ in range(5)]
        assert codes == [200] * 3 + [429] * 2


def test_check_deploy_is_clean_in_production(nodes: Nodes) -> None:
    secret = nodes.directory / "secret"
    secret.write_text("s3cr3t-" * 10 + "0123456789abcdefghij\n")
    said = nodes.run(
        "manage.py", "check", "--deploy", "--fail-level", "WARNING",
        DJANGO_SECRET_KEY="", DJANGO_SECRET_KEY_FILE=str(secret), HTTPS_ONLY="1",
    )  # fmt: skip
    assert "no issues (0 silenced)" in said


def test_the_list_and_the_form_of_subjects_say_what_is_in_force(node: Node) -> None:
    browser = Browser(node, "198.51.100.60")
    browser.login()
    page = "/admin/api/apisubject/"
    saved = browser.form(f"{page}add/", subject="big", burst="5000")
    assert saved.status_code == 302, saved.text
    said = "capped at 1,000 by the address&#x27;s bucket unless RATE_BURST_IP is raised"
    listed = browser.client.get(f"{page}?q=big").text
    assert said in listed
    [number] = set(re.findall(rf"{page}(\d+)/change/", listed))
    assert said in browser.client.get(f"{page}{number}/change/").text
