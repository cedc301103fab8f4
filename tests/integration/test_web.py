"""A web node as deployed: Daphne in its own process, a real NATS, and an owner in the test.

The owner is the reference of the unit tests, connected to NATS: it answers resyncs and sends
heartbeats and patches. These tests kill NATS, so they do not use the shared engines.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from aggregator.contracts.names import heartbeat_subject, resync_subject, token_subject
from aggregator.contracts.stats import ResyncRequest, TokenStats
from aggregator.runtime.config import load
from api.auth.demo_issuer import ensure_keys, issue
from api.services import services
from infra.embedded.nats import Nats
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.migrated import migrated_database
from tests.unit.api.samples import AS_OF, Owner

pytestmark = pytest.mark.engines

ROOT = Path(__file__).resolve().parents[2]
HEARTBEAT_S = 0.25
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


def token_of(issuer: Path) -> str:
    return issue(
        ensure_keys(issuer),
        subject="test",
        issuer="swaps-demo",
        audience="swaps",
        scope="stats:read ops:read",
        issued_at=int(time.time()),
        ttl_ms=600_000,
    )


def daphne(port: int, log: Path, **env: str) -> subprocess.Popen[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    clean["DATABASE_FILE"] = str(migrated_database(log.parent))
    command = [sys.executable, "-m", "daphne", "-b", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as file:
        return subprocess.Popen(
            [*command, "--access-log", os.devnull, "swapsite.asgi:application"],
            cwd=ROOT,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**clean, **env},
        )


class Web:
    """One web node and a client with a valid token."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path, token: str) -> None:
        self.process = process
        self.log = log
        self.token = token
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{port}",
            headers={"Authorization": f"Bearer {token}"},
            timeout=5,
        )

    async def get(self, path: str, **headers: str) -> httpx.Response:
        return await self.client.get(path, headers=headers)

    async def up(self) -> None:
        async def alive() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                return (await self.get("/healthz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(alive, within_s=20)

    async def ready(self) -> bool:
        return (await self.get("/readyz")).status_code == 200

    async def reasons(self) -> list[str]:
        answer = await self.get("/readyz")
        reasons: list[str] = answer.json()["reasons"]
        return reasons

    async def stats(self, token_id: str) -> dict[str, Any]:
        answer: dict[str, Any] = (
            await self.get(f"/api/tokens/{quote(token_id, safe='')}/stats")
        ).json()
        return answer


async def eventually(condition: Callable[[], Awaitable[bool]], within_s: float) -> float:
    """Wait for the condition and return how long it took, in seconds."""
    begun = time.monotonic()
    while not await condition():
        took = time.monotonic() - begun
        assert took < within_s, f"not within {within_s} s"
        await asyncio.sleep(0.02)
    return time.monotonic() - begun


@contextlib.asynccontextmanager
async def web_node(tmp_path: Path, issuer: Path, nats_url: str) -> AsyncIterator[Web]:
    port, log = free_port(), tmp_path / "daphne.log"
    process = daphne(
        port,
        log,
        NATS_URL=nats_url,
        DJANGO_SECRET_KEY="of-a-test",
        JWT_PUBLIC_KEY_FILE=str(issuer / "public.pem"),
        LOG_LEVEL="debug",
    )
    web = Web(process, port, log, token_of(issuer))
    try:
        await web.up()
        yield web
    finally:
        await web.client.aclose()
        process.kill()
        process.wait()


class LiveOwner:
    """The reference owner on NATS."""

    def __init__(self, client: Client, owner: Owner) -> None:
        self.owner = owner
        self.speaks = True
        self.asked = 0
        self.spoke_at = 0.0
        self._client = client

    async def on_resync(self, message: Msg) -> None:
        self.asked += 1
        for chunk in self.owner.answer(msgspec.json.decode(message.data, type=ResyncRequest)):
            await self._client.publish(message.reply, msgspec.json.encode(chunk))

    async def publish(self, *patches: TokenStats) -> None:
        for patch in patches:
            await self._client.publish(token_subject(patch.token_id), msgspec.json.encode(patch))

    async def speak(self) -> None:
        while True:
            if self.speaks and self._client.is_connected:
                beat = msgspec.json.encode(
                    self.owner.heartbeat(time.time_ns() // 1_000_000 - AS_OF)
                )
                await self._client.publish(heartbeat_subject(self.owner.partition), beat)
                self.spoke_at = time.monotonic()
            await asyncio.sleep(HEARTBEAT_S)


async def _ignore(_: Exception) -> None:
    """Ignore the client's own reports of a NATS that a test has killed."""


@contextlib.asynccontextmanager
async def live_owner(
    nats_url: str, owner: Owner, kind: type[LiveOwner] = LiveOwner
) -> AsyncIterator[LiveOwner]:
    client = await nats.connect(
        nats_url, max_reconnect_attempts=-1, reconnect_time_wait=0.1, error_cb=_ignore
    )
    live = kind(client, owner)
    await client.subscribe(resync_subject(owner.partition), cb=live.on_resync)
    await client.flush()
    speaking = asyncio.create_task(live.speak())
    try:
        yield live
    finally:
        speaking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await speaking
        await client.close()


async def test_it_hydrates_follows_and_repairs(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner = Owner()
    ids = [A, "cosmos:ibc/27394F", "stellar:USDC-G%2FA", "kadena:ñ.é"]
    for token_id in ids:
        owner.trade(token_id)
    async with (
        web_node(tmp_path, issuer, nats_server.url) as web,
        live_owner(nats_server.url, owner) as live,
    ):
        await eventually(web.ready, within_s=5)
        for number, token_id in enumerate(ids, 1):
            assert (await web.stats(token_id))["seq"] == number

        await live.publish(owner.trade(A), owner.trade(B))

        async def follows() -> bool:
            return (await web.stats(B)).get("seq") == 6

        assert await eventually(follows, within_s=2) < 1
        asked = live.asked
        owner.trade(A)  # lost before one that arrives
        await live.publish(owner.trade(B))

        async def repaired() -> bool:
            return (await web.stats(A))["seq"] == 7 and (await web.stats(B))["seq"] == 8

        await eventually(repaired, within_s=2)
        owner.trade(A)  # lost, and nothing follows but a heartbeat

        async def repaired_by_heartbeat() -> bool:
            return (await web.stats(A))["seq"] == 9

        await eventually(repaired_by_heartbeat, within_s=2)
        assert live.asked == asked + 2

        overview = (await web.get("/api/overview?window=5m")).json()
        assert overview["totals"]["tokens"] == 5
        micros = sum(each.seq * 1_000_000 for each in owner.rows.values())
        assert overview["totals"]["volume_usd"] == f"{micros // 1_000_000}.000000"
        first = await web.get(f"/api/tokens/{A}/stats")
        again = await web.get(f"/api/tokens/{A}/stats", **{"If-None-Match": first.headers["ETag"]})
        # A compressed answer carries a weak tag (RFC 9110, 8.8.1).
        tag = first.headers["ETag"].removeprefix("W/")
        assert (tag, again.status_code, again.content) == ('"1-9"', 304, b"")
        (partition,) = (await web.get("/api/status")).json()["partitions"]
        assert (partition["epoch"], partition["seq"], partition["in_sync"]) == (1, 9, True)


async def test_nats_dies_and_comes_back(tmp_path: Path, issuer: Path, nats_server: Nats) -> None:
    owner = Owner()
    owner.trade(A)
    async with (
        web_node(tmp_path, issuer, nats_server.url) as web,
        live_owner(nats_server.url, owner) as live,
    ):
        await eventually(web.ready, within_s=5)
        nats_server.kill()

        async def says_so() -> bool:
            return any("NATS at" in each for each in await web.reasons())

        await eventually(says_so, within_s=5)

        async def stale() -> bool:
            return bool((await web.stats(A))["stale"])

        await eventually(stale, within_s=5)
        assert (await web.get("/api/overview")).json()["stale"] is True
        assert (await web.stats(A))["seq"] == 1
        owner.trade(A)
        owner.trade(B)  # lost: NATS is down
        nats_server.start()

        async def caught_up() -> bool:
            return await web.ready() and (await web.stats(B)).get("seq") == 3

        await eventually(caught_up, within_s=10)
        shown = await web.stats(A)
        assert (shown["seq"], shown["stale"]) == (2, False)
        await live.publish(owner.trade(B))

        async def follows() -> bool:
            return (await web.stats(B))["seq"] == 4

        await eventually(follows, within_s=2)


async def test_a_silent_owner_is_stale_after_three_seconds_and_a_new_one_takes_over(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    owner = Owner()
    for _ in range(3):
        owner.trade(A)
    async with web_node(tmp_path, issuer, nats_server.url) as web:
        async with live_owner(nats_server.url, owner) as live:
            await eventually(web.ready, within_s=5)
            live.speaks = False

            async def stale() -> bool:
                return bool((await web.stats(A))["stale"])

            await eventually(stale, within_s=5)
            assert 2.9 < time.monotonic() - live.spoke_at < 3.6
            assert any("no heartbeat for 3" in each for each in await web.reasons())
        successor = Owner(epoch=2)
        successor.state = "rebuilding"
        async with live_owner(nats_server.url, successor):

            async def rebuilding() -> bool:
                return "partition 0 is rebuilding: offset 0 of 5" in await web.reasons()

            await eventually(rebuilding, within_s=5)
            assert (await web.stats(A))["epoch"] == 1
            successor.trade(A, offsets=2)
            successor.state = "live"
            # Live, but it lags what is shown: the old rows stay, and are stale.
            await eventually(stale, within_s=1)
            assert (await web.stats(A))["epoch"] == 1
            successor.trade(A)

            async def taken_over() -> bool:
                return await web.ready() and (await web.stats(A))["epoch"] == 2

            await eventually(taken_over, within_s=10)
            assert (await web.stats(A))["next_offset"] == 3


async def test_without_nats_it_starts_and_says_why_it_is_not_ready(
    tmp_path: Path, issuer: Path
) -> None:
    async with web_node(tmp_path, issuer, f"nats://user:pass-word@127.0.0.1:{free_port()}") as web:

        async def refused() -> bool:
            return any("unreachable: [Errno 111]" in each for each in await web.reasons())

        await eventually(refused, within_s=5)
        assert "no partition is known yet: no aggregator sends heartbeats" in await web.reasons()
        assert (await web.get("/api/tokens/x:y/stats")).json()["code"] == "board_not_ready"
        assert "pass-word" not in (await web.get("/readyz")).text
        assert "pass-word" not in web.log.read_text()


async def test_the_log_is_json_lines_without_tokens_and_sigterm_ends_it(
    tmp_path: Path, issuer: Path, nats_server: Nats
) -> None:
    async with (
        web_node(tmp_path, issuer, nats_server.url) as web,
        live_owner(nats_server.url, Owner()),
    ):
        await eventually(web.ready, within_s=5)
        assert (await web.get("/api/overview")).status_code == 200
        bad = await web.get("/api/overview", Authorization=f"Bearer {web.token}x")
        assert (bad.status_code, bad.json()["code"]) == (401, "token_signature")
        web.process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(web.process.wait, 5) == 0
        lines = [json.loads(line) for line in web.log.read_text().splitlines()]
        assert any(each["event"] == "nats_connected" for each in lines)
        assert web.token not in web.log.read_text()
        assert not any("Traceback" in json.dumps(each) for each in lines)


async def test_a_server_with_lifespan_starts_and_ends_the_feed(settings: Any) -> None:
    settings.SWAPS = load({"DJANGO_SECRET_KEY": "x", "NATS_URL": f"nats://127.0.0.1:{free_port()}"})
    services.cache_clear()
    asgi = importlib.import_module("swapsite.asgi")
    incoming: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    outgoing: asyncio.Queue[dict[str, str]] = asyncio.Queue()
    lifespan = asyncio.create_task(
        asgi.application({"type": "lifespan"}, incoming.get, outgoing.put)
    )
    await incoming.put({"type": "lifespan.startup"})
    assert await outgoing.get() == {"type": "lifespan.startup.complete"}
    assert services().feed.started
    await incoming.put({"type": "lifespan.shutdown"})
    assert await outgoing.get() == {"type": "lifespan.shutdown.complete"}
    await lifespan
    assert not services().feed.started
    services.cache_clear()


@pytest.mark.parametrize(
    ("env", "said"),
    [
        pytest.param({}, ["DJANGO_SECRET_KEY: required"], id="no secret"),
        pytest.param(
            {"DJANGO_SECRET_KEY": "x", "STALE_AFTER": "soon", "CLOCK": "moon"},
            ["STALE_AFTER: 'soon'", "CLOCK: 'moon'"],
            id="every fault together",
        ),
    ],
)
def test_a_bad_setting_stops_the_start(
    tmp_path: Path, env: dict[str, str], said: list[str]
) -> None:
    process = daphne(free_port(), tmp_path / "log", **env)
    assert process.wait(20) == 2
    log = (tmp_path / "log").read_text()
    assert all(each in log for each in said)
    assert "Traceback" not in log


def test_commands_need_no_secret_but_name_every_fault() -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DJANGO_")}
    command = [sys.executable, "manage.py", "check"]
    assert subprocess.run(command, cwd=ROOT, env=clean, check=False).returncode == 0
    bad = {**clean, "KAFKA_PARTITIONS": "none", "DEBUG": "perhaps"}
    done = subprocess.run(command, cwd=ROOT, env=bad, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "KAFKA_PARTITIONS: 'none'" in done.stderr and "DEBUG: 'perhaps'" in done.stderr
    assert "Traceback" not in done.stderr
