"""An operator's edit of a token reaches every node, board and socket within two seconds."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.integration.admin_site import PASSWORD, Browser, Socket, owner_in_a_thread
from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes
from tests.unit.api.samples import Owner

# The first test starts every engine of the module, which is slow on a busy machine.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

WITHIN_S = 2.0
LIST = "/admin/api/registeredtoken/"
ADD = f"{LIST}add/"
A, B, IBC = "ethereum:0xaa", "ethereum:0xbb", "cosmos:ibc/27394FB092D2"
_ROW = re.compile(r'name="_selected_action" value="(\d+)".*?<a href="[^"]+">([^<]+)</a>', re.S)
SCOPE = "stats:read history:read ops:read ws:connect"
_addresses = iter(f"198.51.100.{number}" for number in range(1, 250))


class Running:
    """Two nodes, an owner of three tokens, and the operators' accounts."""

    def __init__(self, nodes: Nodes, owner: Owner, publish: Callable[..., None]) -> None:
        self.nodes = nodes
        self.owner = owner
        self.publish = publish
        self.pair = [nodes.web("one"), nodes.web("two")]
        self.token = nodes.token(scope=SCOPE)
        self.root = Browser(self.pair[0], next(_addresses))
        for node in self.pair:
            wait_until(lambda node=node: self.stats(node, A) is not None, 10, "hydration")  # type: ignore[misc]

    def flags(self, node: Node, token_id: str) -> list[str] | None:
        row = self.stats(node, token_id)
        return None if row is None else row["flags"]

    def keys(self) -> dict[str, str]:
        """Return the registered tokens' keys, by token id."""
        return {token_id: key for key, token_id in _ROW.findall(self.root.get(LIST).text)}

    def key(self, token_id: str) -> str:
        return self.keys()[token_id]

    def forget_all(self) -> None:
        """Delete every token of the registry, by the admin's action."""
        if keys := list(self.keys().values()):
            chosen = {"action": "delete_selected", "_selected_action": keys, "post": "yes"}
            assert self.root.form(LIST, **chosen).status_code == 302
        self.everywhere(lambda node: self.listed(node) == {A, B, IBC}, "all are shown")
        for token_id in (A, B, IBC):
            self.everywhere(
                lambda node, token_id=token_id: self.flags(node, token_id) == [],  # type: ignore[misc]
                "no flags",
            )

    def browser(self, name: str = "root") -> Browser:
        return Browser(self.pair[0], next(_addresses), name)

    def stats(self, node: Node, token_id: str) -> dict[str, Any] | None:
        answer = node.get(self.token, f"/api/tokens/{token_id}/stats")
        body: dict[str, Any] = answer.json()
        if answer.status_code == 200:
            return body
        assert body["code"] in {"token_not_found", "board_not_ready"}, body
        return None

    def listed(self, node: Node) -> set[str]:
        tokens = node.get(self.token, "/api/overview?limit=500").json()["tokens"]
        return {each["token_id"] for each in tokens}

    def everywhere(self, holds: Callable[[Node], bool], what: str) -> float:
        begun = time.monotonic()
        wait_until(lambda: all(holds(node) for node in self.pair), WITHIN_S, what)
        return time.monotonic() - begun


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory: Path = tmp_path_factory.mktemp("registry")
    owner = Owner()
    for token_id in (A, B, IBC):
        owner.trade(token_id)
    with (
        Stack(directory / "nats", only=(Nats,)) as engines,
        owner_in_a_thread(engines.nats.url, owner) as publish,
        Nodes(
            directory, NATS_URL=engines.nats.url, TRUSTED_PROXIES="127.0.0.1", RATE_LIMIT="1000",
            RATE_BURST="10000", RATE_BURST_IP="10000",
        ) as nodes,
    ):  # fmt: skip
        nodes.env["NATS_URL"] = engines.nats.url
        nodes.shell(
            "from django.contrib.auth.models import User, Group\n"
            f"User.objects.create_superuser('root', password={PASSWORD!r})\n"
            "for role in ('viewer', 'operator', 'admin'):\n"
            f"    made = User.objects.create_user(role, password={PASSWORD!r}, is_staff=True)\n"
            "    made.groups.add(Group.objects.get(name=role))\n"
        )
        made = Running(nodes, owner, publish)
        with made.root:
            yield made


@pytest.fixture(autouse=True)
def _nothing_registered(running: Running) -> None:
    running.forget_all()


def add(browser: Browser, token_id: str, **fields: Any) -> None:
    answer = browser.form(ADD, token_id=token_id, **fields)
    assert answer.status_code == 302, answer.text


