"""Compare docs/websocket.md and docs/asyncapi.yaml with the service: examples and messages."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import signal
import time
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
import yaml
from channels_redis.pubsub import RedisPubSubChannelLayer

from api.auth.control import GROUP, NOTICE
from api.auth.demo_issuer import ensure_keys
from api.board.overview import Overview
from api.board.row import TokenRow
from api.sockets.live_candles import CandlesData
from api.sockets.protocol import Auth, Fault, ListSubscriptions, Ping, Subscribe, Unsubscribe
from api.sockets.status import StatusData
from api.sockets.trades import TradesData
from api.trades.stream import Gap
from infra.embedded.nats import Nats
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.integration.test_web import live_owner
from tests.integration.ws_node import (
    Message,
    client,
    eventually_async,
    live_seller,
    token_of,
    web_node,
)
from tests.unit.api.samples import Owner
from tests.unit.sockets.trading import Seller

DOCS = Path(__file__).resolve().parents[2] / "docs"
STRUCTS = (
    *(TokenRow, TradesData, Gap, CandlesData, Overview, StatusData, Fault),
    *(Subscribe, Unsubscribe, ListSubscriptions, Ping, Auth),
)


def examples(side: str) -> list[Message]:
    text = (DOCS / "websocket.md").read_text()
    found = re.findall(rf"```json {side}\n(.*?)\n```", text, re.DOTALL)
    assert len(found) == text.count(f"```json {side}")
    return [json.loads(each) for each in found]


@cache
def document() -> dict[str, Any]:
    """Parse the document once, since a pure Python parser is slow. Copy it to change it."""
    loaded: dict[str, Any] = yaml.safe_load((DOCS / "asyncapi.yaml").read_text())
    return loaded


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Return a validator of one schema, with the components that it refers to."""
    whole = schema | {"components": document()["components"]}
    return jsonschema.Draft202012Validator(whole)


FRAME = validator(document()["components"]["messages"]["frame"]["payload"])


def test_the_document_is_asyncapi_3() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of its own models' field names
        from asyncapi3.models.asyncapi import AsyncAPI3

    AsyncAPI3.model_validate(document())
    broken = copy.deepcopy(document())
    broken["operations"]["sendFrame"]["action"] = "shout"
    with pytest.raises(ValueError, match="action"):
        AsyncAPI3.model_validate(broken)


def without_prose(schema: Any) -> Any:
    """Return the schema without its descriptions, whose wording may differ."""
    if isinstance(schema, dict):
        return {
            name: without_prose(each)
            for name, each in schema.items()
            if name != "description" or not isinstance(each, str)
        }
    return [without_prose(each) for each in schema] if isinstance(schema, list) else schema


def test_its_schemas_are_those_of_the_code() -> None:
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    documented = document()["components"]["schemas"]
    chosen = {name: documented.get(name) for name in schemas}
    assert without_prose(chosen) == without_prose(json.loads(json.dumps(schemas)))


@pytest.mark.parametrize("example", examples("server"), ids=lambda each: each["type"])
def test_each_documented_message_is_in_it(example: Message) -> None:
    FRAME.validate([example])


def test_each_kind_of_message_has_an_example() -> None:
    titles = [
        schema["title"]
        for name, schema in document()["components"]["schemas"].items()
        if name.startswith("Message_")
    ]
    schemas = document()["components"]["schemas"]
    missing = [
        title
        for title in titles
        if not any(
            validator(schemas[f"Message_{title}"]).is_valid(each) for each in examples("server")
        )
    ]
    assert missing == []


@pytest.mark.parametrize("example", examples("client"), ids=lambda each: each["method"])
def test_each_documented_request_is_in_it(example: Message) -> None:
    operation = document()["operations"]["receiveRequest"]["messages"]
    names = [each["$ref"].rpartition("/")[2] for each in operation]
    payloads = [document()["components"]["messages"][name]["payload"] for name in names]
    fitting = [payload for payload in payloads if validator(payload).is_valid(example)]
    assert len(fitting) == 1


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Stack]:
    with Stack(tmp_path / "stack", only=(Nats, Redis)) as stack:
        yield stack


def kinds_of_messages() -> set[tuple[str | None, str]]:
    """Return (channel, type) of every message in the document."""
    found = set()
    for name, whole in document()["components"]["schemas"].items():
        for schema in whole.get("oneOf", [whole]) if name.startswith("Message_") else []:
            fields = schema["properties"]
            channel, kind = (fields.get(each, {}) for each in ("channel", "type"))
            channels = channel.get("enum", [channel.get("const")])
            kinds = kind.get("enum", [kind.get("const")])
            found |= {(one, other) for one in channels for other in kinds}
    return found


def as_kind(message: Message) -> tuple[str | None, str]:
    return message.get("channel"), message["type"]


@pytest.mark.engines
async def test_every_documented_request_works_and_every_answer_is_documented(
    tmp_path: Path, engines: Stack
) -> None:
    nats_url, redis_url = engines.nats.url, engines.redis.url
    issuer = tmp_path / "issuer"
    ensure_keys(issuer)
    owner, seller = Owner(), Seller("ethereum:0xaa", start=time.time_ns() // 1_000_000)
    for token_id in ("ethereum:0xaa", "ethereum:0xbb"):
        owner.trade(token_id)
    seller.sell(3)
    refused = {"no-token"}
    async with (
        web_node(tmp_path, issuer, nats_url, REDIS_URL=redis_url) as node,
        live_owner(nats_url, owner) as live,
        live_seller(nats_url, seller) as market,
    ):
        await eventually_async(lambda: node.answers("/readyz", 200), 10, "readiness")
        async with client(node) as socket, client(node, token_of(issuer)) as idle:
            seen: list[Message] = []
            for example in examples("client"):
                request = dict(example)
                if request["method"] == "auth":
                    request["token"] = token_of(issuer, ttl_ms=58_000)
                await socket.send(**request)
                expected = len(request.get("tokens", [""])) or 1
                while expected:
                    message = await socket.next(20)
                    seen.append(message)
                    assert message["type"] != "error", (request, message)
                    if message["type"] in {"ack", "pong"}:
                        expected -= 1
                        assert message.get("req_id") == request.get("req_id")
                        failed = "error" in message
                        assert failed == (message.get("token") in refused), (request, message)
            while ("trades", "gap") not in map(as_kind, seen):
                # By then the owner has been asked: what is published from now on is an update.
                seen.append(await socket.next(20))
            await live.publish(owner.trade("ethereum:0xaa"))
            await market.publish(seller.sell(1))
            seen.append(await idle.next(20, type="heartbeat"))
            await idle.send(method="subscribe", channel="candles", req_id="wrong")
            seen.append(await idle.next(20, type="error"))
            layer = RedisPubSubChannelLayer(hosts=[redis_url], prefix="control:")
            async with asyncio.timeout(30):
                while seen[-1]["type"] != "notice":
                    await layer.group_send(GROUP, {"type": NOTICE, "text": "soon"})
                    seen.append(await idle.next(20))
            await layer.flush()
            live.speaks = False
            wanted = kinds_of_messages() - {(None, "server_shutdown"), *map(as_kind, seen)}
            async with asyncio.timeout(30):
                while wanted:
                    seen.append(await socket.next(20))
                    wanted.discard(as_kind(seen[-1]))
            node.process.send_signal(signal.SIGTERM)
            assert await idle.closed(20) == 1012
        seen += idle.seen
        assert set(map(as_kind, seen)) == kinds_of_messages()
        for each in seen:
            FRAME.validate([each])
