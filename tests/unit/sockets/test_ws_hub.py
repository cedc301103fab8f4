"""The hub with clients whose socket is a list: what each gets, when, and what ends it."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from tests.unit.sockets.support import SUBJECT, A, B, Client, Node, node


def seqs(messages: list[dict[str, Any]]) -> list[int]:
    return [each["seq"] for each in messages if each.get("channel") == "token_stats"]


async def test_a_subscriber_gets_ack_then_snapshot_then_updates_within_a_flush() -> None:
    hub = node()
    hub.trade(A)
    client = await hub.client().enter()
    await client.subscribe("token_stats", A, req_id="r")
    hub.run(100)
    ack, snapshot = client.messages()
    assert (ack["type"], ack["token"], ack["req_id"]) == ("ack", A, "r")
    assert (snapshot["type"], snapshot["seq"], snapshot["data"]["seq"]) == ("snapshot", 1, 1)
    hub.trade(A)
    hub.run(100)
    (update,) = client.messages()
    assert (update["type"], update["token"], update["epoch"], update["seq"]) == ("update", A, 1, 2)
    assert update["data"]["stale"] is False


async def test_a_flush_is_one_frame_with_the_newest_of_each_topic() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", A, B)
    hub.run(100)
    client.messages()
    for _ in range(5):
        hub.trade(A)
    hub.trade(B)
    hub.run(100)
    assert len(client.socket.frames) == 1
    assert sorted(seqs(client.messages())) == [5, 6]


async def test_a_message_is_written_once_for_all_its_subscribers() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{number}") for number in range(20)]
    for client in clients:
        await client.subscribe("token_stats", A)
    hub.run(100)
    hub.trade(A)
    hub.now += 10
    hub.hub.tick(hub.now)
    waiting = {id(m) for each in clients for m in each.connection.pending.values()}
    assert len(waiting) == 1


async def test_the_work_is_spread_over_the_rounds() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{number}") for number in range(1_000)]
    for client in clients:
        await client.subscribe("token_stats", A)
    hub.run(200)
    for client in clients:
        client.messages()
    hub.trade(A)
    served = []
    for _ in range(10):
        hub.run(10)
        served.append(sum(bool(each.messages()) for each in clients))
    assert sum(served) == 1_000
    assert max(served) <= 200


async def test_an_idle_connection_does_not_wait_for_its_slot() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{number}") for number in range(40)]
    for client in clients:
        await client.subscribe("token_stats", A)
    hub.run(300)
    for client in clients:
        client.messages()
    hub.trade(A)
    hub.run(20)
    assert [seqs(each.messages()) for each in clients] == [[1]] * 40
    hub.trade(A)
    hub.run(10)
    assert sum(bool(each.messages()) for each in clients) <= 4
    hub.run(90)
    assert all(each.connection.pending == {} for each in clients)
    assert hub.hub._early == {}


async def test_a_late_round_makes_no_early_flushes() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{number}") for number in range(40)]
    for client in clients:
        await client.subscribe("token_stats", A)
    hub.run(300)
    for client in clients:
        client.messages()
    hub.trade(A)
    for _ in range(2):
        hub.now += 10
        hub.hub.tick(hub.now, hurried=True)
    assert sum(bool(each.messages()) for each in clients) <= 8
    hub.run(10)
    assert len(hub.hub._early) == 0
    assert all(each.connection.pending == {} for each in clients)


async def test_a_token_that_changes_all_the_time_reaches_everybody_all_the_time() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{number}") for number in range(500)]
    for client in clients:
        await client.subscribe("token_stats", A)
    hub.run(300)
    for client in clients:
        client.messages()
    frames = []
    for _ in range(50):
        hub.trade(A)
        hub.run(20)
        frames.append(sum(len(each.messages()) for each in clients))
    assert max(frames) <= 2 * (100 + 50), "a round sends to its slot and to 100 besides"
    for client in clients:
        assert client.connection.sent_at >= hub.now - 60


async def test_a_row_that_a_resync_repeats_is_not_sent_again() -> None:
    hub = node()
    hub.trade(A)
    client = await hub.client().enter()
    await client.subscribe("token_stats", A)
    hub.trade(A)
    hub.run(100)
    client.messages()
    hub.board.reconnected(hub.now)
    for _ in range(5):
        hub.beat()
        hub.run(100)
    assert client.messages("update") == []
    hub.trade(A)
    hub.run(100)
    assert seqs(client.messages()) == [3]


async def test_interval_ms_paces_one_subscription_and_not_the_other() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", A, interval_ms=1_000)
    await client.subscribe("token_stats", B)
    hub.run(100)
    client.messages()
    got: dict[str, int] = {A: 0, B: 0}
    for _ in range(30):
        hub.trade(A)
        hub.trade(B)
        hub.run(100)
        hub.beat()
        for message in client.messages("update"):
            if "token" in message:
                got[message["token"]] += 1
    assert got == {A: 3, B: 30}


async def test_a_client_that_does_not_read_costs_one_message_a_topic_and_then_its_socket() -> None:
    hub = node()
    slow, quick = await hub.client().enter("slow"), await hub.client().enter("quick")
    for client in (slow, quick):
        await client.subscribe("token_stats", A, B)
    hub.run(100)
    slow.messages(), quick.messages()
    slow.socket.blocked = True
    for number in range(90):
        hub.trade(A if number % 2 else B)
        hub.run(100)
        hub.beat()
        assert seqs(quick.messages())[-1:] == [number + 1]
        assert len(slow.connection.pending) <= 2
    assert slow.socket.closed is None
    hub.run(1_500)
    assert slow.socket.closed is not None
    assert slow.socket.closed[0] == 4008
    assert quick.socket.closed is None


async def test_a_client_that_reads_again_in_time_gets_the_newest() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", A)
    hub.run(100)
    client.messages()
    client.socket.blocked = True
    for _ in range(50):
        hub.trade(A)
        hub.run(100)
        hub.beat()
    client.socket.blocked = False
    hub.run(100)
    assert seqs(client.messages())[-1] == 50


async def test_the_outbox_is_bounded_by_bytes() -> None:
    hub = node(queue_bytes=65_536)
    client = await hub.client().enter()
    client.socket.blocked = True
    for _ in range(40):
        client.connection.push(b"x" * 1_000)
    hub.run(200)
    assert client.socket.closed is None
    for _ in range(40):
        client.connection.push(b"x" * 1_000)
    hub.run(200)
    assert client.socket.closed == (4008, "too much waits to be read")


async def test_silence_is_filled_with_a_heartbeat_a_second() -> None:
    hub = node()
    client = await hub.client().enter()
    client.session.welcome()
    hub.run(100)
    client.messages()
    beats = 0
    for _ in range(5):
        hub.beat()
        hub.run(1_000)
        beats += len(client.messages("heartbeat"))
    assert beats in {4, 5}


async def test_a_token_that_expires_is_announced_and_then_closes_the_socket() -> None:
    hub = node()
    hub.expires["short"] = hub.now / 1_000 + 90
    client = await hub.client().enter("short")
    hub.run(29_000)
    assert client.messages("auth_expiring") == []
    hub.run(1_200)
    (expiring,) = client.messages("auth_expiring")
    assert 58_000 < expiring["data"]["expires_in_ms"] <= 60_000
    hub.run(58_500)
    assert client.socket.closed is None
    hub.run(1_500)
    assert client.socket.closed == (4003, "the token has expired")
    assert client.messages("error")[-1]["code"] == "token_expired"


async def test_a_newer_token_renews_in_place() -> None:
    hub = node()
    hub.expires["alice"] = hub.now / 1_000 + 30
    client = await hub.client().enter("alice")
    await client.subscribe("token_stats", A)
    hub.run(1_000)
    client.messages()
    hub.expires["alice:next"] = hub.now / 1_000 + 300
    await client.send(method="auth", token="alice:next", req_id=9)
    hub.run(100)
    (ack,) = client.messages("ack")
    assert (ack["method"], ack["req_id"]) == ("auth", 9)
    assert ack["data"]["expires_at"] == int(hub.expires["alice:next"] * 1_000)
    hub.run(60_000)
    assert client.socket.closed is None
    hub.trade(A)
    hub.run(100)
    assert client.messages("update")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        pytest.param("bob", "subject_changed", id="another subject"),
        pytest.param("bad", "token_signature", id="a bad signature"),
        pytest.param("noscope", "scope_missing", id="no scope"),
    ],
)
async def test_a_renewal_that_is_refused_leaves_the_old_token(token: str, code: str) -> None:
    hub = node()
    client = await hub.client().enter("alice")
    await client.send(method="auth", token=token, req_id=1)
    hub.run(100)
    (error,) = client.messages("error")
    assert (error["code"], error["req_id"]) == (code, 1)
    assert client.socket.closed is None
    assert client.connection.claims is not None
    assert client.connection.claims.subject == "alice"


async def test_a_client_without_a_token_may_only_show_one_and_has_ten_seconds() -> None:
    hub = node()
    idle, late = hub.client(), hub.client()
    late.session.welcome()
    await late.subscribe("token_stats", A, req_id=1)
    await late.send(method="ping", req_id=2)
    hub.run(100)
    welcome, error, pong = late.messages()
    assert welcome["data"]["authenticated"] is False
    assert (error["code"], pong["type"]) == ("unauthenticated", "pong")
    hub.run(9_000)
    await late.send(method="auth", token="alice")
    await late.subscribe("token_stats", A)
    hub.run(1_100)
    assert idle.socket.closed == (4001, "no token was shown in time")
    assert [each["type"] for each in late.messages("ack")] == ["ack", "ack"]
    assert late.socket.closed is None


@pytest.mark.parametrize(
    ("token", "close", "code"),
    [
        pytest.param("bad", 4001, "token_signature", id="a bad signature"),
        pytest.param("noscope", 4001, "scope_missing", id="no scope"),
        pytest.param("old", 4003, "token_expired", id="expired"),
    ],
)
async def test_a_refused_token_closes(token: str, close: int, code: str) -> None:
    hub = node()
    hub.expires["old"] = 0
    client = await hub.client().enter(token)
    assert client.socket.closed is not None
    assert client.socket.closed[0] == close
    assert client.messages("error")[0]["code"] == code


async def test_a_subject_has_at_most_ten_connections() -> None:
    hub = node()
    clients = [await hub.client().enter("alice") for _ in range(11)]
    assert [each.socket.closed for each in clients[:10]] == [None] * 10
    assert clients[10].socket.closed is not None
    assert clients[10].socket.closed[0] == 4029
    clients[10].gone()
    clients[0].gone()
    again = await hub.client().enter("alice")
    other = await hub.client().enter("bob")
    assert again.socket.closed is other.socket.closed is None


async def test_a_connection_has_at_most_200_subscriptions() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", *(f"e:{n}" for n in range(199)))
    await client.subscribe("token_stats", "e:0", "e:199", "e:200", "e:201")
    hub.run(100)
    acks = client.messages("ack")[-4:]
    codes = [each.get("error", {}).get("code") for each in acks]
    assert codes == [None, None, "too_many_subscriptions", "too_many_subscriptions"]
    await client.send(method="unsubscribe", channel="token_stats", tokens=["e:5"])
    await client.subscribe("token_stats", "e:201")
    await client.send(method="list_subscriptions")
    hub.run(100)
    listed = client.messages("ack")[-1]["data"]["subscriptions"]
    assert len(listed) == 200
    assert {"channel": "token_stats", "token": "e:201", "interval_ms": 100} in listed


async def test_ten_thousand_subscribes_are_cut_off_by_the_rate() -> None:
    hub = node()
    client = await hub.client().enter()
    for number in range(10_000):
        await client.subscribe("token_stats", f"e:{number}")
    assert client.socket.closed == (4029, "at most 20 messages a second")
    assert len(client.connection.subscriptions) <= 40
    assert client.messages("error")[-1]["code"] == "rate_limited"


async def test_twenty_messages_a_second_for_a_minute_are_allowed() -> None:
    hub = node()
    client = await hub.client().enter()
    for _ in range(60):
        for _ in range(20):
            await client.send(method="ping")
        hub.run(1_000)
    assert client.socket.closed is None
    assert len(client.messages("pong")) == 1_200


async def test_a_client_refused_by_its_rate_learns_when_to_retry() -> None:
    hub = node()
    client = await hub.client().enter()
    hub.purse = 1
    await client.send(method="ping")
    await client.send(method="ping")
    hub.run(100)
    assert [each["type"] for each in client.messages()] == ["pong", "error"]
    assert client.socket.closed == (4029, "too many requests: wait 7 s")
    late = hub.client()
    assert await late.session.attempt() is False
    hub.purse = 4
    refused = await hub.client().enter()
    for each in (late, refused):
        (error,) = each.messages()
        assert (error["code"], error["data"]) == ("rate_limited", {"retry_after_ms": 7_000})
        assert each.connection.closing == 4029


async def test_own_limits_of_a_subject_hold_from_the_moment_they_are_given() -> None:
    hub = node()
    client = await hub.client().enter()
    hub.subjects["alice"] = SUBJECT._replace(connections=1, subscriptions=1)
    await client.subscribe("token_stats", A, B)
    hub.run(100)
    acks = client.messages("ack")
    assert [each.get("error", {}).get("code") for each in acks] == [None, "too_many_subscriptions"]
    second = await hub.client().enter()
    assert second.connection.closing == 4029
    hub.subjects["alice"] = SUBJECT._replace(connections=11)
    crowd = [await hub.client().enter() for _ in range(11)]
    assert [each.connection.closing for each in crowd] == [None] * 10 + [4029]


async def test_a_message_over_64_kib_closes() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.session.receive("x" * 65_537)
    assert client.socket.closed == (4029, "a message may have at most 65536 bytes")


async def test_close_where_closes_a_token_or_a_subject_and_says_how_many() -> None:
    hub = node()
    names = ["alice:1", "alice:2", "alice:1", "bob:9", "carol"]
    one, two, three, four, five = [await hub.client().enter(name) for name in names]
    assert hub.hub.close_where(jti="1", code=4003, reason="revoked") == 2
    assert hub.hub.close_where(jti="1", code=4003, reason="revoked") == 0
    assert [each.socket.closed is not None for each in (one, two, three, four, five)] == [
        *(True, False, True, False, False)
    ]
    assert one.messages("error")[0]["code"] == "token_revoked"
    assert hub.hub.close_where(sub="alice", code=4003, reason="revoked") == 1
    assert two.socket.closed == (4003, "revoked")
    assert (four.socket.closed, five.socket.closed) == (None, None)


async def test_a_notice_reaches_every_client() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{n}") for n in range(3)]
    hub.hub.notice("soon")
    hub.run(100)
    assert [each.messages("notice") for each in clients] == [
        [{"type": "notice", "message": "soon"}]
    ] * 3


async def test_staleness_is_broadcast_and_marked_in_the_rows() -> None:
    hub = node()
    hub.trade(A)
    reader, other = await hub.client().enter("reader"), await hub.client().enter("other")
    await reader.subscribe("token_stats", A)
    hub.run(100)
    reader.messages(), other.messages()
    hub.run(2_900)
    assert reader.messages("update") == other.messages("update") == []
    hub.run(200)
    (status,) = other.messages("update")
    assert (status["channel"], status["data"]["stale"]) == ("status", True)
    rows = [each for each in reader.messages("update") if each["channel"] == "token_stats"]
    assert [(each["seq"], each["data"]["stale"]) for each in rows] == [(1, True)]
    hub.beat()
    hub.run(150)
    (status,) = other.messages("update")
    assert status["data"]["stale"] is False
    rows = [each for each in reader.messages("update") if each["channel"] == "token_stats"]
    assert [(each["seq"], each["data"]["stale"]) for each in rows] == [(1, False)]


async def test_the_loss_of_nats_is_broadcast_immediately() -> None:
    hub = node()
    client = await hub.client().enter()
    hub.run(100)
    client.messages()
    hub.connected = False
    hub.run(100)
    (status,) = client.messages("update")
    assert status["data"]["connected"] is False
    hub.run(1_200)
    (heartbeat,) = client.messages("heartbeat")
    assert heartbeat["data"] == {"stale": True, "stale_partitions": []}
    hub.connected = True
    hub.run(1_200)
    assert [each["data"]["stale"] for each in client.messages("heartbeat")] == [False]


async def test_resume_sends_only_what_is_newer() -> None:
    hub = node()
    hub.trade(A), hub.trade(B)
    client = await hub.client().enter()
    resume = {A: {"epoch": 1, "seq": 1}, B: {"epoch": 1, "seq": 1}}
    await client.subscribe("token_stats", A, B, resume=resume)
    hub.run(100)
    first, second, snapshot = client.messages()
    assert (first["token"], first.get("resumed")) == (A, True)
    assert (second["token"], second.get("resumed")) == (B, None)
    assert (snapshot["token"], snapshot["seq"]) == (B, 2)
    await client.subscribe("token_stats", A, resume={"epoch": 0, "seq": 99})
    hub.run(100)
    assert [each["type"] for each in client.messages()] == ["ack", "snapshot"]


async def test_a_client_ahead_of_the_node_gets_the_row() -> None:
    hub = node()
    hub.trade(A)
    client = await hub.client().enter()
    for beyond in ({"epoch": 2, "seq": 1}, {"epoch": 1, "seq": 9}):
        await client.subscribe("token_stats", A, resume=beyond)
        hub.run(100)
        ack, snapshot = client.messages()
        assert "resumed" not in ack
        assert (snapshot["type"], snapshot["epoch"], snapshot["seq"]) == ("snapshot", 1, 1)


async def test_an_unknown_token_is_null_until_it_trades() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", "solana:Mint")
    hub.run(100)
    (snapshot,) = client.messages("snapshot")
    assert snapshot["data"] is None
    hub.trade("solana:Mint")
    hub.run(100)
    (update,) = client.messages("update")
    assert update["data"]["token_id"] == "solana:Mint"


async def test_an_unloaded_node_does_not_claim_that_a_token_has_no_numbers() -> None:
    hub = Node()
    hub.owner.trade(A)
    clients = [await hub.client().enter(f"user{number}") for number in range(3)]
    for client in clients:
        await client.subscribe("token_stats", A, "solana:Mint")
    clients[2].gone()
    hub.run(100)
    assert [[each["type"] for each in client.messages()] for client in clients[:2]] == [
        ["ack", "ack"]
    ] * 2
    hub.beat()
    hub.run(100)
    for client in clients[:2]:
        sent = {each["token"]: each for each in client.messages("snapshot")}
        assert (sent[A]["seq"], sent["solana:Mint"]["data"]) == (1, None)
    hub.trade(A)
    hub.run(100)
    assert [each["seq"] for each in clients[0].messages("update")] == [2]
    await clients[0].subscribe("token_stats", "solana:Other")
    hub.run(100)
    assert clients[0].messages("snapshot")[0]["data"] is None


async def test_after_unsubscribing_nothing_is_sent_and_nothing_is_kept() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", A)
    await client.subscribe("trades", A)
    await client.subscribe("candles", A, interval="1m")
    await client.subscribe("overview", window="5m")
    await client.subscribe("status")
    hub.run(100)
    hub.trade(A)
    await client.send(method="unsubscribe", channel="token_stats", tokens=[A, B])
    await client.send(method="unsubscribe", channel="trades", tokens=[A])
    await client.send(method="unsubscribe", channel="candles", tokens=[A], interval="1m")
    await client.send(method="unsubscribe", channel="overview", window="5m")
    await client.send(method="unsubscribe", channel="status")
    hub.run(100)
    acks = [each for each in client.messages("ack") if each["method"] == "unsubscribe"]
    codes = [each.get("error", {}).get("code") for each in acks]
    assert codes == [None, "not_subscribed", None, None, None, None]
    hub.trade(A)
    hub.run(1_000)
    assert client.messages("update") == []
    assert hub.hub._topics == hub.hub._subscribers == {}
    client.gone()
    assert list(hub.hub.connections) == []
    assert hub.hub._accounts == {}


async def test_subscribing_again_replaces_the_subscription() -> None:
    hub = node()
    client = await hub.client().enter()
    await client.subscribe("token_stats", A)
    await client.subscribe("token_stats", A, interval_ms=500)
    await client.send(method="list_subscriptions")
    hub.run(100)
    listed = client.messages("ack")[-1]["data"]["subscriptions"]
    assert [each["interval_ms"] for each in listed] == [500]


async def test_shutdown_says_goodbye_and_waits_for_the_clients() -> None:
    hub = node()
    clients = [await hub.client().enter(f"user{n}") for n in range(3)]
    parting = asyncio.create_task(hub.hub.shutdown(5))
    await asyncio.sleep(0)
    assert hub.hub.full
    for client in clients:
        assert client.socket.closed == (1012, "restarting")
        (goodbye,) = client.messages("server_shutdown")
        assert 500 <= goodbye["data"]["retry_after_ms"] <= 5_000
        assert not parting.done()
        client.gone()
    await asyncio.wait_for(parting, 1)


async def test_shutdown_does_not_wait_indefinitely() -> None:
    hub = node()
    await hub.client().enter()
    await asyncio.wait_for(hub.hub.shutdown(0.05), 1)


async def test_a_fault_in_a_round_does_not_end_the_rounds(caplog: pytest.LogCaptureFixture) -> None:
    hub = node()
    client: Client = await hub.client().enter()
    await client.subscribe("token_stats", A)
    broken = [True]
    tick = hub.hub.tick

    def flaky(now_ms: int, **_: object) -> None:
        if broken.pop() if broken else False:
            raise KeyError("a bug")
        tick(now_ms)

    hub.hub.tick = flaky  # type: ignore[method-assign]
    written = asyncio.Event()
    write = client.socket.write

    def noted(frame: bytes) -> None:
        write(frame)
        written.set()

    client.socket.write = noted  # type: ignore[method-assign]
    hub.hub.start()
    await asyncio.wait_for(written.wait(), 5)
    await hub.hub.stop()
    assert json.loads(client.socket.frames[0])[0]["type"] == "ack"
    assert "hub_round_failed" in caplog.text
