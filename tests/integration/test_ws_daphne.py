"""The WebSocket on a real Daphne with a real NATS: handshakes, hostile clients, shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets
from websockets.exceptions import InvalidStatus

from api.auth.demo_issuer import ensure_keys
from infra.embedded.nats import Nats
from infra.embedded.stack import Stack
from tests.integration.test_web import live_owner
from tests.integration.ws_node import (
    WebNode,
    WsClient,
    client,
    eventually_async,
    live_seller,
    token_of,
    web_node,
)
from tests.unit.api.samples import Owner
from tests.unit.sockets.trading import Seller

pytestmark = pytest.mark.engines

A, B = "ethereum:0xaa", "ethereum:0xbb"


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[Nats]:
    with Stack(tmp_path / "stack", only=(Nats,)) as stack:
        yield stack.nats


@pytest.fixture(scope="module")
def issuer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("issuer")
    ensure_keys(directory)
    return directory


async def ready(node: WebNode) -> None:
    """Wait until the node has its owner's state."""
    token_free = "/readyz"
    await eventually_async(lambda: node.answers(token_free, 200), 10, "readiness")


async def test_handshakes(tmp_path: Path, issuer: Path, nats_server: Nats) -> None:
    """Cover three ways to present a JWT, the origins, and every refusal."""
    good = token_of(issuer)
    async with (
        web_node(
            tmp_path, issuer, nats_server.url, WS_ALLOWED_ORIGINS="https://app.example"
        ) as node,
        live_owner(nats_server.url, Owner()),
    ):
        await ready(node)
        async with client(node, good) as one:
            assert (await one.next(type="welcome"))["data"]["authenticated"] is True
            assert one.socket.subprotocol is None
        async with client(node, subprotocols=["bearer", good]) as two:
            assert (await two.next(type="welcome"))["data"]["authenticated"] is True
            assert two.socket.subprotocol == "bearer"
        async with client(node) as three:
            assert (await three.next(type="welcome"))["data"]["authenticated"] is False
            await three.send(method="auth", token=good, req_id="a")
            assert (await three.next(type="ack"))["req_id"] == "a"
            await three.send(method="subscribe", channel="token_stats", tokens=[A])
            await three.next(type="ack", channel="token_stats")
        for bad in (good[:-4] + "AAAA", "nonsense", token_of(issuer, scope="stats:read")):
            async with client(node, bad) as four:
                assert await four.closed() == 4001
                assert four.seen[0]["type"] == "error"
        async with client(node, token_of(issuer, ttl_ms=10_000, age_s=60)) as five:
            assert await five.closed() == 4003
            assert [each.get("code") for each in five.seen] == ["token_expired"], five.seen
        for origin in ("https://evil.example", "null"):
            async with client(node, good, origin=origin) as evil:
                assert await evil.closed() == 4403
                assert [each["code"] for each in evil.seen] == ["origin_not_allowed"]
        for origin in ("https://app.example", f"http://127.0.0.1:{node.port}"):
            async with client(node, good, origin=origin) as page:
                await page.next(type="welcome")
        with pytest.raises(InvalidStatus) as caught:
            await websockets.connect(node.url.replace("/ws", "/nowhere"))
        assert caught.value.response.status_code == 403
        async with client(node, good) as compressed:
            assert compressed.socket.protocol.extensions == []
        assert good not in node.log.read_text()