def test_symbol_name_and_flags_reach_boards_and_sockets(running: Running) -> None:
    with nullcontext(running.root) as browser, Socket(running.pair[1], running.token) as socket:
        socket.send(method="subscribe", channel="token_stats", tokens=[A])
        assert socket.next(type="snapshot")["data"]["flags"] == []
        add(browser, A, symbol="AYE", name="Aye Token", decimals="6", verified="on")
        said = {"symbol": "AYE", "name": "Aye Token", "decimals": 6, "flags": ["verified"]}
        update = socket.next(WITHIN_S, type="update", token=A)["data"]
        assert {name: update[name] for name in said} == said
        running.everywhere(
            lambda node: said.items() <= _hashable(running.stats(node, A)).items(), "the entry"
        )
        running.publish(running.owner.trade(A))
        traded = socket.next(type="update", token=A)["data"]
        assert (traded["symbol"], traded["seq"]) == ("AYE", running.owner.seq)
        log = browser.get("/admin/admin/logentry/").text
        assert A in log


def _hashable(row: dict[str, Any] | None) -> dict[str, Any]:
    return row or {}


def test_a_hidden_token_vanishes_everywhere_and_comes_back(running: Running) -> None:
    with nullcontext(running.root) as browser, Socket(running.pair[1], running.token) as socket:
        for channel, more in (("token_stats", {}), ("trades", {}), ("candles", {"interval": "1m"})):
            socket.send(method="subscribe", channel=channel, tokens=[B], **more)
            assert "error" not in socket.next(type="ack", channel=channel)
        socket.send(method="subscribe", channel="overview")
        assert B in {
            each["token_id"]
            for each in socket.next(channel="overview", type="snapshot")["data"]["tokens"]
        }
        add(browser, B, hidden="on")
        begun = time.monotonic()
        seen: dict[str, Any] = {}
        while len(seen) < 4:
            message = socket.next(WITHIN_S)
            channel = str(message.get("channel"))
            if channel == "overview":
                if B not in {each["token_id"] for each in message["data"]["tokens"]}:
                    seen[channel] = True
            elif message.get("error", {}).get("code") == "token_not_found":
                assert message["method"] == "unsubscribe"
                seen[channel] = True
            elif channel == "token_stats" and message["type"] == "update":
                assert message["data"] is None
                seen[channel] = True
            assert time.monotonic() - begun < WITHIN_S
        running.everywhere(
            lambda node: running.listed(node) == {A, IBC} and running.stats(node, B) is None,
            "hidden on both nodes",
        )
        query = urlencode({"ids": [A, B]}, doseq=True)
        batch = running.pair[0].get(running.token, f"/api/tokens/stats?{query}").json()
        assert batch["missing"] == [B]
        for channel, more in (("trades", {}), ("candles", {"interval": "1m"}), ("token_stats", {})):
            socket.send(method="subscribe", channel=channel, tokens=[B], **more)
            ack = socket.next(type="ack", channel=channel, method="subscribe")
            assert ack["error"]["code"] == "token_not_found"
        page = browser.get(LIST).text
        assert B in page and "1.5" in page, "operators still see its numbers"
        late = running.nodes.web("late")
        wait_until(lambda: running.listed(late) == {A, IBC}, 10, "a node that starts later")
        changed = browser.form(LIST, action="show", _selected_action=running.key(B))
        assert changed.status_code == 302
        running.everywhere(lambda node: running.stats(node, B) is not None, "shown again")
        assert socket.next(WITHIN_S, type="update", token=B)["data"]["token_id"] == B


def test_a_node_that_starts_without_redis_hides_what_the_database_hides(running: Running) -> None:
    add(running.root, B, hidden="on")
    running.everywhere(lambda node: running.listed(node) == {A, IBC}, "hidden")
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    alone = running.nodes.web("without-redis", redis=False, REDIS_URL=nowhere)
    seen: set[str] = set()

    def loaded() -> bool:
        answer = alone.get(running.token, "/api/overview?limit=500")
        if answer.status_code == 200:
            seen.update(each["token_id"] for each in answer.json()["tokens"])
        return {A, IBC} <= seen

    wait_until(loaded, 20, "a board")
    assert B not in seen
    assert running.stats(alone, B) is None


def test_an_edit_while_redis_is_down_arrives_when_it_is_back(tmp_path: Path) -> None:
    with Nodes(tmp_path) as nodes:
        node = nodes.web()
        nodes.engines.redis.kill()
        node.wait_degraded("registry is not followed")
        nodes.shell(
            "from console.models import RegisteredToken\n"
            "RegisteredToken.objects.create(token_id='a:1', hidden=True)\n"
        )
        nodes.engines.redis.start()
        wait_until(lambda: '"event": "registry_taken"' in node.process.log.read_text(), 20, "taken")
        wait_until(lambda: not any("registry" in each for each in node.degraded()), 5, "no fault")


