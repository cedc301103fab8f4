"""A refused connection states the reason, to a raw socket and to both clients."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin, Subprotocol

from tests.integration.client_processes import ROOT, ClientProcess, node
from tests.support.browser import chromium
from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

SCOPES = "stats:read ws:connect"


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    directory: Path = tmp_path_factory.mktemp("refusals")
    limits = {"WS_SUBJECT_CONNECTIONS": "1", "WS_CONNECTIONS": "3"}
    with Nodes(directory, **limits, WS_ALLOWED_ORIGINS="https://app.example") as running:
        yield running


@pytest.fixture(scope="module")
def web(nodes: Nodes) -> Node:
    return nodes.web()


def opened(web: Node, token: str, origin: str | None = None) -> ClientConnection:
    """Connect as a browser does: the token is offered after the subprotocol."""
    offered = [Subprotocol("bearer"), Subprotocol(token)]
    url = web.url.replace("http", "ws") + "/ws"
    given = None if origin is None else Origin(origin)
    return connect(url, subprotocols=offered, origin=given, proxy=None)


def all_of(socket: ClientConnection) -> tuple[int | None, list[dict[str, Any]]]:
    """Return the close code, and every message before it."""
    messages: list[dict[str, Any]] = []
    with contextlib.suppress(ConnectionClosed):
        while True:
            messages += json.loads(socket.recv(timeout=10))
    return socket.close_code, messages


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "https://app.example.evil"])
def test_another_origin_gets_the_reason_and_nothing_else(
    nodes: Nodes, web: Node, origin: str
) -> None:
    with opened(web, nodes.token("origin", SCOPES), origin) as socket:
        assert socket.subprotocol == "bearer", "a browser would show its page 1006 and no reason"
        with contextlib.suppress(ConnectionClosed):
            socket.send(json.dumps({"method": "subscribe", "channel": "status"}))
        code, messages = all_of(socket)
    assert code == 4403
    assert socket.close_reason is not None
    assert "WS_ALLOWED_ORIGINS" in socket.close_reason
    assert [(each["type"], each["code"]) for each in messages] == [("error", "origin_not_allowed")]
    assert "data" not in messages[0]


def test_refused_origins_do_not_count_as_connections(nodes: Nodes, web: Node) -> None:
    for _ in range(5):
        with opened(web, nodes.token("origin", SCOPES), "https://evil.example") as socket:
            assert all_of(socket)[0] == 4403
    with opened(web, nodes.token("fine", SCOPES), "https://app.example") as socket:
        assert json.loads(socket.recv(timeout=10))[0]["type"] == "welcome"


def test_a_full_node_says_so(nodes: Nodes, web: Node) -> None:
    with ExitStack() as held:
        for number in range(3):
            socket = held.enter_context(opened(web, nodes.token(f"full{number}", SCOPES)))
            assert json.loads(socket.recv(timeout=10))[0]["type"] == "welcome"
        with opened(web, nodes.token("more", SCOPES)) as socket:
            code, messages = all_of(socket)
    assert (code, [each["code"] for each in messages]) == (4029, ["node_full"])


@pytest.mark.parametrize("language", ["python", "js"])
def test_a_client_reports_why_it_is_refused_and_continues(
    nodes: Nodes, web: Node, tmp_path: Path, language: str
) -> None:
    if language == "js":
        node()
    file = tmp_path / "token"
    subject = f"crowded-{language}"
    file.write_text(nodes.token(subject, SCOPES))
    with ExitStack() as block:
        held = block.enter_context(opened(web, nodes.token(subject, SCOPES)))
        assert json.loads(held.recv(timeout=10))[0]["type"] == "welcome"
        client = block.enter_context(
            ClientProcess(language, web.url, file, CHANNEL="token_stats", TOKENS="a:b")
        )
        client.wait(lambda: len(client.of("connection_refused")) >= 2, 20, "two refusals")
        first, second, *_ = client.of("connection_refused")
        assert first["code"] == second["code"] == "too_many_connections"
        assert "at most 1" in first["reason"]
        assert (first["close_code"], first["attempts"], second["attempts"]) == (4029, 1, 2)
        assert first["retry_in_ms"] >= 500
        waiting = client.of("change", state="waiting")[-1]
        assert waiting["error"].startswith("too_many_connections")
        held.close()
        client.wait(lambda: client.of("change", state="open"), 20, "the connection")
        assert client.of("change", state="open")[-1]["error"] == ""


class Files(SimpleHTTPRequestHandler):
    """Serve the JavaScript client on another origin."""

    def log_message(self, *_: object) -> None:
        pass


REFUSED = """async ([url, token]) => {
  const { SwapsClient } = await import("/swaps.js");
  const client = new SwapsClient({ url, token });
  const { detail } = await new Promise((seen) => client.addEventListener("refused", seen));
  const found = { ...detail, state: client.state, error: client.error.message };
  client.close();
  return found;
}"""


def test_a_page_in_a_browser_learns_that_its_origin_is_not_allowed(nodes: Nodes, web: Node) -> None:
    path = chromium()
    files = partial(Files, directory=str(ROOT / "clients" / "js"))
    with ThreadingHTTPServer(("127.0.0.1", 0), files) as server, sync_playwright() as driver:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{server.server_port}/package.json")
        seen = page.evaluate(REFUSED, [web.url, nodes.token("page", SCOPES)])
        browser.close()
        server.shutdown()
    assert (seen["code"], seen["close_code"], seen["attempts"]) == ("origin_not_allowed", 4403, 1)
    assert "WS_ALLOWED_ORIGINS" in seen["reason"]
    assert seen["error"].startswith("origin_not_allowed")
    assert (seen["state"], seen["retry_in_ms"] >= 5_000) == ("waiting", True)
