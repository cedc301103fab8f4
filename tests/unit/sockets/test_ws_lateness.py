"""Sockets learn of numbers that arrive late as they do of numbers that stop."""

from __future__ import annotations

from tests.unit.sockets.support import A, Node


async def test_every_socket_learns_that_numbers_are_late_and_when_they_are_fresh_again() -> None:
    node = Node()
    node.beat()
    node.trade(A)
    reader, other = await node.client().enter("reader"), await node.client().enter("other")
    await reader.subscribe("token_stats", A)
    node.run(100)
    reader.messages(), other.messages()
    began = node.now
    for second in range(6):
        # Each was made soon after the first, and has waited longer than the one before.
        node.board.heartbeat(node.owner.heartbeat(began + second), node.now)
        node.run(1_000)
    (status,) = other.messages("update")
    assert (status["channel"], status["data"]["stale"]) == ("status", True)
    assert status["data"]["partitions"][0]["state"] == "late"
    rows = [each for each in reader.messages("update") if each["channel"] == "token_stats"]
    assert [each["data"]["stale"] for each in rows] == [True]
    node.beat()
    node.run(150)
    (status,) = other.messages("update")
    assert status["data"]["stale"] is False
    assert status["data"]["partitions"][0]["state"] == "live"
