"""Daphne's limits for one connection: sizes and times, over raw sockets."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

WITHIN_S = 1.0
LIMIT = 20_000
HEAD = b"POST /api/status HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    directory: Path = tmp_path_factory.mktemp("server")
    limits = {"BODY_LIMIT": str(LIMIT), "REQUEST_WITHIN": f"{WITHIN_S}s"}
    with Nodes(directory, **limits) as nodes:
        yield nodes.web()


def connect(node: Node) -> socket.socket:
    port = urlsplit(node.url).port
    assert port is not None
    return socket.create_connection(("127.0.0.1", port), timeout=10)


def answer(connection: socket.socket) -> tuple[int, bytes]:
    """Read one answer, to the end of its body or of the connection; return status and body."""
    received = b""
    while True:
        try:
            piece = connection.recv(65_536)
        except ConnectionResetError:
            piece = b""
        received += piece
        head, _, body = received.partition(b"\r\n\r\n")
        if not piece or (b"Content-Length: 0" not in head and body):
            assert head, "closed without an answer"
            return int(head.split()[1]), body


def drip(connection: socket.socket, first: bytes, then: bytes) -> float:
    """Send `then` repeatedly until the connection is cut; return how long that took."""
    connection.sendall(first)
    begun = time.monotonic()
    connection.settimeout(0.1)
    while time.monotonic() - begun < 10 * WITHIN_S:
        try:
            connection.sendall(then)
            if connection.recv(1, socket.MSG_PEEK) in {b"", b"H"}:
                return time.monotonic() - begun
        except TimeoutError:
            continue
        except (BrokenPipeError, ConnectionResetError):
            return time.monotonic() - begun
    raise AssertionError("never cut")


def test_a_hundred_of_the_longest_ids_in_one_address(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with Nodes(tmp_path_factory.mktemp("long")) as nodes:
        node, token = nodes.web(), nodes.token()
        long = [f"{'c' * 32}:{'%2F' * 252}{number:04d}" for number in range(100)]
        for query in (",".join(long), "&ids=".join(long)):
            lines = [f"GET /api/tokens/stats?ids={query} HTTP/1.1", "Host: localhost"]
            lines += [f"Authorization: Bearer {token}", "", ""]
            # Over a socket, because httpx refuses an address of this length.
            with connect(node) as connection:
                connection.sendall("\r\n".join(lines).encode())
                # There is no aggregator, but the request was understood.
                assert answered_with(connection) == 503
        with connect(node) as connection:
            connection.sendall(b"GET /healthz?" + b"x" * 140_000 + b" HTTP/1.1\r\n\r\n")
            assert answered_with(connection) != 200


def test_the_status_line_has_the_words_of_the_standard(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    limits = {"RATE_LIMIT_IP": "1", "RATE_BURST_IP": "1"}
    with Nodes(tmp_path_factory.mktemp("words"), **limits) as nodes:
        node = nodes.web()
        lines = set()
        for _ in range(3):
            with connect(node) as connection:
                connection.sendall(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
                lines.add(connection.recv(65_536).partition(b"\r\n")[0])
    assert b"HTTP/1.1 429 Too Many Requests" in lines


def answered_with(connection: socket.socket) -> int | None:
    """Return the status of the answer, None if the connection ends without one."""
    try:
        head = connection.recv(65_536)
    except ConnectionResetError:
        return None
    return int(head.split()[1]) if head else None


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param(b"G", b"E", id="request line by the byte"),
        pytest.param(b"GET /healthz HTTP/1.1\r\n", b"X-A: b\r\n", id="header by the line"),
        pytest.param(b"GET /healthz HTTP/1.1\r\nX: ", b"a", id="header by the byte"),
        pytest.param(HEAD + b"Content-Length: 9999\r\n\r\n", b"x", id="body by the byte"),
        pytest.param(
            HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="chunk by the byte"
        ),
        pytest.param(
            b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nG", b"E", id="second request"
        ),
    ],
)
def test_a_slow_request_is_cut(node: Node, first: bytes, then: bytes) -> None:
    with connect(node) as connection:
        if b"healthz" in first and first.endswith(b"G"):
            connection.sendall(first[:-1])
            assert answer(connection)[0] == 200
            first = b"G"
        took = drip(connection, first, then)
        assert WITHIN_S * 0.9 <= took < WITHIN_S + 2
        status, body = answer(connection)
        assert (status, json.loads(body)["code"]) == (408, "request_too_slow")


def test_a_connection_that_is_in_time_lives_longer_than_the_limit(node: Node) -> None:
    with connect(node) as connection:
        begun = time.monotonic()
        while time.monotonic() - begun < 2 * WITHIN_S:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answer(connection)[0] == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(f"Content-Length: {LIMIT + 1}\r\n", b"", id="by its length, before it comes"),
        pytest.param(
            "Transfer-Encoding: chunked\r\n",
            b"%x\r\n%b\r\n" % (LIMIT, b"x" * LIMIT) + b"1\r\nx\r\n",
            id="in chunks",
        ),
    ],
)
def test_a_large_body_is_refused(node: Node, head: str, body: bytes) -> None:
    with connect(node) as connection:
        connection.sendall(HEAD + head.encode() + b"\r\n" + body)
        status, said = answer(connection)
        assert (status, json.loads(said)["code"]) == (413, "request_too_large")
        connection.settimeout(5)
        assert connection.recv(1) == b"", "and closed"


def test_a_body_within_the_limit_reaches_the_application(node: Node) -> None:
    with connect(node) as connection:
        connection.sendall(HEAD + f"Content-Length: {LIMIT}\r\n\r\n".encode() + b"x" * LIMIT)
        status, said = answer(connection)
        assert (status, json.loads(said)["code"]) == (405, "method_not_allowed")


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"X-A: " + b"a" * 140_000 + b"\r\n", id="one long line"),
        pytest.param(b"".join(b"X-%d: %b\r\n" % (n, b"a" * 360) for n in range(400)), id="long"),
        pytest.param(b"".join(b"X-%d: a\r\n" % n for n in range(600)), id="many lines"),
        pytest.param(b"Content-Length: 5\r\nContent-Length: 6\r\n", id="two lengths"),
        pytest.param(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", id="smuggling"),
        pytest.param(b"Transfer-Encoding: xchunked\r\n", id="unknown encoding"),
        pytest.param(b"X-A : b\r\n", id="blank before the colon"),
        pytest.param(b"no colon\r\n", id="no header"),
    ],
)
def test_a_bad_head_is_refused(node: Node, head: bytes) -> None:
    with connect(node) as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n" + head + b"\r\n")
        received = b""
        try:
            while piece := connection.recv(65_536):
                received += piece
        except ConnectionResetError:
            pass
        assert received == b"" or received.startswith(b"HTTP/1.1 400")
    assert node.alive()


def test_a_websocket_outlives_the_time_of_a_request(node: Node) -> None:
    with connect(node) as connection:
        connection.sendall(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        connection.settimeout(10)
        assert connection.recv(1_024).startswith(b"HTTP/1.1 101")
        begun = time.monotonic()
        connection.settimeout(2 * WITHIN_S)
        received = b""
        try:
            while time.monotonic() - begun < 2 * WITHIN_S:
                piece = connection.recv(1_024)
                assert piece, "closed"
                received += piece
        except TimeoutError:
            pass
        assert b"request_too_slow" not in received
