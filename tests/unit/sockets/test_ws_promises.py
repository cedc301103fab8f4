"""The checker of the clients in test_ws_faults detects each broken promise."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.promises import Client

A = "ethereum:0xaa"
Sent = dict[str, Any]


def row(seq: int, kind: str = "update", **data: Any) -> Sent:
    fields = {"channel": "token_stats", "token": A, "epoch": 2, "seq": seq}
    return {**fields, "type": kind, "data": {"stale": False} | data}


def trades(*numbers: int, kind: str = "update", shift: int = 0) -> Sent:
    given = [{"n": n, "offset": 10 * n + shift} for n in numbers]
    return {"channel": "trades", "token": A, "type": kind, "data": {"trades": given}}


def gap(from_n: int, to_n: int | None, restarted: bool = False) -> Sent:
    data = {"from_n": from_n, "to_n": to_n, "restarted": restarted}
    return {"channel": "trades", "token": A, "type": "gap", "data": data}


def client_of(*messages: Sent) -> Client:
    client = Client([A], [A])
    client.connected()
    for message in messages:
        client.take(json.dumps([message]).encode(), 1.0)
    return client


NOTHING = {"channel": "token_stats", "token": A, "type": "snapshot", "data": None}
FIRST = trades(1, 2, kind="snapshot")


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([row(2, "snapshot"), row(1)], id="numbers that go back"),
        pytest.param([row(2, "snapshot"), NOTHING], id="nothing where there were numbers"),
        pytest.param([FIRST, trades(4)], id="a trade left out"),
        pytest.param([FIRST, trades(2)], id="a trade twice"),
        pytest.param([FIRST, trades(2, 3, kind="snapshot", shift=1)], id="another trade"),
        pytest.param([FIRST, gap(4, 5)], id="a gap that leaves one out"),
        pytest.param([FIRST, gap(3, 4), trades(6)], id="more than the gap announced"),
    ],
)
def test_a_broken_promise_is_detected(messages: list[Sent]) -> None:
    assert len(client_of(*messages).broken) == 1


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param([NOTHING, row(1), row(1, stale=True), row(3)], id="numbers"),
        pytest.param([FIRST, trades(3), trades(2, 3, 4, kind="snapshot"), trades(5)], id="trades"),
        pytest.param([FIRST, gap(3, 9), trades(10, 11)], id="an announced gap"),
        pytest.param([FIRST, gap(3, None), trades(7)], id="a gap without an end"),
        pytest.param(
            [FIRST, gap(3, None, True), trades(1, kind="snapshot", shift=5)], id="a restart"
        ),
    ],
)
def test_allowed_messages_are_no_fault(messages: list[Sent]) -> None:
    assert client_of(*messages).broken == []


def test_held_values_are_resumed_except_stale_rows() -> None:
    client = client_of(row(2, "snapshot"), FIRST)
    stats, stream = client.requests()
    assert stats["resume"] == {A: {"epoch": 2, "seq": 2}}
    assert stream["resume"] == {A: {"n": 2, "offset": 20}}
    assert "resume" not in client_of(row(2, "snapshot", stale=True)).requests()[0]
