"""Keys over HTTP: slow, unreachable and hostile hosts, and rotation at a running node."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest

from aggregator.runtime.errors import Retry
from api.auth.jwks import LARGEST_BYTES, TIMEOUT_S, fetch_document
from infra.embedded.ports import free_port
from tests.support.processes import wait_until
from tests.support.web_nodes import STATUS, Nodes
from tests.unit.api.jwt_attacks import KEY, OTHER, public_jwk

pytestmark = pytest.mark.engines

Answer = Callable[[BaseHTTPRequestHandler], None]


class KeyHost:
    """An HTTP server whose answer a test chooses."""

    def __init__(self) -> None:
        self.answer: Answer = self.document
        self.keys: list[dict[str, Any]] = []
        self.asked: list[str] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                host.asked.append(self.path)
                with contextlib.suppress(OSError):  # the client may have gone
                    host.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/jwks.json?v=1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def document(self, handler: BaseHTTPRequestHandler) -> None:
        body = json.dumps({"keys": self.keys}).encode()
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)


@pytest.fixture
def host() -> Iterator[KeyHost]:
    made = KeyHost()
    yield made
    made.close()


async def test_a_document_is_fetched_with_its_query(host: KeyHost) -> None:
    host.keys = [{"kid": "a"}]
    assert json.loads(await fetch_document(host.url)) == {"keys": [{"kid": "a"}]}
    assert host.asked == ["/jwks.json?v=1"]


def _status(code: int, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return answer


def _endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(2 * LARGEST_BYTES // 65_536):
        handler.wfile.write(b" " * 65_536)


def _no_http(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"SSH-2.0-OpenSSH_9.6\r\n")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        pytest.param(_status(500), "status 500", id="error"),
        pytest.param(_status(404), "status 404", id="not found"),
        pytest.param(
            _status(302, Location="http://169.254.169.254/latest"), "status 302", id="redirect"
        ),
        pytest.param(_endless, "larger than", id="huge"),
        pytest.param(_no_http, "BadStatusLine", id="no HTTP"),
    ],
)
async def test_a_bad_answer_is_a_retry(host: KeyHost, answer: Answer, said: str) -> None:
    host.answer = answer
    with pytest.raises(Retry, match=said):
        await fetch_document(host.url)
    assert len(host.asked) == 1, "no redirect is followed"


async def test_an_unreachable_host_is_a_retry() -> None:
    with pytest.raises(Retry, match="ConnectionRefusedError"):
        await fetch_document(f"http://127.0.0.1:{free_port()}/")


async def test_a_slow_host_is_cut_off_and_its_thread_ends(host: KeyHost) -> None:
    ended = threading.Event()

    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while not ended.wait(0.2):
                handler.wfile.write(b" ")
                handler.wfile.flush()
        finally:
            ended.set()

    host.answer = drip
    begun = time.monotonic()
    with pytest.raises(Retry, match="no complete answer within"):
        await fetch_document(host.url)
    assert time.monotonic() - begun < TIMEOUT_S + 1.5
    assert ended.wait(3), "the connection was closed"


def token_of(nodes: Nodes, key: Any, kid: str) -> str:
    made = nodes.token(key=key)
    claims = jwt.decode(made, options={"verify_signature": False})
    return jwt.encode(claims, key, algorithm="RS256", headers={"kid": kid})


def test_a_node_follows_a_rotation_and_survives_an_outage(tmp_path: Path, host: KeyHost) -> None:
    host.answer = _status(503)
    with Nodes(tmp_path, JWT_JWKS_URL=host.url, JWT_PUBLIC_KEY_FILE="") as nodes:
        node = nodes.web()
        old, new = token_of(nodes, KEY, "old"), token_of(nodes, OTHER, "new")
        refused = node.get(old)
        assert (refused.status_code, refused.json()["code"]) == (503, "auth_unavailable")
        host.keys = [public_jwk(KEY) | {"kid": "old"}]
        host.answer = host.document
        wait_until(lambda: node.get(old).status_code == 200, 15, "the first keys")
        asked = len(host.asked)
        # rotation: the first token of the new key makes the node read it, without a restart
        host.keys.append(public_jwk(OTHER) | {"kid": "new"})
        assert node.get(new).status_code == 200
        assert len(host.asked) == asked + 1
        for number in range(50):
            bad = node.get(token_of(nodes, OTHER, f"guess-{number}"))
            assert (bad.status_code, bad.json()["code"]) == (401, "token_key")
        assert len(host.asked) == asked + 1, "guessing does not make it ask"
        host.answer = _status(500)
        assert [node.get(each, STATUS).status_code for each in (old, new)] == [200, 200]
