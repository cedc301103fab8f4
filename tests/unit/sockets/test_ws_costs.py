"""What subscriptions cost, how a client waits for its rate, and what may wait for a client."""

from __future__ import annotations

import json
from typing import Any

import pytest

from api.auth.access import SubjectLimits
from api.sockets.session import PAID_WITHIN_S
from tests.unit.sockets.support import A, B, Client, Node, node
from tests.unit.sockets.test_ws_trades import answer, market

MANY = [f"ethereum:0x{number}" for number in range(200)]


def errors(client: Client) -> list[dict[str, Any]]:
    return client.messages("error")


async def test_stats_cost_one_a_token_and_a_stream_more_until_it_is_live() -> None:
    hub, seller = market()
    seller.sell(3)
    client, other = await hub.client().enter("one"), await hub.client().enter("two")
    await client.subscribe("token_stats", A, B)
    assert hub.charged["one"] == 2
    await client.subscribe("trades", A)
    assert hub.charged["one"] == 7
    answer(hub, seller)
    await other.subscribe("trades", A)
    assert hub.charged["two"] == 1
    await other.subscribe("candles", A, interval="1m")
    assert hub.charged["two"] == 6, "its minutes are not here yet"
    hub.run(200)
    answer(hub, seller)
    await client.subscribe("candles", A, interval="1m")
    assert hub.charged["one"] == 8
    await client.subscribe("status")
    await client.subscribe("overview", window="5m")
    assert hub.charged["one"] == 12
    await other.subscribe("overview", window="5m")
    assert hub.charged["two"] == 7, "it is computed for the first one anyway"


async def test_a_request_for_many_tokens_waits_for_the_rate_and_is_not_refused() -> None:
    hub = node()
    client = await hub.client().enter()
    begun = hub.now
    await client.subscribe("trades", *MANY)
    # 1,000 at 100 a second, of which 200 immediately.
    assert 8_000 <= hub.now - begun <= 10_000
    hub.run(100)
    acks = client.messages("ack")
    assert len(acks) == 200
    assert not any("error" in each for each in acks)
    assert client.socket.reading
    assert client.socket.closed is None


async def test_repeated_subscribing_and_leaving_is_rate_limited() -> None:
    hub = node()
    for token in MANY:
        hub.trade(token)
    client = await hub.client().enter()
    begun, subscribed = hub.now, 0
    while hub.now - begun < 20_000:
        await client.subscribe("trades", *MANY)
        subscribed += sum(each["method"] == "subscribe" for each in client.messages("ack"))
        await client.send(method="unsubscribe", channel="trades", tokens=MANY)
        client.messages()
        hub.run(50)
    assert subscribed <= (20 * 100 + 200) / 5 + 200


async def test_nothing_is_read_while_a_client_waits_and_the_wait_ends() -> None:
    hub = node()
    hub.subjects["slow"] = SubjectLimits(1, 50)
    client = await hub.client().enter("slow")
    seen = []
    sleep = client.session._sleep

    async def watched(seconds: float) -> None:
        seen.append(client.socket.reading)
        await sleep(seconds)

    client.session._sleep = watched
    begun = hub.now
    await client.subscribe("trades", *MANY)
    assert seen
    assert not any(seen)
    assert PAID_WITHIN_S * 1_000 <= hub.now - begun <= PAID_WITHIN_S * 1_000 + 500
    (refused,) = errors(client)
    assert refused["code"] == "rate_limited"
    assert refused["data"]["retry_after_ms"] > 0
    assert client.socket.closed is not None
    assert client.socket.closed[0] == 4029


@pytest.mark.parametrize("req_id", ["x" * 65, 2**63, -(2**63) - 1, 10**3_000])
async def test_a_long_request_id_is_refused_by_the_name_of_the_field(req_id: object) -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", A, req_id=req_id)
    hub.run(100)
    (refused,) = errors(client)
    assert refused["code"] == "request_invalid"
    assert "req_id" in refused["message"]
    assert "req_id" not in refused, "it is not repeated"
    assert len(json.dumps(refused)) < 200
    await client.subscribe("token_stats", A, req_id="x" * 64)
    hub.run(100)
    assert client.messages("ack")[0]["req_id"] == "x" * 64


