"""Sockets of real nodes under the operators' decisions: rates, subject limits, revocations."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from datetime import datetime
from functools import partial
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from tests.support.processes import wait_until
from tests.support.web_nodes import Node, Nodes

pytestmark = pytest.mark.engines

SCOPES = "stats:read ws:connect"
ADDRESS = "203.0.113.7"
REVOKED_WITHIN_S = 2.0
# A revocation is noticed, read and carried out, and logged: each step of a busy node is late.
HOPS = 4
CLOSED = '"sockets_closed"'


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    settings = {
        "TRUSTED_PROXIES": "127.0.0.1",
        "RATE_LIMIT_IP": "1",
        "RATE_BURST_IP": "40",
    }
    with Nodes(tmp_path_factory.mktemp("ws-limits"), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def pair(nodes: Nodes) -> list[Node]:
    return [nodes.web("one"), nodes.web("two")]


@contextlib.contextmanager
def opened(node: Node, token: str, address: str = ADDRESS) -> Iterator[ClientConnection]:
    headers = {"Authorization": f"Bearer {token}", "X-Forwarded-For": address}
    url = node.url.replace("http", "ws") + "/ws"
    with connect(url, additional_headers=headers, close_timeout=1) as socket:
        yield socket


def messages(socket: ClientConnection) -> Iterator[dict[str, Any]]:
    """Read until the node closes."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            yield from json.loads(socket.recv(timeout=10))


def ended(socket: ClientConnection) -> tuple[int | None, dict[str, Any]]:
    """Read to the end; return the close code, and the error before it."""
    *_, error = (each for each in messages(socket) if each["type"] == "error")
    return socket.close_code, error


def first(node: Node, token: str, address: str = ADDRESS) -> dict[str, Any]:
    """Return the first message on a new socket."""
    with opened(node, token, address) as socket:
        return next(messages(socket))


def decide(nodes: Nodes, subject: str, **limits: int) -> None:
    nodes.shell(
        "from console.models.access import ApiSubject\n"
        f"ApiSubject.objects.update_or_create(subject={subject!r}, defaults={limits!r})\n"
    )


def limited_to(node: Node, token: str, burst: str) -> bool:
    return node.get(token).headers["X-RateLimit-Limit"] == burst


def test_a_subjects_rate_is_one_for_its_sockets_and_its_requests(
    nodes: Nodes, pair: list[Node]
) -> None:
    token = nodes.token("slow", SCOPES)
    decide(nodes, "slow", rate_per_s=1, burst=8)
    for node in pair:
        wait_until(partial(limited_to, node, token, "8"), 2, "the smaller limit")
    with opened(pair[1], nodes.token("slow", SCOPES), "203.0.113.8") as socket:
        for number in range(9):
            with contextlib.suppress(ConnectionClosed):
                socket.send(json.dumps({"method": "ping", "req_id": number}))
        code, error = ended(socket)
    assert (code, error["code"]) == (4029, "rate_limited")
    assert 0 < error["data"]["retry_after_ms"] <= 8_000
    answer = pair[0].get(token, "/api/status", **{"X-Forwarded-For": "203.0.113.9"})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


def test_an_address_has_a_rate_too(nodes: Nodes, pair: list[Node]) -> None:
    tokens = [nodes.token(f"user{number}", SCOPES) for number in range(12)]
    seen = [first(pair[number % 2], each, "198.51.100.1") for number, each in enumerate(tokens)]
    kinds = [each["type"] for each in seen]
    # An attempt costs 1 and an admission 5, so 40 are enough for six or seven.
    assert kinds[:6] == ["welcome"] * 6
    assert seen[-1]["code"] == "rate_limited"
    assert first(pair[0], tokens[-1], "198.51.100.2")["type"] == "welcome"


def test_own_limits_of_a_subject_reach_the_sockets_without_a_restart(
    nodes: Nodes, pair: list[Node]
) -> None:
    node, token = pair[0], nodes.token("small", SCOPES)
    with opened(node, token, "192.0.2.1") as held:
        decide(nodes, "small", connections=1, subscriptions=2)

        def refused() -> bool:
            return first(node, token, "192.0.2.2").get("code") == "too_many_connections"

        wait_until(refused, 2, "one connection")
        request = {"method": "subscribe", "channel": "token_stats"}
        tokens = [f"ethereum:0x{number}" for number in range(3)]
        held.send(json.dumps(request | {"tokens": tokens}))
        acks = [each for _, each in zip(tokens, acks_of(held), strict=False)]
        codes = [each.get("error", {}).get("code") for each in acks]
        assert codes == [None, None, "too_many_subscriptions"]


def acks_of(socket: ClientConnection) -> Iterator[dict[str, Any]]:
    return (each for each in messages(socket) if each["type"] == "ack")


def closed_at(node: Node) -> float:
    """Return when the node closed revoked sockets, in seconds since the epoch; 0 if not yet."""
    lines = [json.loads(each) for each in node.process.written().splitlines() if CLOSED in each]
    return max((datetime.fromisoformat(each["at"]).timestamp() for each in lines), default=0.0)


def round_trip_s(node: Node) -> float:
    """Return how long a request that does nothing takes: what a busy machine adds to each step."""
    begun = time.monotonic()
    assert node.answers()
    return time.monotonic() - begun


def test_a_revocation_closes_open_sockets_of_every_node_within_two_seconds(
    nodes: Nodes, pair: list[Node]
) -> None:
    leaked, other = nodes.token("ann", SCOPES), nodes.token("ann", SCOPES)
    with contextlib.ExitStack() as open_sockets:
        gone = [open_sockets.enter_context(opened(node, leaked, "192.0.2.3")) for node in pair]
        stays = open_sockets.enter_context(opened(pair[0], other, "192.0.2.3"))
        jti = nodes.shell(
            "import jwt\nfrom console.models.access import Revocation\n"
            f"jti = jwt.decode({leaked!r}, options={{'verify_signature': False}})['jti']\n"
            "Revocation.objects.create(kind='jti', value=jti, reason='leaked')\n"
            "import time\nprint(time.time())\n"
        )
        late_s = [round_trip_s(node) for node in pair]

        def all_closed() -> bool:
            late_s.extend(round_trip_s(node) for node in pair)
            return all(closed_at(node) for node in pair)

        wait_until(all_closed, 60, "the sockets closed")
        for socket in gone:
            code, error = ended(socket)
            assert (code, error["code"]) == (4003, "token_revoked")
        took_s = max(map(closed_at, pair)) - float(jti.split()[-1])
        assert took_s < REVOKED_WITHIN_S + HOPS * max(late_s)
        stays.send(json.dumps({"method": "ping", "req_id": 1}))
        assert next(each for each in messages(stays) if each["type"] == "pong")["req_id"] == 1
        again, error = ended(open_sockets.enter_context(opened(pair[1], leaked, "192.0.2.3")))
        assert (again, error["code"]) == (4003, "token_revoked")
