"""A web node under Daphne (or uvicorn) for the WebSocket tests, its NATS, and clients.

The owner of the numbers runs in the test: `LiveOwner` of test_web for the board, `LiveSeller` here
for trades.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import msgspec
import nats
import websockets
from nats.aio.msg import Msg
from websockets.asyncio.client import ClientConnection

from aggregator.contracts.names import history_subject, trades_subject
from aggregator.contracts.trades import HistoryRequest, TokenHistory, TradeBatch
from api.auth.demo_issuer import ensure_keys, issue
from infra.embedded.ports import free_port
from tests.support.migrated import migrated_database
from tests.support.plain import PLAIN
from tests.unit.sockets.trading import Seller

ROOT = Path(__file__).resolve().parents[2]
Message = dict[str, Any]


def token_of(
    issuer: Path,
    subject: str = "test",
    scope: str = "stats:read ws:connect",
    ttl_ms: int = 600_000,
    age_s: int = 0,
) -> str:
    return issue(
        ensure_keys(issuer),
        subject=subject,
        issuer="swaps-demo",
        audience="swaps",
        scope=scope,
        issued_at=int(time.time()) - age_s,
        ttl_ms=ttl_ms,
    )


class WebNode:
    """One web process."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    @property
    def url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    def rss_mb(self) -> float:
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    async def answers(self, path: str, wanted: int) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            async with httpx.AsyncClient(verify=PLAIN) as client:
                answer = await client.get(f"http://127.0.0.1:{self.port}{path}", timeout=2)
        except httpx.TransportError:
            return False
        return answer.status_code == wanted


@contextlib.asynccontextmanager
async def web_node(
    directory: Path, issuer: Path, nats_url: str, server: str = "daphne", **env: str
) -> AsyncIterator[WebNode]:
    port = free_port()
    log = directory / f"web-{port}.log"
    app = "swapsite.asgi:application"
    if server == "daphne":
        arguments = ["daphne", "-b", "127.0.0.1", "-p", str(port), "--access-log", os.devnull, app]
    else:
        arguments = ["uvicorn", "--host", "127.0.0.1", "--port", str(port), app]
    settings = {
        "NATS_URL": nats_url,
        "DJANGO_SECRET_KEY": "of-a-test",
        "JWT_PUBLIC_KEY_FILE": str(issuer / "public.pem"),
        "LOG_FORMAT": "json",
        # All clients of a test come from one address.
        "RATE_LIMIT_IP": "1000000",
        "RATE_BURST_IP": "1000000",
        "DATABASE_FILE": str(migrated_database(directory)),
        **env,
    }
    with log.open("wb") as file:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns immediately
            [sys.executable, "-m", *arguments],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings},
        )
    try:
        node = WebNode(process, port, log)
        await eventually_async(lambda: node.answers("/healthz", 200), 20, "healthz")
        yield node
    finally:
        process.kill()
        process.wait()


async def eventually_async(holds: Callable[[], Any], within_s: float, what: str) -> float:
    """Wait for the condition; return how long it took, in seconds."""
    begun = time.monotonic()
    while not await holds():
        assert time.monotonic() - begun < within_s, f"{what}: not within {within_s} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


class WsClient:
    """A socket whose messages are kept until the test takes them."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.seen: list[Message] = []
        self.frames = 0

    async def send(self, **request: Any) -> None:
        await self.socket.send(json.dumps(request))

    async def next(self, within_s: float = 5, **fields: Any) -> Message:
        """Return the next message with these fields; drop those before it."""
        async with asyncio.timeout(within_s):
            while True:
                while self.seen:
                    message = self.seen.pop(0)
                    if all(message.get(name) == value for name, value in fields.items()):
                        return message
                frame = json.loads(await self.socket.recv())
                assert isinstance(frame, list)
                assert frame, "an empty frame"
                self.frames += 1
                self.seen += frame

    async def closed(self, within_s: float = 5) -> int:
        """Read to the end; return the close code."""
        async with asyncio.timeout(within_s):
            with contextlib.suppress(websockets.ConnectionClosed):
                while True:
                    self.seen += json.loads(await self.socket.recv())
        assert self.socket.close_code is not None
        return self.socket.close_code


@contextlib.asynccontextmanager
async def client(
    node: WebNode, token: str | None = None, **options: Any
) -> AsyncIterator[WsClient]:
    headers = {"Authorization": f"Bearer {token}"} if token is not None else {}
    async with websockets.connect(
        node.url, additional_headers=headers | options.pop("headers", {}), **options
    ) as socket:
        yield WsClient(socket)


class LiveSeller:
    """An owner of trades on NATS."""

    def __init__(self, connection: nats.NATS, seller: Seller) -> None:
        self.seller = seller
        self.asked = 0
        self._nats = connection

    async def on_history(self, message: Msg) -> None:
        request = msgspec.json.decode(message.data, type=HistoryRequest)
        self.asked += 1
        seller = self.seller
        known = request.token_id == seller.token_id
        empty = TokenHistory(request.token_id, seller.partition, seller.epoch, 0, [], [])
        answer = seller.history() if known else empty
        await self._nats.publish(message.reply, msgspec.json.encode(answer))

    async def publish(self, batch: TradeBatch) -> None:
        await self._nats.publish(trades_subject(batch.token_id), msgspec.json.encode(batch))


@contextlib.asynccontextmanager
async def live_seller(nats_url: str, seller: Seller) -> AsyncIterator[LiveSeller]:
    connection = await nats.connect(nats_url)
    live = LiveSeller(connection, seller)
    await connection.subscribe(history_subject(seller.partition), cb=live.on_history)
    await connection.flush()
    try:
        yield live
    finally:
        await connection.close()
