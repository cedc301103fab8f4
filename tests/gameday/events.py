"""The swaps of a game day: valid swaps of the present, with the irregularities of a real log.

Deterministic for a seed except for the times. Records go to the home of their token, unless a
producer with another partitioner sends them.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Final

from tests.support.oracle import home_of

PARTITIONS: Final = 4
MINUTE: Final = 60_000
MAX_FUTURE: Final = 5 * MINUTE
_TRADERS: Final = 20_000
_KEPT: Final = 5_000


@dataclass(frozen=True)
class Record:
    """One message; `timestamp` (ms) is the producer's clock."""

    partition: int
    key: str
    value: bytes | None
    timestamp: int


@dataclass(frozen=True)
class Jump:
    """How far a producer's clock is off, for its events and for its records (ms)."""

    events_ms: int = 0
    records_ms: int = 0


def token_ids(count: int) -> list[str]:
    """The tokens of a day, busiest first."""
    return [f"ethereum:{token}" for token in _names(count)]


def _names(count: int) -> list[str]:
    return [f"0x{random.Random(number).getrandbits(160):040x}" for number in range(count)]


class Events:
    """Draws swaps."""

    def __init__(self, seed: int, tokens: int) -> None:
        self._rng = random.Random(f"events:{seed}")
        self._names = _names(tokens)
        self._homes = {name: home_of(f"ethereum:{name}", PARTITIONS) for name in self._names}
        self._weights = [(rank + 4) ** -0.8 for rank in range(tokens)]
        self._prices = [10 ** random.Random(n).uniform(-3, 3) for n in range(tokens)]
        self._earlier: list[dict[str, Any]] = []

    def some(
        self, count: int, now: int, jump: Jump, *, partitioner: str = "murmur2"
    ) -> list[Record]:
        """About `count` records that are sent at `now` (ms) by a producer with this partitioner."""
        rng = self._rng
        records: list[Record] = []
        for number in rng.choices(range(len(self._names)), self._weights, k=count):
            event = self._new(number, now + jump.events_ms)
            for each in self._with_irregularities(event):
                records.append(self._record(each, now + jump.records_ms, partitioner))
        return records

    def bad(self, now: int) -> Record:
        """A message that must become a dead letter; `bad` marks it for the reader of the log."""
        rng = self._rng
        event = self._new(0, now) | {"bad": True}
        breaks: dict[str, Any] = rng.choice(
            [
                {"side": "hold"},
                {"amount": "-1"},
                {"chain": None},
                {"timestamp": now + 2 * MAX_FUTURE},
            ]
        )
        value = rng.choice([None, b"{", b"\xff\xfe", json.dumps(event | breaks).encode()])
        return Record(rng.randrange(PARTITIONS), "bad", value, now)

    def _record(self, event: dict[str, Any], now: int, partitioner: str) -> Record:
        value, key = json.dumps(event, separators=(",", ":")).encode(), f"ethereum:{event['token']}"
        partition = self._homes[event["token"]]
        if partitioner != "murmur2":
            partition = home_of(key, PARTITIONS, partitioner)
        return Record(partition, key, value, now)

    def _with_irregularities(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """A swap, perhaps repeated or retracted, an earlier one again, or a retraction first."""
        draw, rng = self._rng.random(), self._rng
        undone = _retraction(rng, event)
        if draw < 0.002:
            return [undone, event]
        if draw < 0.005:
            return [event, undone]
        if draw < 0.006:
            return [event, undone, event]
        if draw < 0.016:
            return [event, event]
        if draw < 0.024 and self._earlier:
            return [event, rng.choice(self._earlier)]
        if draw < 0.028 and self._earlier:
            return [event, _retraction(rng, rng.choice(self._earlier))]
        if draw < 0.2:
            self._earlier.append(event)
            if len(self._earlier) > 2 * _KEPT:
                del self._earlier[:_KEPT]
        return [event]

    def _new(self, number: int, now: int) -> dict[str, Any]:
        rng = self._rng
        usd = rng.lognormvariate(5.5, 1.6)
        self._prices[number] *= 1 + rng.gauss(0, 0.0005)
        draw = rng.random()
        age = rng.randrange(3_000) if draw < 0.95 else rng.randrange(60_000)
        event: dict[str, Any] = {
            "chain": "ethereum",
            "token": self._names[number],
            "symbol": f"TK{number}",
            "venue": "uniswap_v3",
            "tx_hash": f"0x{rng.getrandbits(64):016x}",
            "log_index": 0,
            "timestamp": now - (age if draw < 0.997 else 10 * MINUTE),
            "trader": f"0x{rng.randrange(_TRADERS):040x}",
            "side": "buy" if rng.random() < 0.52 else "sell",
            "amount": f"{usd / self._prices[number]:.12f}",
            "amount_usd": f"{usd:.6f}",
            "removed": False,
        }
        if rng.random() < 0.01:
            event["amount_usd"] = None
        return event


def _retraction(rng: random.Random, event: dict[str, Any]) -> dict[str, Any]:
    """Return a retraction, which may know no more than what it takes back."""
    known: dict[str, Any] = rng.choice([{}, {"amount": "1", "amount_usd": None, "side": "sell"}])
    return event | known | {"removed": True}
