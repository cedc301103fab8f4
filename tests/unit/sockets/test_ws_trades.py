"""Trades and candles from NATS to clients; the test is the other end of the wire."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import msgspec

from aggregator.contracts.names import history_subject, trades_subject
from aggregator.contracts.trades import HistoryRequest
from api.trades.questions import (
    ANSWER_WITHIN_MS,
    FIRST_PAUSE_MS,
    FIRST_TIMEOUT_PAUSE_MS,
    LONGEST_PAUSE_MS,
)
from tests.unit.sockets.support import A, Client, Node, encoded, node
from tests.unit.sockets.trading import Seller


def market(**limits: int) -> tuple[Node, Seller]:
    """A node that knows token A, and the owner of A's trades."""
    made = node(**limits)
    made.trade(A)
    return made, Seller(A)


def deliver(made: Node, message: Any) -> None:
    """Deliver a message on the token's subject if the node is subscribed to it."""
    handler = made.wire._watched.get(trades_subject(A))
    if handler is not None:
        handler(encoded(message))


def asked(made: Node) -> list[int]:
    """Return the questions in flight."""
    made.streams.tick(made.now)
    ids = []
    for question_id, subject, question in made.wire._to_ask:
        assert subject == history_subject(0)
        assert msgspec.json.decode(question, type=HistoryRequest).token_id == A
        ids.append(question_id)
    made.wire._to_ask = []
    return [each for each in ids if each in made.wire._asked]


def answer(made: Node, seller: Seller | None) -> None:
    """Answer every question; None means that the subject has no subscriber."""
    for question_id in asked(made):
        made.wire._asked.pop(question_id)(encoded(seller.history()) if seller else None)


def numbers(client: Client) -> list[int]:
    return [
        each["n"]
        for message in client.messages()
        if message.get("channel") == "trades" and message["type"] in {"snapshot", "update"}
        for each in message["data"]["trades"]
    ]


async def test_the_first_subscriber_waits_for_the_owner_and_misses_nothing() -> None:
    hub, seller = market()
    seller.sell(3)
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    hub.run(100)
    assert [each["type"] for each in client.messages()] == ["ack"]
    deliver(hub, seller.sell(2))
    answer(hub, seller)
    deliver(hub, seller.sell(1))
    hub.run(100)
    assert numbers(client) == [1, 2, 3, 4, 5, 6]
    second = await hub.client().enter("second")
    await second.subscribe("trades", A)
    hub.run(100)
    assert numbers(second) == [1, 2, 3, 4, 5, 6]
    assert asked(hub) == []


