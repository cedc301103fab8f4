"""A minimal web node for the channel `trades` of docs/websocket.md."""

from __future__ import annotations

import json
from typing import Any

TOKEN = "ethereum:0xaa"
KEPT = 4

Message = dict[str, Any]


def trade(n: int, life: int) -> Message:
    return {
        "n": n,
        "timestamp": 1_000 + n,
        "offset": 1_000 * life + n,
        "side": "buy",
        "amount": "1",
        "amount_usd": None,
        "price_usd": None,
        "trader": None,
        "venue": None,
        "pool": None,
        "quote": None,
        "tx_hash": f"{life}-{n}",
        "log_index": 0,
        "removed": False,
        "block_number": None,
    }


def frame(*messages: Message) -> str:
    return json.dumps(messages)


def welcome(stale: bool = False) -> Message:
    return {"type": "welcome", "data": {"authenticated": True, "stale": stale}}


class TradesNode:
    """Numbers trades from 1 and keeps the last KEPT; a restart numbers from 1 again."""

    def __init__(self) -> None:
        self.life = 1
        self.log: list[Message] = []

    @property
    def ring(self) -> list[Message]:
        return self.log[-KEPT:]

    def trade(self) -> Message:
        self.log.append(trade(len(self.log) + 1, self.life))
        return self._trades("update", [self.log[-1]])

    def restart(self) -> None:
        self.life += 1
        self.log = []

    def subscribe(self, request: Message) -> list[Message]:
        """Return the response: an ack, then what the subscriber lacks."""
        ack = {"type": "ack", "method": "subscribe", "channel": "trades", "token": TOKEN}
        ack["req_id"] = request["req_id"]
        resume = request.get("resume", {}).get(TOKEN)
        if resume is None:
            return [ack, self._trades("snapshot", self.ring)]
        n, offset = resume["n"], resume.get("offset")
        same = next((each for each in self.ring if each["n"] == n), None)
        if n > len(self.log) or (same and offset not in {None, same["offset"]}):
            gap = self._message("gap", from_n=n + 1, to_n=None, restarted=True)
            return [ack, gap, self._trades("snapshot", self.ring)]
        answer = [ack]
        first = self.ring[0]["n"] if self.ring else len(self.log) + 1
        if n + 1 < first:
            answer.append(self._message("gap", from_n=n + 1, to_n=first - 1, restarted=False))
        newer = [each for each in self.ring if each["n"] > n]
        return [*answer, self._trades("update", newer)] if newer else answer

    def _trades(self, kind: str, trades: list[Message]) -> Message:
        return self._message(kind, n=len(self.log), trades=trades)

    @staticmethod
    def _message(kind: str, **data: Any) -> Message:
        return {"channel": "trades", "type": kind, "token": TOKEN, "epoch": 1, "data": data}
