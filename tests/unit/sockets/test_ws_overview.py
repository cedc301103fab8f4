"""The overview channel: one computation for equal subscriptions, and never too many."""

from __future__ import annotations

from typing import Any

from api.board.overview import Overview, OverviewQuery
from tests.unit.sockets.support import A, B, Node, node


def count_reads(made: Node) -> list[str]:
    reads: list[str] = []
    read = made.reader.read

    def counted(query: OverviewQuery, now_ms: int) -> Overview:
        reads.append(query.sort)
        return read(query, now_ms)

    made.reader.read = counted  # type: ignore[method-assign]
    return reads


async def test_equal_subscriptions_share_one_computation_a_flush() -> None:
    hub = node()
    reads = count_reads(hub)
    clients = [await hub.client().enter(f"user{number}") for number in range(20)]
    for client in clients:
        await client.subscribe("overview", window="5m")
    assert len(reads) == 1
    hub.run(100)
    reads.clear()
    for _ in range(10):
        for _ in range(10):
            hub.trade(A)
            hub.run(10)
    assert 9 <= len(reads) <= 11
    for client in clients:
        got = client.messages("update")
        assert 9 <= len(got) <= 11
        assert got[-1]["params"] == {
            **{"window": "5m", "sort": "volume_usd", "order": "desc", "limit": 50}
        }


async def test_nothing_is_computed_or_sent_while_nothing_changes() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("overview")
    hub.run(100)
    client.messages()
    reads = count_reads(hub)
    for _ in range(20):
        hub.beat()
        hub.run(100)
    assert reads == []
    assert client.messages("update") == []


async def test_it_equals_the_answer_of_rest() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("overview", window="1h", sort="trades", limit=1, min_trades=1)
    hub.trade(A), hub.trade(B)
    hub.run(300)
    (update,) = client.messages("update")
    query = OverviewQuery(window="1h", sort="trades", limit=1, min_trades=1)
    overview = hub.reader.read(query, hub.now)
    assert update["data"]["totals"]["volume_usd"] == overview.totals.volume_usd == "3.000000"
    assert [each["token_id"] for each in update["data"]["tokens"]] == [overview.tokens[0].token_id]
    assert update["as_of"] == overview.as_of


async def test_different_overviews_take_turns_and_leave_time_to_the_loop() -> None:
    hub = node()
    client = await hub.client().enter()
    sorts = ["volume_usd", "trades", "traders", "buys", "sells"]
    for sort in sorts:
        await client.subscribe("overview", sort=sort)
    hub.run(200)
    reads = count_reads(hub)
    hub.cost_s = 0.004  # per reading of the clock, so that each computation takes 4 ms
    for _ in range(50):
        hub.trade(A)
        hub.run(10)
    rounds = 50
    assert len(reads) <= rounds
    turns = {sort: reads.count(sort) for sort in sorts}
    assert max(turns.values()) - min(turns.values()) <= 1
    assert min(turns.values()) >= 1


async def test_the_overview_says_that_it_is_stale() -> None:
    hub = node()
    hub.trade(A)
    client = await hub.client().enter()
    await client.subscribe("overview")
    hub.run(200)
    client.messages()
    hub.run(3_200)
    updates: list[dict[str, Any]] = [
        each for each in client.messages("update") if each["channel"] == "overview"
    ]
    assert [each["data"]["stale"] for each in updates] == [True]
    assert updates[0]["data"]["tokens"][0]["stale"] is True
