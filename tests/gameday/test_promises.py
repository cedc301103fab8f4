"""Each promise of the WebSocket protocol, kept and broken."""

from __future__ import annotations

from typing import Any

from tests.gameday.promises import Client

T = "ethereum:0xaa"


def row(epoch: int, seq: int, kind: str = "update") -> dict[str, Any]:
    data = {"epoch": epoch, "seq": seq, "as_of": seq, "stale": False, "token_id": T}
    return {"channel": "token_stats", "type": kind, "token": T, **data, "data": data}


def trades(*numbers: int, kind: str = "update", shift: int = 0) -> dict[str, Any]:
    sent = [{"n": n, "offset": n * 10 + shift} for n in numbers]
    return {"channel": "trades", "type": kind, "token": T, "data": {"trades": sent}}


def gap(first: int, last: int | None, restarted: bool = False) -> dict[str, Any]:
    data = {"from_n": first, "to_n": last, "restarted": restarted}
    return {"channel": "trades", "type": "gap", "token": T, "data": data}


def wrong_after(*messages: dict[str, Any]) -> list[str]:
    client = Client("c", {})
    client.connected()
    for message in messages:
        client.take(message)
    return client.wrong


def test_rows_never_go_back() -> None:
    assert wrong_after(row(1, 4), row(1, 5), row(1, 5), row(2, 1)) == []
    assert len(wrong_after(row(2, 1), row(1, 9))) == 1
    assert len(wrong_after(row(2, 3), row(2, 2))) == 1


def test_trades_are_contiguous_or_a_gap_is_announced() -> None:
    assert wrong_after(trades(4, 5), trades(6), trades(7, 8)) == []
    assert len(wrong_after(trades(4, 5), trades(7))) == 1
    assert wrong_after(trades(4, 5), gap(6, 8), trades(9)) == []
    assert len(wrong_after(trades(4, 5), gap(6, 8), trades(10))) == 1
    assert wrong_after(trades(4, 5), gap(6, None, restarted=True), trades(1, kind="snapshot")) == []


def test_a_number_always_names_the_same_trade() -> None:
    assert len(wrong_after(trades(4), trades(4, kind="snapshot", shift=1))) == 1


def test_an_older_row_of_another_node_is_not_taken() -> None:
    client = Client("c", {})
    client.connected()
    client.take(row(2, 5))
    client.connected()
    client.take(row(2, 4, "snapshot"))
    assert client.wrong == []
    assert client.rows[T]["seq"] == 5
    assert client.resume_of_row(T) == {"epoch": 2, "seq": 5}


def test_an_error_is_wrong() -> None:
    assert wrong_after({"type": "error", "code": "request_invalid", "message": "m"}) != []
