"""The log of a running web node: JSON only, one line for each request and socket event."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets.sync.client
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

WITHIN_S = 10.0


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Nodes]:
    with Nodes(tmp_path, TRUSTED_PROXIES="127.0.0.0/8") as running:
        yield running


def lines(node: Node) -> list[dict[str, Any]]:
    """Parse every line of the node's log; fail for one that is not a JSON object."""
    text = node.process.log.read_text()
    found = [json.loads(each) for each in text.splitlines() if each]
    assert all({"at", "level", "logger", "event"} <= set(each) for each in found), found
    return found


def accessed(node: Node, event: str = "request", **fields: Any) -> list[dict[str, Any]]:
    return [
        each
        for each in lines(node)
        if (each["logger"], each["event"]) == ("access", event)
        and all(each.get(name) == value for name, value in fields.items())
    ]


def test_every_line_is_json_and_a_request_is_one_of_them(nodes: Nodes) -> None:
    node = nodes.web()
    token = nodes.token("ann")
    answer = node.get(
        token,
        "/api/tokens/ethereum%3A0xsecret/stats",
        **{"X-Request-ID": "of-a-caller.1", "X-Forwarded-For": "203.0.113.7"},
    )
    assert answer.status_code == 503  # there is no aggregator
    assert node.get(token, "/api/overview?q=private").status_code == 200
    assert node.get(None, "/api/status").status_code == 401
    assert node.get(None, "/nothing?token=eyJhbGciOiJSUzI1NiJ9.x.y").status_code == 404
    for quiet in ("/healthz", "/static/page/main.js", "/readyz/node"):
        node.get(None, quiet)
    wait_until(lambda: bool(accessed(node, status=404)), WITHIN_S, "the last line")

    [line] = accessed(node, request_id="of-a-caller.1")
    assert line["route"] == "/api/tokens/<path:token_id>/stats"
    assert (line["method"], line["status"], line["subject"]) == ("GET", 503, "ann")
    assert line["ip"] == "203.0.113.7"
    assert line["bytes"] == len(answer.content) and 0 < line["ms"] < 60_000
    assert answer.headers["X-Request-ID"] == line["request_id"]
    [refused] = accessed(node, status=401)
    assert refused["subject"] is None
    assert accessed(node, status=404)[0]["route"] == "/unknown"
    routes = {each["route"] for each in accessed(node)}
    assert not routes & {"/healthz", "/readyz", "/readyz/node", "/static/<path:path>"}
    text = node.process.log.read_text()
    assert "0xsecret" not in text and "private" not in text and "eyJ" not in text


def test_probes_and_files_are_at_debug(nodes: Nodes) -> None:
    node = nodes.web(LOG_LEVEL="debug")
    node.get(None, "/healthz")
    node.get(None, "/static/page/main.js")
    wait_until(
        lambda: bool(accessed(node, route="/static/<path:path>", level="debug")), WITHIN_S, "a line"
    )
    assert accessed(node, route="/healthz", level="debug")


def test_open_and_close_of_a_socket_are_lines(nodes: Nodes) -> None:
    node = nodes.web()
    url = node.url.replace("http", "ws") + "/ws"
    headers = {"Authorization": f"Bearer {nodes.token('bob', scope='stats:read ws:connect')}"}
    with websockets.sync.client.connect(url, additional_headers=headers) as socket:
        socket.recv()
        wait_until(lambda: bool(accessed(node, "ws_open", subject="bob")), WITHIN_S, "the open")
    wait_until(lambda: bool(accessed(node, "ws_close", subject="bob")), WITHIN_S, "the close")
    [opened], [closed] = accessed(node, "ws_open"), accessed(node, "ws_close")
    assert opened["request_id"] == closed["request_id"]
    assert closed["code"] is None and closed["ms"] >= 0

    with websockets.sync.client.connect(url) as socket:
        socket.send(json.dumps({"method": "auth", "token": "x"}))
        with pytest.raises(websockets.exceptions.ConnectionClosed):
            while True:
                socket.recv()
    wait_until(lambda: bool(accessed(node, "ws_close", code=4001)), WITHIN_S, "the refusal")

    with (
        websockets.sync.client.connect(url, origin=Origin("https://evil.example")) as socket,
        pytest.raises(websockets.exceptions.ConnectionClosed),
    ):
        while True:
            socket.recv()
    wait_until(lambda: bool(accessed(node, "ws_refused", code=4403)), WITHIN_S, "the refusal")

    with pytest.raises(InvalidStatus):
        websockets.sync.client.connect(f"{url}/elsewhere")
    wait_until(lambda: bool(accessed(node, "ws_refused", status=403)), WITHIN_S, "the handshake")


def test_a_caller_that_disconnects_is_a_line_or_an_answer(nodes: Nodes) -> None:
    node = nodes.web()
    with pytest.raises(httpx.TimeoutException):
        httpx.get(f"{node.url}/admin/login/", timeout=0.001)
    node.get(None, "/api/status")
    wait_until(lambda: bool(accessed(node, status=401)), WITHIN_S, "the next one")
    assert all(isinstance(each["status"], int) for each in accessed(node))


def test_on_a_terminal_the_log_is_for_people(nodes: Nodes) -> None:
    node = nodes.web(LOG_FORMAT="console")
    node.get(nodes.token("ann"), "/api/status")
    wait_until(lambda: "/api/status 200" in node.process.log.read_text(), WITHIN_S, "the line")
    [line] = [each for each in node.process.log.read_text().splitlines() if "/api/status" in each]
    assert line.split()[1:4] == ["GET", "/api/status", "200"] and line.endswith("127.0.0.1 ann")
