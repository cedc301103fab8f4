"""The shipped nginx in front of two web nodes: a 503 of one route removes no node."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import websockets

from api.auth.demo_issuer import ensure_keys
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.integration.test_web import live_owner
from tests.integration.ws_node import token_of, web_node
from tests.support.nginx import nginx, proxy
from tests.support.plain import PLAIN
from tests.unit.api.samples import Owner

pytestmark = pytest.mark.engines

SECONDS = 8
TOKEN_ID = "ethereum:0xaa"
HISTORY = f"/api/tokens/{TOKEN_ID}/candles?interval=1m"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Nats]:
    nginx()
    with Stack(tmp_path / "stack", only=(Nats,)) as stack:
        yield stack.nats


@contextlib.asynccontextmanager
async def site(directory: Path, nats_url: str) -> AsyncIterator[tuple[int, list[int], str]]:
    """nginx's port, the nodes' ports and a token; partition 1 has no owner, the archive is down."""
    ensure_keys(directory / "issuer")
    owner = Owner(partition=0, partitions=2)
    owner.trade(TOKEN_ID)
    settings = {"CLICKHOUSE_URL": f"clickhouse://127.0.0.1:{free_port()}/default"}
    async with contextlib.AsyncExitStack() as closing:
        nodes = [
            await closing.enter_async_context(
                web_node(directory, directory / "issuer", nats_url, **settings)
            )
            for _ in range(2)
        ]
        await closing.enter_async_context(live_owner(nats_url, owner))
        ports = [node.port for node in nodes]
        port = closing.enter_context(proxy(directory / "nginx", ports))
        scope = "stats:read history:read ws:connect"
        yield port, ports, token_of(directory / "issuer", scope=scope)


async def test_stale_partitions_and_a_failing_archive_take_no_node_out(
    tmp_path: Path, nats_server: Nats
) -> None:
    async with site(tmp_path, nats_server.url) as (port, ports, token):
        bearer = {"Authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(headers=bearer, timeout=20, verify=PLAIN) as client:
            for each in ports:
                await _shown(client, each)
            at = f"http://127.0.0.1:{port}"
            done = asyncio.Event()

            async def ask(path: str, every_s: float) -> list[int]:
                statuses = []
                while not done.is_set():
                    statuses.append((await client.get(f"{at}{path}")).status_code)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(done.wait(), every_s)
                return statuses

            ready = asyncio.create_task(ask("/readyz", 1))
            history = asyncio.create_task(ask(HISTORY, 2))
            answers: list[int] = []
            sockets = 0
            until = time.monotonic() + SECONDS
            while time.monotonic() < until:
                for path in ("/api/overview", "/"):
                    answers.append((await client.get(f"{at}{path}")).status_code)
                async with websockets.connect(
                    f"ws://127.0.0.1:{port}/ws", additional_headers=bearer
                ) as socket:
                    assert "welcome" in str(await socket.recv())
                    sockets += 1
            done.set()
            said = [await ready, await history]
        assert set(answers) == {200} and sockets >= 3
        assert [set(each) for each in said] == [{503}, {503}]
        assert min(map(len, said)) >= 3


async def test_a_dead_node_is_skipped(tmp_path: Path, nats_server: Nats) -> None:
    async with site(tmp_path, nats_server.url) as (_, ports, _):
        gone = free_port()
        with proxy(tmp_path / "one-gone", [gone, ports[0]]) as port:
            async with httpx.AsyncClient(timeout=20, verify=PLAIN) as client:
                asked = [await client.get(f"http://127.0.0.1:{port}/") for _ in range(10)]
        assert [each.status_code for each in asked] == [200] * 10


async def _shown(client: httpx.AsyncClient, port: int) -> None:
    """Wait until the node shows the token."""
    async with asyncio.timeout(20):
        while True:
            answer = await client.get(f"http://127.0.0.1:{port}/api/overview")
            if answer.json().get("totals", {}).get("tokens") == 1:
                return
            await asyncio.sleep(0.05)