async def test_the_outbox_is_checked_at_every_push() -> None:
    hub = node(queue_bytes=65_536)
    client = await hub.client().enter()
    client.socket.blocked = True
    for _ in range(20):
        client.connection.push(b"x" * 10_000)
    assert client.socket.closed == (4008, "too much waits to be read")
    assert client.connection.account.outbox_bytes == 0


async def test_a_reading_client_gets_more_than_its_limit_in_several_frames() -> None:
    hub = node(queue_bytes=65_536)
    client = await hub.client().enter()
    for number in range(20):
        client.connection.push(b'{"type":"x","n":%d,"y":"%s"}' % (number, b"y" * 10_000))
    hub.run(100)
    assert client.socket.closed is None
    assert len(client.socket.frames) >= 3
    assert [each["n"] for each in client.messages("x")] == list(range(20))


async def test_all_outboxes_of_a_subject_are_bounded_together() -> None:
    hub = node(queue_bytes=100_000, subject_queue_bytes=200_000)
    hoarders = [await hub.client().enter("one") for _ in range(8)]
    small, other = await hub.client().enter("one"), await hub.client().enter("two")
    for each in [*hoarders, small, other]:
        each.socket.blocked = True
    small.connection.push(b"x" * 100)
    account = small.connection.account
    assert account is hoarders[0].connection.account
    for _ in range(9):
        for each in hoarders:
            each.connection.push(b"x" * 10_000)
            assert account.outbox_bytes <= 210_000
        other.connection.push(b"x" * 10_000)
    assert any(each.socket.closed for each in hoarders)
    assert small.socket.closed is None, "who has less than its share is left alone"
    assert other.socket.closed is None
    for each in [*hoarders, small]:
        each.gone()
    assert account.outbox_bytes == 0
    assert set(hub.hub._accounts) == {"two"}


async def test_a_client_that_reads_slowly_gets_its_answers_at_its_own_pace() -> None:
    hub, seller = market(queue_bytes=100_000)
    seller.sell(200)
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    answer(hub, seller)
    hub.run(100)
    client.messages()
    hub.subjects["alice"] = SubjectLimits(10**6, 10**6)
    client.socket.blocked = True
    waits = 0
    sleep = client.session._sleep

    async def takes(seconds: float) -> None:
        nonlocal waits
        waits += 1
        client.socket.blocked = False
        await sleep(max(seconds, 0.1))
        client.socket.blocked = True

    client.session._sleep = takes
    for _ in range(20):
        await client.subscribe("trades", A)  # 40 KB
    assert waits
    assert client.socket.closed is None
    client.socket.blocked = False
    hub.run(100)
    assert len(client.messages("snapshot")) == 20


async def overviews(hub: Node, subject: str, count: int) -> Client:
    client = await hub.client().enter(subject)
    for number in range(count):
        await client.subscribe("overview", window="5m", q=f"{subject}{number}")
    return client


async def test_many_overviews_of_one_client_do_not_slow_down_those_of_others() -> None:
    hub = node()
    hub.subjects["greedy"] = SubjectLimits(10**6, 10**6)
    plain = [await hub.client().enter(f"user{number}") for number in range(3)]
    for each in plain:
        await each.subscribe("overview", window="5m")
    greedy = await overviews(hub, "greedy", 200)
    hub.cost_s = 0.001
    hub.run(500)
    for each in [*plain, greedy]:
        each.messages()
    for _ in range(100):
        hub.trade(A)
        hub.run(10)
    for each in plain:
        updates = [m for m in each.messages("update") if m["channel"] == "overview"]
        assert len(updates) >= 5, "as often as before, or every second turn"
