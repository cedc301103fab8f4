"""schemathesis and injections against a complete site: no 5xx, answers match their schemas, and no
text of a caller becomes a command of an engine.

The aggregator counts real swaps and the archive holds them, so that successful answers occur too.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import httpx
import jsonschema
import nats
import pytest
import redis
from clickhouse_driver import Client
from nats.aio.msg import Msg
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from api.auth.demo_issuer import ensure_keys, issue
from infra.embedded.stack import Stack
from tests.support.archived import archive
from tests.support.fuzzing import fuzz
from tests.support.processes import wait_until
from tests.support.service import ORIGIN, Service, swap
from tests.unit.api.injections import MARK, PARAMETERS, PAYLOADS

# The first test starts every engine of the module, which is slow on a busy machine.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

WITHIN_S = 30
TOKEN_ID = "ethereum:T3"
SCOPE = "stats:read history:read ops:read ws:connect"
# The NATS subjects of aggregator and web node, and the inboxes of their requests.
_SUBJECT = re.compile(
    r"_INBOX\.[\w.]+|swaps\.(heartbeat|archive|resync|history)\.\d+"
    r"|ws\.broadcast\.(token|trades)\.ethereum:T\d"
)


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, stack: Stack) -> Iterator[Service]:
    generous = dict.fromkeys(
        ("RATE_LIMIT", "RATE_BURST", "RATE_LIMIT_IP", "RATE_BURST_IP"), "100000"
    )
    directory = tmp_path_factory.mktemp("fuzzed")
    with (
        archive(stack.clickhouse.url) as kept,
        Service(directory, stack, CLICKHOUSE_URL=kept.url, **generous) as made,
    ):
        made.env["CLICKHOUSE_URL"] = kept.url
        topology = made.manage("ensure_topology")
        assert topology.returncode == 0, topology.stderr
        made.token = made.issue("fuzz", SCOPE)
        made.aggregator()
        made.web()
        made.wait_ready(60)
        made.produce([swap(number) for number in range(70)])
        made.wait_trades(70)

        wait_until(lambda: kept.count() == 70, 60, "the swaps are archived")
        yield made


def test_schemathesis(service: Service, tmp_path: Path) -> None:
    schema = service.get("/api/openapi.json").json()
    described = tmp_path / "openapi.json"
    described.write_text(json.dumps(schema))
    url = f"{ORIGIN}:{service.web_port}"
    done = fuzz(described, url, service.token, WITHIN_S, "--max-examples", "40")
    summary = done.stdout[done.stdout.rfind(" SUMMARY ") :]
    assert done.returncode == 0, done.stdout[-8_000:] + done.stderr
    assert service.token not in done.stdout
    print(summary)
    tested = re.search(r"Tested: (\d+)", summary)
    assert tested is not None and int(tested[1]) == len(schema["paths"]), summary
    assert service.get("/healthz").status_code == 200


def test_every_example_is_of_its_schema(service: Service) -> None:
    """Each answer and each problem has an example that matches its schema."""
    schema = service.get("/api/openapi.json").json()
    operations = [(path, each) for path, of in schema["paths"].items() for each in of.values()]
    for path, operation in operations:
        for status, response in operation["responses"].items():
            if status == "304":
                assert "content" not in response
                continue
            assert response["content"], f"{path} {status}"
            for media in response["content"].values():
                given = media.get("examples", {"one": {"value": media.get("example")}})
                assert given, f"{path} {status} has no example"
                rule = {**media["schema"], "components": schema["components"]}
                for each in given.values():
                    jsonschema.validate(each["value"], rule)


def test_answers_are_of_their_schema(service: Service) -> None:
    schema = service.get("/api/openapi.json").json()
    asked: dict[str, dict[str, str]] = {
        path: {} for path, methods in schema["paths"].items() if "get" in methods
    }
    asked["/api/overview"] = {"window": "1h"}
    asked["/api/tokens/stats"] = {"ids": f"{TOKEN_ID},a:none"}
    for path, params in asked.items():
        answer = service.get(path.replace("{token_id}", TOKEN_ID), **params)
        assert answer.status_code == 200, answer.text
        content = schema["paths"][path]["get"]["responses"]["200"]["content"]
        rule = {**content["application/json"]["schema"], "components": schema["components"]}
        jsonschema.validate(answer.json(), rule)


def test_gzip_and_tags_over_the_wire(service: Service) -> None:
    url = f"{ORIGIN}:{service.web_port}/api/overview"
    headers = {"Authorization": f"Bearer {service.token}"}
    packed = httpx.get(url, headers={**headers, "Accept-Encoding": "gzip"})
    plain = httpx.get(url, headers={**headers, "Accept-Encoding": "identity"})
    assert packed.headers["Content-Encoding"] == "gzip"
    assert len(packed.json()["tokens"]) == len(plain.json()["tokens"]) == 7
    head = httpx.head(url, headers=headers)
    assert (head.status_code, head.content) == (200, b"")
    stats = f"{ORIGIN}:{service.web_port}/api/tokens/{TOKEN_ID}/stats"
    first = httpx.get(stats, headers={**headers, "Accept-Encoding": "gzip"})
    again = httpx.get(stats, headers={**headers, "If-None-Match": first.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.timeout(400)
async def test_nothing_that_a_caller_writes_reaches_an_engine_as_a_command(
    service: Service,
) -> None:
    """Attack every parameter of every route and channel, and the subject of a token."""
    engines = service.engines
    before = _held(service)
    received: list[str] = []

    async def note(message: Msg) -> None:
        received.append(message.subject)

    listener = await nats.connect(engines.nats.url)
    await listener.subscribe(">", cb=note)
    await listener.flush()
    async with httpx.AsyncClient(
        base_url=f"{ORIGIN}:{service.web_port}",
        headers={"Authorization": f"Bearer {service.token}"},
        timeout=30,
    ) as client:
        for path, names in PARAMETERS.items():
            for payload in PAYLOADS:
                asked = [f"{path.format(quote(payload, safe=''))}"] if "{}" in path else []
                plain = path.format(quote(TOKEN_ID, safe=""))
                asked += [f"{plain}?{urlencode({name: payload})}" for name in names]
                for address in asked:
                    answer = await client.get(address)
                    assert answer.status_code in {200, 404, 422}, (address, answer.text)
                    assert "X-Injected" not in answer.headers
    await _abuse_the_socket(service)
    for payload in PAYLOADS:
        await _ask_as(service, payload)
    await listener.flush()
    await listener.close()
    odd = {each for each in received if not _SUBJECT.fullmatch(each)}
    assert received, "heartbeats at least"
    assert not odd
    with redis.Redis.from_url(engines.redis.url) as store:
        keys = [key.decode("utf-8", "replace") for key in store.scan_iter(count=1_000)]
    prefixes = {key.split(":")[0] for key in keys}
    assert prefixes <= {"dedupe", "snap", "board", "rl", "auth", "registry"}
    assert not [key for key in keys if MARK in key]
    after = _held(service)
    assert after == before, "no swap was lost, added or hidden"
    assert service.get("/healthz").status_code == 200


def _held(service: Service) -> tuple[Any, ...]:
    overview = service.overview()
    trades = service.get(f"/api/tokens/{TOKEN_ID}/trades").json()["trades"]
    with redis.Redis.from_url(service.engines.redis.url) as store:
        saved = sum(1 for _ in store.scan_iter("snap:*", count=1_000))
    with Client.from_url(service.env["CLICKHOUSE_URL"]) as archive:
        (rows,) = archive.execute("SELECT count() FROM raw_swaps")[0]
        tables = archive.execute("SHOW TABLES")
    assert rows == 70
    assert saved > 0
    return overview["totals"], trades, rows, saved, tables


async def _abuse_the_socket(service: Service) -> None:
    url = f"ws://127.0.0.1:{service.web_port}/ws"
    token = {"Authorization": f"Bearer {service.token}"}
    for payload in PAYLOADS:
        async with connect(url, additional_headers=token) as socket:
            await socket.recv()
            asked: list[dict[str, Any]] = [
                {"method": "subscribe", "channel": channel, "tokens": [payload], **more}
                for channel, more in (
                    ("token_stats", {}), ("trades", {}), ("candles", {"interval": "1m"}),
                )
            ]  # fmt: skip
            asked += [
                {"method": "subscribe", "channel": "overview", name: payload}
                for name in ("window", "sort", "order", "chain", "q", "req_id")
            ]
            asked += [
                {"method": payload},
                {"method": "subscribe", "channel": payload, "tokens": [payload]},
                {"method": "auth", "token": payload},
            ]
            for number, each in enumerate(asked):
                with suppress(ConnectionClosed):
                    await socket.send(json.dumps({"req_id": str(number), **each}))
                    async with asyncio.timeout(10):
                        await socket.recv()


async def _ask_as(service: Service, subject: str) -> None:
    """Use a token of such a subject, which becomes part of a key of the rate limits."""
    token = issue(
        ensure_keys(Path(service.env["ISSUER_DIR"])),
        subject=subject, issuer="swaps-demo", audience="swaps", scope=SCOPE,
        issued_at=int(time.time()), ttl_ms=60_000,
    )  # fmt: skip
    async with httpx.AsyncClient() as client:
        url = f"{ORIGIN}:{service.web_port}/api/overview?limit=1"
        answer = await client.get(url, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code in {200, 401}, answer.text
