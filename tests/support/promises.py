"""What one client holds of the stream, and whether the node kept docs/websocket.md's promises.

Pure: messages and the time come in. It keeps the newest (epoch, seq) of each token, the trades with
the announced gaps, and since when the numbers are reported as stale. `broken` lists every broken
promise, one sentence each.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from aggregator.contracts.stats import TokenStats


class Message(msgspec.Struct):
    """One element of a frame, with only the fields that a client needs."""

    type: str
    channel: str | None = None
    token: str | None = None
    epoch: int = 0
    seq: int = 0
    code: str = ""
    message: str = ""
    resumed: bool = False
    error: dict[str, str] | None = None
    data: msgspec.Raw = msgspec.Raw(b"null")


class _Freshness(msgspec.Struct):
    stale: bool
    connected: bool = True


class _Shutdown(msgspec.Struct):
    retry_after_ms: int


class _Trade(msgspec.Struct):
    n: int
    offset: int


class _Trades(msgspec.Struct):
    trades: list[_Trade]


class _Gap(msgspec.Struct):
    from_n: int
    to_n: int | None
    restarted: bool


read_frame = msgspec.json.Decoder(list[Message]).decode
_read_freshness = msgspec.json.Decoder(_Freshness).decode
_read_shutdown = msgspec.json.Decoder(_Shutdown).decode
_read_trades = msgspec.json.Decoder(_Trades).decode
_read_gap = msgspec.json.Decoder(_Gap).decode


class Trades:
    """One token's trades: `held` is (n, offset) in order, `next_n` what must come next."""

    def __init__(self) -> None:
        self.held: list[tuple[int, int]] = []
        self.next_n: int | None = None
        self.gaps = 0

    def resume(self) -> dict[str, int] | None:
        """Return the `resume` of a subscription."""
        if not self.held or self.next_n != self.held[-1][0] + 1:
            return None if self.next_n is None else {"n": self.next_n - 1}
        n, offset = self.held[-1]
        return {"n": n, "offset": offset}

    def take(self, kind: str, trades: Iterable[_Trade]) -> str | None:
        """Return what is wrong with the trades. Only a snapshot may repeat what is held."""
        for trade in trades:
            held = dict(self.held[-400:]) if kind == "snapshot" else {}
            if trade.n in held:
                if held[trade.n] != trade.offset:
                    return f"trade {trade.n} is {trade.offset}, was {held[trade.n]}"
                continue
            if self.next_n is not None and trade.n != self.next_n:
                return f"trade {trade.n} where {self.next_n} was due"
            self.held.append((trade.n, trade.offset))
            self.next_n = trade.n + 1
        return None

    def skip(self, gap: _Gap) -> str | None:
        """Take a gap that the service announces."""
        self.gaps += 1
        if gap.restarted:
            self.held, self.next_n = [], None
            return None
        if self.next_n is not None and gap.from_n > self.next_n:
            return f"a gap from {gap.from_n} where {self.next_n} was due"
        self.next_n = None if gap.to_n is None else gap.to_n + 1
        return None


class Client:
    """One client over all its connections. All times are seconds of one monotonic clock."""

    def __init__(self, tokens: list[str], trade_tokens: list[str]) -> None:
        self.tokens = tokens
        self.trades = {token: Trades() for token in trade_tokens}
        self.rows: dict[str, Message] = {}
        self.broken: list[str] = []
        self.stale: bool | None = None
        self.stale_since = 0.0
        """When `stale` took its present value."""
        self.retry_after_ms: int | None = None
        self.errors: list[str] = []
        self.snapshots = 0
        self.resumed = 0
        self.welcomes = 0
        self._shown: dict[str, tuple[int, int]] = {}

    def connected(self) -> None:
        """Start a new connection: another node may lag the last one for a moment."""
        self._shown = {}
        self.retry_after_ms = None

    def lost(self, now: float) -> None:
        """Mark everything as possibly old, since there is no connection."""
        self._freshness(True, now)

    def requests(self) -> list[dict[str, Any]]:
        """Return the subscriptions, with `resume` for what is held."""
        stats: dict[str, Any] = {
            "method": "subscribe",
            "channel": "token_stats",
            "tokens": self.tokens,
        }
        resume = {
            token: {"epoch": row.epoch, "seq": row.seq}
            for token, row in self.rows.items()
            if not _read_freshness(row.data).stale
        }
        requests = [stats | ({"resume": resume} if resume else {})]
        if self.trades:
            held = {t: given for t, each in self.trades.items() if (given := each.resume())}
            trades = {"method": "subscribe", "channel": "trades", "tokens": list(self.trades)}
            requests.append(trades | ({"resume": held} if held else {}))
        return requests

    def take(self, frame: bytes, now: float) -> None:
        """Take a frame."""
        messages = read_frame(frame)
        if not messages:
            self.broken.append("an empty frame")
        for message in messages:
            self._take(message, now)

    def _take(self, message: Message, now: float) -> None:
        match message.type, message.channel:
            case "snapshot" | "update", "token_stats":
                self._row(message)
            case "snapshot" | "update" | "gap", "trades":
                self._trades(message)
            case "snapshot" | "update", "status":
                status = _read_freshness(message.data)
                self._freshness(status.stale or not status.connected, now)
            case "heartbeat", _:
                self._freshness(_read_freshness(message.data).stale, now)
            case "welcome", _:
                self.welcomes += 1
                self._freshness(_read_freshness(message.data).stale, now)
            case "ack", _:
                self.resumed += message.resumed
                if message.error is not None:
                    self.broken.append(f"refused: {message.error}")
            case "server_shutdown", _:
                self.retry_after_ms = _read_shutdown(message.data).retry_after_ms
            case "error", _:
                self.errors.append(message.code)

    def _freshness(self, stale: bool, now: float) -> None:
        if stale != self.stale:
            self.stale, self.stale_since = stale, now

    def _row(self, message: Message) -> None:
        token = message.token or ""
        self.snapshots += message.type == "snapshot"
        if bytes(message.data) == b"null":
            if token in self.rows:
                self.broken.append(f"{token}: null, where there were numbers")
            return
        place, before = (message.epoch, message.seq), self._shown.get(token, (0, 0))
        if place < before:
            self.broken.append(f"{token}: back from {before} to {place} on one connection")
        self._shown[token] = place
        held = self.rows.get(token)
        if held is None or place >= (held.epoch, held.seq):
            self.rows[token] = message

    def _trades(self, message: Message) -> None:
        trades = self.trades[message.token or ""]
        if message.type == "gap":
            fault = trades.skip(_read_gap(message.data))
        else:
            fault = trades.take(message.type, _read_trades(message.data).trades)
        if fault is not None:
            self.broken.append(f"{message.token}: {fault} ({message.type})")

    def all_rows(self, stale: bool) -> bool:
        """Return whether every held row is marked as stale."""
        return all(_read_freshness(row.data).stale is stale for row in self.rows.values())

    def row(self, token: str) -> TokenStats:
        """Return the newest numbers of a held token."""
        return msgspec.json.decode(self.rows[token].data, type=TokenStats)
