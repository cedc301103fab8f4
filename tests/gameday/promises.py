"""Compares the messages of one WebSocket client with what the protocol promises.

Pure: takes messages, collects broken promises and the client's final state.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

Message = dict[str, Any]
_MOST_WRONG: Final = 20


Ledger = dict[str, dict[int, int]]
"""By token and trade number: the offset that any client received for the trade."""


@dataclass
class Numbers:
    """The newest number of a token's trades, and how many were announced as lost."""

    newest: int | None = None
    lost: int = 0


@dataclass
class Client:
    """One client over all its connections. `wrong` lists broken promises, in words."""

    name: str
    ledger: Ledger
    wrong: list[str] = field(default_factory=list)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    trades: dict[str, Numbers] = field(default_factory=dict)
    candles: dict[str, dict[int, dict[str, Any]]] = field(default_factory=dict)
    stale: bool = True
    fresh_ms: int = 0
    gaps: int = 0
    stale_count: int = 0
    _shown: dict[str, tuple[int, int]] = field(default_factory=dict)

    def connected(self) -> None:
        """Begin a new connection: another node may lag behind the previous one."""
        self._shown.clear()
        self.stale = True

    def resume_of_row(self, token: str) -> dict[str, int] | None:
        """Return the `resume` of a new subscription to the row."""
        row = self.rows.get(token)
        return None if row is None else {"epoch": row["epoch"], "seq": row["seq"]}

    def resume_of_trades(self, token: str) -> dict[str, int] | None:
        """Return the `resume` of a new subscription to the trades."""
        numbers = self.trades.get(token)
        if numbers is None or numbers.newest is None:
            return None
        offset = self.ledger[token].get(numbers.newest)
        known = {} if offset is None else {"offset": offset}
        return {"n": numbers.newest, **known}

    def take(self, message: Message) -> None:
        """Take one message, in the order of arrival."""
        match message.get("channel"), message["type"]:
            case "token_stats", "snapshot" | "update":
                self._row(message)
            case "trades", "snapshot" | "update" | "gap" as kind:
                self._trades(kind, message)
            case "candles", "snapshot" | "update" as kind:
                self._candles(kind, message)
            case "status", "update":
                self._staleness(bool(message["data"]["stale"]))
            case _, "welcome" | "heartbeat":
                self._staleness(bool(message["data"]["stale"]))
            case _, "error":
                self.say(f"an error: {message.get('code')} {message.get('message')}")
            case _, "ack" if "error" in message:
                self.say(f"refused: {message['error']}")
            case _:
                pass

    def say(self, what: str) -> None:
        """Record a broken promise."""
        if len(self.wrong) < _MOST_WRONG:
            self.wrong.append(f"{self.name}: {what}")

    def _staleness(self, stale: bool) -> None:
        self.stale_count += stale and not self.stale
        self.stale = stale

    def _row(self, message: Message) -> None:
        row = message["data"]
        if row is None:
            return
        token, position = message["token"], (message["epoch"], message["seq"])
        shown = self._shown.get(token)
        if shown is not None and position < shown:
            self.say(f"{token} went back from {shown} to {position}")
        self._shown[token] = position
        before = self.rows.get(token)
        if before is None or position >= (before["epoch"], before["seq"]):
            self.rows[token] = row
        if not row["stale"]:
            self.fresh_ms = max(self.fresh_ms, row["as_of"])

    def _trades(self, kind: str, message: Message) -> None:
        token, data = message["token"], message["data"]
        numbers = self.trades.setdefault(token, Numbers())
        if kind == "gap":
            self.gaps += 1
            if data["restarted"]:
                self.trades[token] = Numbers(lost=numbers.lost)
            elif data["to_n"] is None:
                numbers.newest = None
            else:
                numbers.lost += data["to_n"] - data["from_n"] + 1
                numbers.newest = data["to_n"]
            return
        known = self.ledger.setdefault(token, {})
        if kind == "snapshot":
            # A snapshot starts again; the client knows that trades in between are not sent.
            numbers.newest = None
        for trade in data["trades"]:
            n, offset = trade["n"], trade["offset"]
            if numbers.newest is not None and n != numbers.newest + 1:
                self.say(f"{token} trades: {n} after {numbers.newest} without an announced gap")
            if known.setdefault(n, offset) != offset:
                self.say(f"{token} trade {n} was at offset {known[n]}, is at {offset}")
            numbers.newest = n

    def _candles(self, kind: str, message: Message) -> None:
        held = self.candles.setdefault(message["token"], {})
        if kind == "snapshot":
            held.clear()
        for candle in message["data"]["candles"]:
            held[candle["open_time"]] = candle