def test_bulk_actions_are_one_change_and_are_logged(running: Running) -> None:
    with running.browser("operator") as browser:
        for token_id in (A, B, IBC):
            add(browser, token_id)
        keys = [running.key(each) for each in (A, B, IBC)]
        done = browser.form(LIST, action="mark_spam", _selected_action=keys)
        assert done.status_code == 302
        for token_id in (A, B, IBC):
            running.everywhere(
                lambda node, token_id=token_id: (
                    (running.stats(node, token_id) or {})["flags"] == ["spam"]
                ),  # type: ignore[misc]
                token_id,
            )
        browser.form(LIST, action="verify", _selected_action=keys[:1])
        running.everywhere(lambda node: running.flags(node, A) == ["verified"], A)
        history = browser.get(f"{LIST}{keys[0]}/history/").text
        assert "by an action: spam = True" in history
        assert "by an action: verified = True, spam = False" in history
        found = browser.get(f"{LIST}?q=27394").text
        assert IBC in found and A not in found
        assert B in browser.get(f"{LIST}?spam__exact=1").text
        assert A not in browser.get(f"{LIST}?spam__exact=1").text


def test_what_is_exported_can_be_imported(running: Running) -> None:
    with running.browser("operator") as browser:
        add(browser, A, symbol="=1+1", name='quote " and, comma', notes="two\nlines", decimals="18")
        add(browser, IBC, hidden="on", spam="on")
        exported = browser.get(f"{LIST}export/")
        assert exported.headers["Content-Type"] == "text/csv; charset=utf-8"
        assert "'=1+1" in exported.text, "no spreadsheet runs it"
        running.forget_all()
        upload = {"file": ("tokens.csv", exported.content, "text/csv")}
        answer = browser.form(f"{LIST}import/", files=upload)
        assert answer.status_code == 302, answer.text
        running.everywhere(lambda node: running.listed(node) == {A, B}, "imported")
        running.everywhere(lambda node: (running.stats(node, A) or {})["symbol"] == "=1+1", A)
        assert browser.get(f"{LIST}export/").content == exported.content


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"symbol\nX\n", "token_id among them"),
        (b"token_id,colour\na:1,red\n", "token_id among them"),
        (b"token_id,token_id\na:1,a:1\n", "token_id among them"),
        (b"token_id\nno-colon\n", "row 2: token_id"),
        (b"token_id,spam\na:1,maybe\n", "row 2: spam: give 1 or 0"),
        (b"token_id,decimals\na:1,-3\n", "row 2: decimals: give a whole number"),
        (b"token_id,decimals\na:1,99\n", "row 2: decimals"),
        (b"token_id,verified,spam\na:1,1,1\n", "verified or spam, not both"),
        (b"token_id\na:1\na:1\n", "row 3: token_id: twice"),
        (b"token_id,name\na:1\n", "not as many cells"),
        (b"token_id,name\na:1,b,c\n", "not as many cells"),
        (b"token_id,symbol\na:1," + b"x" * 33 + b"\n", "row 2: symbol"),
        (b"token_id\n\xff\n", "not UTF-8"),
        (b'token_id\n"a:1\n', "line"),
        (b"", "token_id among them"),
    ],
)  # fmt: skip
def test_a_bad_file_changes_nothing(running: Running, content: bytes, said: str) -> None:
    whole = {"file": ("tokens.csv", content or b"\n", "text/csv")}
    answer = running.root.form(f"{LIST}import/", files=whole)
    assert answer.status_code == 422, answer.text
    assert "Nothing was changed" in answer.text
    assert said in answer.text
    assert running.root.get(f"{LIST}export/").text.count("\n") == 1


def test_live_numbers_beside_the_rows(running: Running) -> None:
    with running.browser("viewer") as viewer, running.browser("operator") as browser:
        add(browser, A)
        before = viewer.get(f"{LIST}live/?id={A}&id=a:unknown").json()
        assert before[A]["trades"] == "1" and before["a:unknown"]["trades"] == "-"
        running.publish(running.owner.trade(A))
        expected = f"{running.owner.seq:,}.00"
        wait_until(
            lambda: viewer.get(f"{LIST}live/?id={A}").json()[A]["volume"] == expected, 2, "volume"
        )
        assert expected in viewer.get(LIST).text


def test_what_an_operator_types_is_checked(running: Running) -> None:
    with nullcontext(running.root) as browser:
        for fields, said in (
            ({"token_id": "nothing"}, "Give chain:token"),
            ({"token_id": "Ethereum:WETH"}, "Write the chain in lower case: ethereum."),
            ({"token_id": "a:1", "verified": "on", "spam": "on"}, "verified or spam, not both"),
            ({"token_id": "a:1", "decimals": "37"}, "less than or equal to 36"),
            ({"token_id": "a:1", "symbol": "a\x00b"}, "Null characters"),
            ({"token_id": "a:1", "symbol": "a\u202eb"}, "printable"),
        ):
            answer = browser.form(ADD, **fields)
            assert answer.status_code == 200
            assert said in answer.text
        script = "<script>alert(1)</script>"
        add(browser, "ethereum:0x" + "AB" * 20, symbol="X", name=script)
        page = browser.get(LIST).text
        assert "0x" + "ab" * 20 in page, "an address is lower-cased"
        add(browser, "sui:0x002::coin::Coin<0x0A::usd::USD, u64>", symbol="M")
        assert "sui:0x2::coin::Coin&lt;0xa::usd::USD,u64&gt;" in browser.get(LIST).text
        assert script not in page
