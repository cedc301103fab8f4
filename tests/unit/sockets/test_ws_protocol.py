"""Invalid requests: each is answered with what is wrong, and the connection stays open."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.sockets.support import A, node

SUBSCRIBE = {"method": "subscribe", "channel": "token_stats", "tokens": [A]}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        pytest.param("", "request_malformed", "not a JSON object", id="nothing"),
        pytest.param("{", "request_malformed", "not a JSON object", id="half an object"),
        pytest.param("\udcff", "request_malformed", "not a JSON object", id="half a character"),
        pytest.param(
            '{"method":"subscribe","channel":"overview","q":' + "[" * 50_000,
            *("request_malformed", "not a JSON object"),
            id="deep nesting",
        ),
        pytest.param("[]", "request_invalid", "object", id="an array"),
        pytest.param("{}", "request_invalid", "method", id="no method"),
        pytest.param('{"method":"fly"}', "request_invalid", "fly", id="an unknown method"),
        pytest.param(
            '{"method":"SUBSCRIBE"}',
            *("request_invalid", "did you mean subscribe?"),
            id="a method in upper case",
        ),
        pytest.param(
            '{"method":"fly"}',
            *("request_invalid", "subscribe, unsubscribe, list_subscriptions, ping, auth"),
            id="the methods that there are",
        ),
        pytest.param('{"method":1}', "request_invalid", "method", id="a number as method"),
        pytest.param('{"method":"subscribe"}', "request_invalid", "channel", id="no channel"),
    ],
)
async def test_a_text_that_is_not_a_request(text: str, code: str, said: str) -> None:
    hub = node()
    client = await hub.client().enter()
    await client.session.receive(text)
    hub.run(100)
    (error,) = client.messages()
    assert (error["type"], error["code"]) == ("error", code)
    assert said in error["message"]
    assert client.socket.closed is None


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param(
            {"channel": "weather"},
            "channel: 'weather' is none of token_stats, trades, candles, overview, status",
            id="an unknown channel",
        ),
        pytest.param({"channel": "trade"}, "did you mean trades?", id="nearly a channel"),
        pytest.param(
            {"channel": "candles", "interval": "3m"},
            "interval: '3m' is none of 1m, 5m, 15m, 1h, 4h, 1d",
            id="an interval that there is not",
        ),
        pytest.param({"token": A}, "did you mean tokens?", id="nearly a field"),
        pytest.param({"tokens": A}, "tokens", id="tokens that are no list"),
        pytest.param({"tokens": []}, "tokens: give at least one", id="no token"),
        pytest.param({"tokens": ["e:x"] * 201}, "tokens: at most 200", id="too many tokens"),
        pytest.param({"tokens": [1]}, "tokens", id="a token that is no text"),
        pytest.param({"interval_ms": 99}, "interval_ms: give 100 to 10000", id="too often"),
        pytest.param({"interval_ms": 10_001}, "interval_ms: give 100 to 10000", id="too seldom"),
        pytest.param({"interval_ms": "1s"}, "interval_ms", id="an interval that is a text"),
        pytest.param({"interval": "1m"}, "interval: give it for", id="an interval not of candles"),
        pytest.param({"channel": "candles"}, "interval: give it for", id="no interval"),
        pytest.param({"channel": "candles", "interval": "7m"}, "interval", id="a wrong interval"),
        pytest.param({"channel": "status"}, "tokens: the channel status has none", id="tokens"),
        pytest.param({"sort": "trades"}, "sort: the channel token_stats", id="another's field"),
        pytest.param({"speed": 1}, "speed", id="an unknown field"),
        pytest.param({"resume": {"epoch": "x"}}, "resume", id="a wrong resume"),
        pytest.param({"resume": {A: {"z": 1}}}, "resume", id="a wrong resume of a token"),
        pytest.param({"resume": 5}, "resume", id="a resume that is a number"),
    ],
)
async def test_a_subscription_that_breaks_a_rule(fields: dict[str, Any], said: str) -> None:
    hub = node()
    client = await hub.client().enter()
    await client.session.receive(json.dumps(SUBSCRIBE | fields | {"req_id": "q"}))
    hub.run(100)
    (error,) = client.messages()
    assert (error["type"], error["code"], error["req_id"]) == ("error", "request_invalid", "q")
    assert said in error["message"]
    assert client.connection.subscriptions == {}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        pytest.param({"window": "9m"}, "window", id="a window that is not kept"),
        pytest.param({"sort": "luck"}, "sort: give one of volume_usd", id="an unknown order"),
        pytest.param({"sort": "volum"}, "did you mean volume_usd?", id="nearly an order"),
        pytest.param({"limit": 101}, "limit: at most 100", id="more than 100"),
        pytest.param({"limit": 0.5}, "limit", id="half a token"),
        pytest.param({"limit": "many"}, "limit", id="a text"),
        pytest.param({"chain": "No Chain"}, "chain", id="no chain"),
        pytest.param({"min_volume_usd": -1}, "min_volume_usd", id="a negative volume"),
        pytest.param({"q": "x" * 129}, "q", id="a long search"),
    ],
)
async def test_an_overview_that_breaks_a_rule(fields: dict[str, Any], said: str) -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("overview", **fields, req_id=3)
    hub.run(100)
    (error,) = client.messages()
    assert (error["code"], error["req_id"]) == ("request_invalid", 3)
    assert said in error["message"]


@pytest.mark.parametrize(
    "token",
    ["", "aa", "Ethereum:0xaa", "ethereum:", "ethereum:a b", "e:" + "x" * 257, "e:\n", "a.*:>"],
)
async def test_an_invalid_token_id_is_refused_in_its_ack(token: str) -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("trades", token, "cosmos:ibc/27394F")
    hub.run(100)
    bad, good = client.messages("ack")
    assert bad["error"]["code"] == "token_invalid"
    assert "error" not in good
    assert len(client.connection.subscriptions) == 1


CHECKSUMMED = "ethereum:0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2"
WETH = CHECKSUMMED.lower()


@pytest.mark.parametrize(
    ("channel", "fields"), [("token_stats", {}), ("trades", {}), ("candles", {"interval": "1m"})]
)
async def test_a_token_is_subscribed_to_by_any_spelling(
    channel: str, fields: dict[str, Any]
) -> None:
    hub = node()
    hub.trade(WETH)
    client = await hub.client().enter()
    await client.subscribe(channel, CHECKSUMMED, **fields, req_id=1)
    hub.run(100)
    ack, *rest = client.messages()
    assert (ack["type"], ack["token"], ack["asked"]) == ("ack", WETH, CHECKSUMMED)
    assert "error" not in ack
    assert {each["token"] for each in rest} <= {WETH}
    await client.send(method="list_subscriptions")
    await client.send(method="unsubscribe", channel=channel, tokens=[WETH], **fields)
    hub.run(100)
    listed, gone = client.messages("ack")
    assert [each["token"] for each in listed["data"]["subscriptions"]] == [WETH]
    assert "asked" not in gone
    assert "error" not in gone


async def test_numbers_come_under_the_canonical_id() -> None:
    hub = node()
    hub.trade(WETH)
    client = await hub.client().enter()
    await client.subscribe("token_stats", CHECKSUMMED)
    hub.run(100)
    (snapshot,) = client.messages("snapshot")
    hub.trade(WETH)
    hub.run(100)
    (update,) = client.messages("update")
    for each in (snapshot, update):
        assert (each["token"], each["data"]["token_id"], "asked" in each) == (WETH, WETH, False)


async def test_a_resume_is_found_under_the_id_that_was_asked_for() -> None:
    hub = node()
    hub.trade(WETH)
    client = await hub.client().enter()
    await client.subscribe("token_stats", CHECKSUMMED)
    hub.run(100)
    (snapshot,) = client.messages("snapshot")
    again = await hub.client().enter()
    have = {"epoch": snapshot["epoch"], "seq": snapshot["seq"]}
    await again.subscribe("token_stats", CHECKSUMMED, resume={CHECKSUMMED: have})
    hub.run(100)
    (ack,) = again.messages("ack")
    assert ack["resumed"] is True


async def test_an_upper_case_chain_is_reported() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("trades", "Ethereum:WETH")
    hub.run(100)
    (ack,) = client.messages("ack")
    assert (ack["token"], ack["error"]["code"]) == ("Ethereum:WETH", "token_invalid")
    assert "lower case: ethereum" in ack["error"]["message"]


async def test_a_hidden_token_does_not_exist_in_any_spelling() -> None:
    hub = node()
    hub.hidden.add(WETH)
    client = await hub.client().enter()
    await client.subscribe("token_stats", CHECKSUMMED)
    hub.run(100)
    (ack,) = client.messages("ack")
    assert ack["error"]["code"] == "token_not_found"


async def test_a_token_that_the_operators_hide_does_not_exist() -> None:
    hub = node()
    hub.hidden.add(A)
    client = await hub.client().enter()
    for channel, fields in (("token_stats", {}), ("trades", {}), ("candles", {"interval": "1m"})):
        await client.subscribe(channel, A, **fields)
    hub.run(100)
    assert [each["error"]["code"] for each in client.messages("ack")] == ["token_not_found"] * 3
    assert client.connection.subscriptions == {}


async def test_without_stats_read_there_is_only_the_status() -> None:
    hub = node()
    client = await hub.client().enter()
    assert client.connection.claims is not None
    claims = client.connection.claims
    client.connection.claims = type(claims)(
        subject="alice", scopes=frozenset({"ws:connect"}), expires_at=1e12, token_id=None
    )
    await client.send(**SUBSCRIBE)
    await client.subscribe("status")
    hub.run(100)
    error, ack, snapshot = client.messages()
    assert (error["code"], ack["channel"], snapshot["type"]) == (
        *("scope_missing", "status", "snapshot"),
    )
