"""What the windows must show, from the logs alone: docs/exactly-once.md in plain Python.

Shares no code with the service but the place of a token's home. It reads whole logs from their
first record, keeps every id by its text, and knows nothing of processes, saves or faults.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from aggregator.contracts.records import LogRecord

BLOCK = 8192


class Rules(NamedTuple):
    """Durations in ms."""

    grace: int
    max_future: int
    ttl: int


class Standing(NamedTuple):
    """A swap that the windows hold."""

    token: str
    at: int
    usd: Decimal
    buy: bool


class Entry(NamedTuple):
    state: str  # C counted, L late, X removed, T removed before any add
    at: int  # offset of the last change
    counted: int | None
    block: str | None


class PartitionFold:
    """The fold of one partition's log; `standing` are the swaps that count, by offset."""

    def __init__(self, partition: int, home: Callable[[str], int], rules: Rules) -> None:
        self.standing: dict[int, Standing] = {}
        self.letters = ""
        self._partition, self._home, self._rules = partition, home, rules
        self._clock = -(2**62)
        self._entries: dict[tuple[Any, ...], Entry] = {}
        self._ends: dict[int, int] = {}
        self._open = 0
        self._origins: dict[int, int] = {}

    def read(self, record: LogRecord) -> None:
        while self._open < record.offset // BLOCK:
            self._ends[self._open] = self._clock
            self._open += 1
        self._clock = max(self._clock, record.timestamp)
        self.letters += self._decide(record)

    def _decide(self, record: LogRecord) -> str:
        event = json.loads(record.value or b"{}")
        origin = next((v for k, v in reversed(record.headers) if k == "origin"), None)
        if event.get("side") not in {"buy", "sell"}:
            return "B"
        removed, at = event.get("removed", False), event["timestamp"]
        if not removed and origin is None and at > record.timestamp + self._rules.max_future:
            return "B"
        token = f"{event['chain']}:{event['token']}"
        if self._home(token) != self._partition:
            return "M"
        if origin is not None:
            partition, offset = map(int, origin.split(b":")[:2])
            if offset <= self._origins.get(partition, -1):
                return "F"
            self._origins[partition] = offset
        name = (event["chain"], event["tx_hash"], event["log_index"], event["token"])
        swap = Standing(token, at, Decimal(event["amount_usd"]), event["side"] == "buy")
        return self._change(name, record.offset, swap, removed, event.get("block_hash"))

    def _change(
        self, name: Any, offset: int, swap: Standing, removed: bool, block: str | None
    ) -> str:
        late = swap.at < self._clock - self._rules.grace
        entry = self._entries.get(name)
        if entry is not None and self._forgotten(entry.at):
            entry = None
        state = entry.state if entry else ""
        other = bool(entry and entry.block and block and entry.block != block)
        letter = self._removal(state, other) if removed else self._add(state, other, late)
        counted = entry.counted if entry else None
        if letter in "CP":
            self.standing[offset] = swap
        if letter == "U" and counted is not None and not self._forgotten(counted):
            self.standing.pop(counted, None)
        new = {"C": "C", "P": "C", "N": "C", "L": "L", "n": "L", "U": "X", "V": "X", "T": "T"}
        if letter in new:
            if letter in "CP":
                counted = offset
            elif letter != "N":
                counted = None
            kept = None if letter in "UV" else block
            self._entries[name] = Entry(new[letter], offset, counted, kept)
        return letter

    @staticmethod
    def _add(state: str, other: bool, late: bool) -> str:
        fresh = "L" if late else "C"
        if state in {"", "X"}:
            return fresh
        if state == "T":
            return fresh if other else "V"
        if not other:
            return "D"
        return "N" if state == "C" else "n" if late else "P"

    @staticmethod
    def _removal(state: str, other: bool) -> str:
        if not state:
            return "T"
        if state in {"X", "T"}:
            return "D"
        return "I" if other else "U"

    def _forgotten(self, offset: int) -> bool:
        block = offset // BLOCK
        return block < self._open and self._clock > self._ends[block] + self._rules.ttl


class Shown(NamedTuple):
    """The numbers of one token in one window."""

    trades: int
    buys: int
    volume: Decimal


def windows_of(
    folds: Sequence[PartitionFold], spans: dict[str, int], now_ms: int
) -> dict[tuple[str, str], Shown]:
    """Return the numbers of each token and window (minutes) that has trades."""
    minute = now_ms // 60_000
    found: dict[tuple[str, str], Shown] = {}
    for swap in (each for fold in folds for each in fold.standing.values()):
        for window, span in spans.items():
            if minute - span < swap.at // 60_000 <= minute:
                key = swap.token, window
                trades, buys, volume = found.get(key, Shown(0, 0, Decimal(0)))
                found[key] = Shown(trades + 1, buys + swap.buy, volume + swap.usd)
    return found


def lost_forwards(logs: Sequence[Sequence[LogRecord]], folds: Sequence[PartitionFold]) -> list[str]:
    """Return the misplaced records that never arrived at another partition."""
    arrived = {
        tuple(value.split(b":")[:2])
        for log in logs
        for record in log
        for key, value in record.headers
        if key == "origin" and isinstance(value, bytes)
    }
    return [
        f"{record.partition}:{record.offset}"
        for log, fold in zip(logs, folds, strict=True)
        for record, letter in zip(log, fold.letters, strict=True)
        if letter == "M" and (b"%d" % record.partition, b"%d" % record.offset) not in arrived
    ]
