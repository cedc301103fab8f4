"""Ten sockets of one subject ask for as much as they can and read nothing: memory is bounded."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from api.auth.demo_issuer import ensure_keys
from infra.embedded.nats import Nats
from infra.embedded.stack import Stack
from tests.integration.test_web import live_owner
from tests.integration.ws_node import client, eventually_async, token_of, web_node
from tests.unit.api.samples import Owner

pytestmark = pytest.mark.engines

SOCKETS, ROUNDS = 10, 10
KNOWN = [f"ethereum:0x{number}" for number in range(200)]
UNKNOWN = [f"e:{number}" for number in range(200)]
MOST_MB = 50


@pytest.fixture
def nats_url(tmp_path: Path) -> Iterator[str]:
    with Stack(tmp_path / "stack", only=(Nats,)) as stack:
        yield stack.nats.url


def masked(request: dict[str, Any]) -> bytes:
    """Return a text frame with a mask of zeros (RFC 6455, section 5.2)."""
    payload = json.dumps(request).encode()
    if len(payload) < 65_536:
        return b"\x81\xfe" + len(payload).to_bytes(2, "big") + b"\0\0\0\0" + payload
    return b"\x81\xff" + len(payload).to_bytes(8, "big") + b"\0\0\0\0" + payload


def deaf(port: int, token: str) -> socket.socket:
    """Open a socket that never reads after its handshake."""
    opened = socket.socket()
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
    opened.settimeout(5)
    opened.connect(("127.0.0.1", port))
    opened.sendall(
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += opened.recv(1)
    return opened


def send(opened: socket.socket, frame: bytes) -> None:
    """Send as much as the node accepts; it may have closed the connection."""
    opened.settimeout(0.05)
    with contextlib.suppress(OSError):
        opened.sendall(frame)


def subscribe(tokens: list[str], req_id: str) -> dict[str, Any]:
    return {"method": "subscribe", "channel": "token_stats", "tokens": tokens, "req_id": req_id}


FLOODS = {
    "long request ids": subscribe(UNKNOWN, "x" * 62_000),
    "acks with errors": subscribe(["no-token" + "x" * n for n in range(200)], "x" * 64),
    "snapshots": subscribe(KNOWN, "x" * 64),
}


@pytest.mark.parametrize("flood", FLOODS)
async def test_a_flood_leaves_memory_bounded(tmp_path: Path, nats_url: str, flood: str) -> None:
    issuer = tmp_path / "issuer"
    ensure_keys(issuer)
    owner, frame = Owner(), masked(FLOODS[flood])
    for token in KNOWN:
        owner.trade(token)
    # Rates that limit nothing: the bound must not depend on them.
    rates = {"RATE_LIMIT": "1000000", "RATE_BURST": "1000000", "WS_MESSAGES": "1000"}
    async with (
        web_node(tmp_path, issuer, nats_url, LOG_LEVEL="warning", **rates) as node,
        live_owner(nats_url, owner),
        contextlib.AsyncExitStack() as closing,
        client(node, token_of(issuer, "honest")) as honest,
    ):
        await eventually_async(lambda: node.answers("/readyz", 200), 20, "readiness")
        await honest.send(method="ping", req_id=0)
        await honest.next(type="pong", req_id=0)
        deaf_ones = []
        for _ in range(SOCKETS):
            each = await asyncio.to_thread(deaf, node.port, token_of(issuer, "greedy"))
            closing.callback(each.close)
            deaf_ones.append(each)
        before_mb = most_mb = node.rss_mb()
        slowest_s = 0.0
        for number in range(1, ROUNDS + 1):
            for each in deaf_ones:
                await asyncio.to_thread(send, each, frame)
            begun = time.monotonic()
            await honest.send(method="ping", req_id=number)
            await honest.next(30, type="pong", req_id=number)
            slowest_s = max(slowest_s, time.monotonic() - begun)
            most_mb = max(most_mb, node.rss_mb())
        print(f"{flood}: +{most_mb - before_mb:.0f} MB, slowest pong {slowest_s:.2f} s")
        assert most_mb - before_mb < MOST_MB