async def test_expiry_closes_and_renewal_keeps_an_open_socket(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    async with web_node(tmp_path, issuer, nats_server.url) as node:
        short = token_of(issuer, ttl_ms=3_000)
        async with client(node, short) as ending, client(node, short) as renewed:
            begun = time.monotonic()
            await renewed.next(type="heartbeat", within_s=2)
            assert (await ending.next(type="auth_expiring"))["data"]["expires_in_ms"] <= 3_000
            await renewed.send(method="auth", token=token_of(issuer), req_id=1)
            await renewed.next(type="ack", method="auth")
            assert await ending.closed(6) == 4003
            assert 1.5 < time.monotonic() - begun < 4.2
            await renewed.send(method="ping", req_id=2)
            assert (await renewed.next(type="pong"))["req_id"] == 2


async def test_each_subscription_has_its_own_interval(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner = Owner()
    owner.trade(A)
    async with (
        web_node(tmp_path, issuer, nats_server.url) as node,
        live_owner(nats_server.url, owner) as live,
    ):
        await ready(node)
        good = token_of(issuer)
        async with client(node, good) as quick, client(node, good) as calm:
            for each, interval_ms in ((quick, 100), (calm, 1_000)):
                request = {"method": "subscribe", "channel": "token_stats", "tokens": [A]}
                await each.send(**request, interval_ms=interval_ms)
                await each.next(type="snapshot")
            for _ in range(25):
                await live.publish(owner.trade(A))
                await asyncio.sleep(0.1)
            seen = {}
            for name, each in (("quick", quick), ("calm", calm)):
                seen[name] = [1]
                while seen[name][-1] < owner.seq:
                    update = await each.next(type="update", channel="token_stats")
                    seen[name].append(update["seq"])
            assert len(seen["quick"]) > 15
            assert 2 <= len(seen["calm"]) - 1 <= 5, "the newest of each second, the last one too"


async def test_hostile_clients_do_not_affect_others(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner = Owner()
    async with (
        web_node(tmp_path, issuer, nats_server.url) as node,
        live_owner(nats_server.url, owner) as live,
    ):
        await ready(node)
        good = token_of(issuer)
        async with client(node, good) as calm:
            await calm.send(method="subscribe", channel="token_stats", tokens=[A])
            await calm.next(type="snapshot")
            loris = slow_handshakes(node, 50)
            for payload, codes in (
                ("x" * 65_537, {4029}),
                (b"\x00" * 1_000_000, {4029}),
                ("x" * 1_200_000, {1009, 1006}),
            ):
                async with client(node, good) as rude:
                    await rude.next(type="welcome")
                    await rude.socket.send(payload)
                    assert await rude.closed() in codes
            async with client(node, good) as flood:
                await flood.next(type="welcome")
                request = {"method": "subscribe", "channel": "token_stats", "tokens": [A]}
                with contextlib.suppress(websockets.ConnectionClosed):
                    for number in range(10_000):
                        await flood.socket.send(json.dumps(request | {"req_id": number}))
                assert await flood.closed() in {4029, 1006}
            for garbage in ("{", "null", '{"method":"subscribe"}', b"\xff\xfe", '"\\ud800"'):
                async with client(node, good) as odd:
                    await odd.next(type="welcome")
                    await odd.socket.send(garbage)
                    assert (await odd.next(type="error"))["code"].startswith("request_")
            await broken_frames(node)
            await live.publish(owner.trade(A))
            begun = time.monotonic()
            assert (await calm.next(type="update", channel="token_stats"))["seq"] == 1
            assert time.monotonic() - begun < 1
            await eventually_async(lambda: all_ended(loris), 15, "the end of slow handshakes")
        assert "Traceback" not in node.log.read_text()


def slow_handshakes(node: WebNode, count: int) -> list[socket.socket]:
    """Open connections that send an upgrade and then nothing, or half an upgrade."""
    opened = []
    for number in range(count):
        each = socket.create_connection(("127.0.0.1", node.port))
        each.setblocking(False)
        head = b"GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        each.sendall(head if number % 2 else head[: number + 1])
        opened.append(each)
    return opened


async def all_ended(opened: list[socket.socket]) -> bool:
    """Return whether the node has closed all of them."""
    for each in list(opened):
        try:
            ended = each.recv(4_096) == b""
        except BlockingIOError:
            ended = False
        except ConnectionError:
            ended = True
        if ended:
            each.close()
            opened.remove(each)
    return not opened


async def broken_frames(node: WebNode) -> None:
    """Send bytes that are not a WebSocket frame, after a valid handshake."""
    key = "dGhlIHNhbXBsZSBub25jZQ=="
    head = (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nUpgrade: websocket\r\n"
        f"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
    for raw in (b"\xff" * 64, b"\x81\x05hello", b"\x83\x80\0\0\0\0", b"\x89\xfe\xff\xff"):
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(head.encode())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(raw)
        async with asyncio.timeout(10):
            with contextlib.suppress(ConnectionError):
                while await reader.read(65_536):
                    pass
        writer.close()


async def test_sigterm_notifies_clients_closes_with_1012_and_ends(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    async with web_node(tmp_path, issuer, nats_server.url) as node:
        good = [token_of(issuer, f"user{number}") for number in range(5)]
        opened = [await websockets.connect(node.url, subprotocols=["bearer", t]) for t in good]
        clients = [WsClient(each) for each in opened]
        for each in clients:
            await each.next(type="welcome")
        begun = time.monotonic()
        node.process.send_signal(signal.SIGTERM)
        for each in clients:
            assert await each.closed() == 1012
            (goodbye,) = [m for m in each.seen if m["type"] == "server_shutdown"]
            assert 500 <= goodbye["data"]["retry_after_ms"] <= 5_000
        assert await asyncio.to_thread(node.process.wait, 10) == 0
        assert time.monotonic() - begun < 5


async def test_a_client_that_never_closes_does_not_delay_the_shutdown(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    async with web_node(tmp_path, issuer, nats_server.url) as node:
        reader, writer = await asyncio.open_connection("127.0.0.1", node.port)
        writer.write(
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{node.port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        await reader.readuntil(b"\r\n\r\n")
        node.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(node.process.wait, 10) == 0
        writer.close()


async def test_stale_within_three_seconds_fresh_within_two_on_the_same_socket(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner = Owner()
    owner.trade(A)
    async with (
        web_node(tmp_path, issuer, nats_server.url) as node,
        live_owner(nats_server.url, owner) as live,
    ):
        await ready(node)
        async with client(node, token_of(issuer)) as reader, client(node, token_of(issuer)) as idle:
            await reader.send(method="subscribe", channel="token_stats", tokens=[A])
            assert (await reader.next(type="snapshot"))["data"]["stale"] is False
            live.speaks = False
            for each in (reader, idle):
                status = await each.next(4, type="update", channel="status")
                assert status["data"]["stale"] is True
            assert time.monotonic() - live.spoke_at < 3.2
            row = await reader.next(channel="token_stats")
            assert (row["data"]["stale"], row["seq"]) == (True, 1)
            owner.trade(A)  # lost
            live.speaks = True
            begun = time.monotonic()
            await fresh(reader, seq=2)
            assert time.monotonic() - begun < 2
            nats_server.kill()
            begun = time.monotonic()
            while (await idle.next(4, type="update", channel="status"))["data"]["connected"]:
                pass
            while not (await reader.next(4, channel="token_stats"))["data"]["stale"]:
                pass
            assert time.monotonic() - begun < 3.2
            owner.trade(A)
            nats_server.start()
            begun = time.monotonic()
            await fresh(reader, seq=3)
            assert time.monotonic() - begun < 2


async def fresh(reader: WsClient, seq: int) -> None:
    """Wait until the row is shown as fresh, with this seq."""
    while True:
        row = await reader.next(10, channel="token_stats")
        if not row["data"]["stale"] and row["seq"] == seq:
            return


async def test_two_nodes_show_the_same_trades_candles_and_numbers(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner, seller = Owner(), Seller(A, start=time.time_ns() // 1_000_000)
    owner.trade(A)
    seller.sell(3)
    async with (
        web_node(tmp_path, issuer, nats_server.url) as one,
        web_node(tmp_path, issuer, nats_server.url) as two,
        live_owner(nats_server.url, owner) as live,
        live_seller(nats_server.url, seller) as market,
    ):
        await ready(one)
        await ready(two)
        token = token_of(issuer)
        async with client(one, token) as first, client(two, token) as second:
            for each in (first, second):
                await each.send(method="subscribe", channel="trades", tokens=[A])
                snapshot = await each.next(type="snapshot", channel="trades")
                assert [t["n"] for t in snapshot["data"]["trades"]] == [1, 2, 3]
                await each.send(method="subscribe", channel="candles", tokens=[A], interval="1h")
                await each.next(type="snapshot", channel="candles")
                await each.send(method="subscribe", channel="token_stats", tokens=[A])
                await each.next(type="snapshot", channel="token_stats")
            await market.publish(seller.sell(2, price="7"))
            seller.sell(1)  # lost
            await market.publish(seller.sell(1))
            await live.publish(owner.trade(A))
            for each in (first, second):
                got: list[int] = []
                while len(got) < 4:
                    update = await each.next(type="update", channel="trades")
                    got += [trade["n"] for trade in update["data"]["trades"]]
                assert got == [4, 5, 6, 7]
            for each in (first, second):
                await each.send(method="subscribe", channel="candles", tokens=[A], interval="1h")
                await each.send(method="subscribe", channel="token_stats", tokens=[A])
            candles = [
                await each.next(type="snapshot", channel="candles") for each in (first, second)
            ]
            while candles[0]["seq"] < 7:
                candles[0] = await first.next(channel="candles")
            while candles[1]["seq"] < 7:
                candles[1] = await second.next(channel="candles")
            assert candles[0]["data"] == candles[1]["data"]
            assert candles[0]["data"]["candles"][0]["trades"] == 7
            assert candles[0]["data"]["candles"][0]["high_usd"] == "7"