async def test_an_owner_that_is_away_is_asked_again_with_longer_pauses() -> None:
    hub, seller = market()
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    asked_at = []
    for _ in range(1_000):
        hub.run(10)
        asked_at += [hub.now for _ in asked_and_refused(hub)]
    pauses = [later - earlier for earlier, later in pairwise(asked_at)]
    assert len(pauses) > 5
    for number, pause_ms in enumerate(pauses):
        length_ms = min(FIRST_PAUSE_MS * 2**number, LONGEST_PAUSE_MS)
        # The jitter, and a question waits for the next round.
        assert length_ms // 2 <= pause_ms <= length_ms * 3 // 2 + 10
    seller.sell(1)
    for _ in range(LONGEST_PAUSE_MS * 3 // 2 // 10):
        hub.run(10)
        answer(hub, seller)
    hub.run(100)
    assert numbers(client) == [1]


def asked_and_refused(made: Node) -> list[int]:
    ids = asked(made)
    for question_id in ids:
        made.wire._asked.pop(question_id)(None)
    return ids


async def test_a_question_without_an_answer_is_sent_again() -> None:
    hub, _ = market()
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    first = asked(hub)
    hub.run(ANSWER_WITHIN_MS - 100)
    assert asked(hub) == []
    hub.run(100 + 2 * FIRST_TIMEOUT_PAUSE_MS)
    assert asked(hub) == [], "the pause begins when the node notices"
    hub.run(2 * FIRST_TIMEOUT_PAUSE_MS)
    assert len(asked(hub)) == len(first) == 1
    assert len(hub.wire._asked) == 1


async def test_resume_replays_and_reports_what_is_missing() -> None:
    hub, seller = market()
    seller.sell(300)
    client = await hub.client().enter()
    await client.subscribe("trades", A, resume={"n": 295, "offset": 2_950})
    answer(hub, seller)
    hub.run(100)
    assert numbers(client) == [296, 297, 298, 299, 300]
    await client.subscribe("trades", A, resume={"n": 300})
    await client.subscribe("trades", A, resume={"n": 50})
    hub.run(100)
    resumed, ack, gap, update = client.messages()
    assert (resumed["resumed"], ack["type"], gap["type"]) == (True, "ack", "gap")
    assert gap["data"] == {"from_n": 51, "to_n": 100, "restarted": False}
    assert [each["n"] for each in update["data"]["trades"]] == list(range(101, 301))


async def test_a_client_from_a_node_that_is_ahead_gets_no_wrong_trades() -> None:
    hub, seller = market()
    seller.sell(5)
    first = await hub.client().enter()
    await first.subscribe("trades", A)
    answer(hub, seller)
    hub.run(200)
    ahead = await hub.client().enter("ahead")
    late = seller.sell(2)  # the other node has sent them already
    await ahead.subscribe("trades", A, resume={"n": 7, "offset": 70})
    hub.run(100)
    assert [each["type"] for each in ahead.messages()] == ["ack"]
    deliver(hub, late)
    deliver(hub, seller.sell(1))
    hub.run(100)
    (update,) = ahead.messages()
    assert (update["type"], [each["n"] for each in update["data"]["trades"]]) == ("update", [8])


async def test_only_the_owner_can_report_a_restarted_numbering() -> None:
    hub, seller = market()
    seller.sell(5)
    first = await hub.client().enter()
    await first.subscribe("trades", A)
    answer(hub, seller)
    hub.run(200)
    other = await hub.client().enter("other")
    for _ in range(20):
        await other.subscribe("trades", A, resume={"n": 9})
    hub.run(100)
    assert {each["type"] for each in other.messages()} == {"ack"}
    deliver(hub, seller.sell(1))
    hub.run(1_000)
    assert len(first.messages("update")) == 1, "the others wait for nothing"
    hub.streams.tick(hub.now)
    answer(hub, seller)
    assert asked(hub) == []
    hub.run(100)
    gap, snapshot = (each for each in other.messages() if each["type"] != "heartbeat")
    assert gap["data"] == {"from_n": 10, "to_n": None, "restarted": True}
    assert snapshot["data"]["n"] == 6


async def test_a_token_without_trades_is_resumed_from_zero() -> None:
    hub, seller = market()
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    answer(hub, seller)
    hub.run(100)
    _, snapshot = client.messages()
    assert snapshot["data"] == {"n": 0, "trades": []}
    await client.subscribe("trades", A, resume={"n": 0})
    hub.run(100)
    (ack,) = client.messages()
    assert ack["resumed"] is True
    deliver(hub, seller.sell(250))
    hub.run(100)
    assert numbers(client) == list(range(1, 251))
    await client.subscribe("trades", A, resume={"n": 0})
    hub.run(100)
    _, gap, update = client.messages()
    assert gap["data"] == {"from_n": 1, "to_n": 50, "restarted": False}
    assert [each["n"] for each in update["data"]["trades"]] == list(range(51, 251))


async def test_a_restarted_numbering_is_a_gap_and_a_snapshot() -> None:
    hub, seller = market()
    seller.sell(5)
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    answer(hub, seller)
    hub.run(100)
    client.messages()
    seller.forget()
    deliver(hub, seller.sell(2))
    hub.run(100)
    answer(hub, seller)
    hub.run(100)
    gap, snapshot = client.messages()
    assert gap["data"] == {"from_n": 6, "to_n": None, "restarted": True}
    assert (snapshot["type"], snapshot["epoch"]) == ("snapshot", 2)
    assert [each["n"] for each in snapshot["data"]["trades"]] == [1, 2]


async def test_the_board_reveals_the_loss_of_the_last_batch() -> None:
    hub, seller = market()
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    answer(hub, seller)
    hub.run(100)
    client.messages()
    lost = hub.board.rows[A].last_trade_at
    assert lost is not None
    seller.sell(1, lost)
    for _ in range(40):
        hub.run(100)
        hub.beat()
        answer(hub, seller)
    assert numbers(client) == [1]
    assert asked(hub) == []


async def test_a_new_connection_to_nats_asks_again() -> None:
    hub, seller = market()
    client = await hub.client().enter()
    await client.subscribe("trades", A)
    answer(hub, seller)
    hub.run(300)
    seller.sell(3)
    for callback in hub.wire._on_connected:
        callback()
    answer(hub, seller)
    hub.run(100)
    assert numbers(client) == [1, 2, 3]


async def test_candles_come_whole_then_folded_and_again_after_a_retraction() -> None:
    hub, seller = market()
    seller.sell(2, price="2")
    client = await hub.client().enter()
    await client.subscribe("candles", A, interval="1m")
    answer(hub, seller)
    hub.run(100)
    _, snapshot = client.messages()
    (candle,) = snapshot["data"]["candles"]
    assert (snapshot["type"], snapshot["seq"]) == ("snapshot", 2)
    assert (candle["open_usd"], candle["trades"], candle["volume_usd"]) == ("2", 2, "2.000000")
    deliver(hub, seller.sell(1, price="9"))
    hub.run(100)
    (update,) = client.messages()
    (candle,) = update["data"]["candles"]
    assert (update["type"], candle["high_usd"], candle["close_usd"]) == ("update", "9", "9")
    last = seller.trades[-1]
    removed = msgspec.structs.replace(last, n=4, offset=999, removed=True)
    seller.trades.append(removed)
    deliver(hub, seller.batch([removed]))
    hub.run(300)
    answer(hub, seller)
    hub.run(100)
    snapshot = client.messages()[-1]
    (candle,) = snapshot["data"]["candles"]
    assert (snapshot["type"], candle["high_usd"], candle["trades"]) == ("snapshot", "2", 2)


async def test_candles_are_made_once_a_flush_however_many_trades_arrive() -> None:
    hub, seller = market()
    seller.sell(1)
    client = await hub.client().enter()
    await client.subscribe("candles", A, interval="1m")
    answer(hub, seller)
    hub.run(200)
    client.messages()
    for _ in range(50):
        deliver(hub, seller.sell(1))
        hub.run(20)
    hub.run(100)
    updates = client.messages("update")
    assert 8 <= len(updates) <= 12
    assert updates[-1]["data"]["candles"][-1]["trades"] == 51


async def test_streams_without_users_are_bounded() -> None:
    hub, _ = market()
    for number in range(700):
        hub.streams.recent(f"e:{number}")
    held = hub.streams.hold("e:held")
    assert len(hub.wire._watched) == 501
    for number in range(700, 1_300):
        hub.streams.recent(f"e:{number}")
    assert hub.streams.hold("e:held") is held
    assert len(hub.wire._watched) == 501
    hub.streams.release("e:held")
    hub.streams.release("e:held")
    assert len(hub.wire._watched) == 500


async def test_a_slow_reader_of_trades_is_closed_when_too_much_waits() -> None:
    hub, seller = market(queue_bytes=65_536)
    client, other = await hub.client().enter("slow"), await hub.client().enter("quick")
    for each in (client, other):
        await each.subscribe("trades", A)
    answer(hub, seller)
    hub.run(100)
    client.socket.blocked = True
    for _ in range(60):
        deliver(hub, seller.sell(10))
        hub.run(100)
        hub.beat()
    assert client.socket.closed == (4008, "too much waits to be read")
    assert numbers(other) == list(range(1, 601))
