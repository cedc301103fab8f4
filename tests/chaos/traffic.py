"""The traffic of a run: bursts of swaps with every irregularity that the log may hold.

The events of a burst depend only on the seed, the burst's number and the start of the run. Event
times run from `span_ms` before the start up to it, burst by burst, so the windows' edges pass over
them. Only the tokens of `CROSSED` are sent to partitions that are not their home, as a producer
with another partitioner sends them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

from tests.support.oracle import home_of, token_id

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE

CROSSED: Final = ("X/one", "X:two", "X-three", "X.four", "X five".replace(" ", "_"), "X6")
# No swap of these is taken back, so all their prices and traders can be compared.
FIRM: Final = ("F0", "F1", "F2", "F3")
# The blocks of this chain come late.
SLOW: Final = ("S0", "S1")
HOME_ONLY: Final = (
    *(f"T{number}" for number in range(8)),
    *FIRM,
    *SLOW,
    "0xABCDEFabcdefABCDEFabcdefABCDEFabcdefABCD",
    "ibc/27394FB092D2ECCD56123C74F36E4C1F926001CEADA9CA97EA622B25F41E5EB2",
    "So11111111111111111111111111111111111111112",
)
TOKENS: Final = CROSSED + HOME_ONLY
_SLOW_BY: Final = 13 * MINUTE

# Any two of these differ in the 12 bits that the service compares (`test_the_rules`).
BLOCKS: Final = ("0xaa", "0xBB", "0xcc", "7GkQ2")
_SYMBOLS: Final = (
    "",
    "   ",
    "\u0000\u0000",
    "\u202eevil\u202c",
    "a\u200bb",
    "\n<script>alert(1)</script>",
    "💥" * 3,
    "x" * 300,
)
_TRADERS: Final = ("", " ", "\u0000", "y" * 300, "0xABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD")


@dataclass(frozen=True)
class Message:
    """A message for the topic; `timestamp` (ms) is the record's, None for that of sending."""

    partition: int
    key: str
    value: bytes | None
    timestamp: int | None = None


def chain_of(token: str) -> str:
    """Return the chain of a token of the traffic."""
    return "slow-chain" if token in SLOW else "ethereum"


class Traffic:
    """All bursts of one run, in order.

    `stamped`: records carry the time of the events, as when old swaps are imported.
    """

    def __init__(
        self,
        seed: int,
        start_ms: int,
        span_ms: int,
        bursts: int,
        partitions: int,
        partitioner: str = "murmur2",
        *,
        stamped: bool = False,
    ) -> None:
        self._seed = seed
        self._start_ms = start_ms
        self._span_ms = span_ms
        self._bursts = bursts
        self._partitions = partitions
        self._partitioner = partitioner
        self._stamped = stamped
        self._count = 0
        self._number = 0
        self._now = start_ms - span_ms
        self._sent: list[dict[str, Any]] = []

    def burst(self, size: int, partitions: tuple[int, ...]) -> list[Message]:
        """Return the next burst: about `size` messages, only to `partitions`."""
        number, self._number = self._number, self._number + 1
        rng = random.Random(f"{self._seed}:{number}")
        tokens = [token for token in TOKENS if self.home(token) in partitions]
        messages: list[Message] = []
        for index in range(size):
            self._now = self._event_clock(number + index / size)
            messages += self._swap(rng, rng.choice(tokens))
            if rng.random() < 0.006:
                value = self._bad(rng)
                messages.append(self._message(rng, rng.choice(partitions), "bad", value))
        return [message for message in messages if message.partition in partitions]

    def filler(self, size: int) -> list[Message]:
        """Return `size` messages to each partition, before the first burst: repeats of one swap.

        They move the offsets to just before the end of a block of ids.
        """
        rng = random.Random(f"{self._seed}:filler")
        messages = []
        for partition in range(self._partitions):
            names = (f"filler{number}" for number in count())
            token = next(name for name in names if self.home(name) == partition)
            event = self._new(rng, token) | {"timestamp": self._now}
            one = self._message(rng, partition, token, _json(event))
            messages += [one] * size
        return messages

    def home(self, token: str) -> int:
        """Return the home partition of the token."""
        name = token_id({"chain": chain_of(token), "token": token})
        return home_of(name, self._partitions, self._partitioner)

    def _event_clock(self, burst: float) -> int:
        passed = min(1.0, burst / self._bursts)
        return round(self._start_ms - self._span_ms * (1 - passed))

    def _swap(self, rng: random.Random, token: str) -> list[Message]:
        """Return a swap, perhaps with repeats, retractions, inclusions in other blocks or a leg."""
        event = self._new(rng, token)
        if token in FIRM:
            again = [event] if rng.random() < 0.1 else []
            return self._send(rng, [event, *again])
        draw = rng.random()
        if draw < 0.30:
            return self._send(rng, self._reorganised(rng, event))
        if draw < 0.36:
            return self._send(rng, [event, event])
        if draw < 0.46 and self._sent:
            return self._send(rng, [event, *self._of_earlier(rng)])
        if draw < 0.49:
            other = rng.choice([each for each in TOKENS if each not in FIRM and each not in SLOW])
            leg = self._new(rng, other) | {"leg": 1}
            same = {name: event[name] for name in ("chain", "tx_hash", "log_index")}
            if other != token and token not in SLOW:
                return self._send(rng, [event | {"leg": 0}, leg | same])
        return self._send(rng, [event])

    def _reorganised(self, rng: random.Random, event: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the swap with retractions, in the orders that reorganisations make."""
        undone = self._retraction(rng, event)
        if rng.random() < 0.5:
            blocks = rng.sample(BLOCKS, 2)
            a, b = ({"block_hash": block} for block in blocks)
        else:
            a, b = {}, {}
        old = event | {"timestamp": event["timestamp"] - 25 * HOUR}
        draw = rng.random()
        if draw < 0.04:
            return [old | a, event | b]
        if draw < 0.06:
            return [old | a, old | b, undone | b]
        if draw < 0.15:
            return [undone | a, event | a]
        if draw < 0.25:
            return [undone | a, event | a, event | b]
        if draw < 0.45:
            return [event | a, undone | a]
        if draw < 0.60:
            return [event | a, undone | a, event | b]
        if draw < 0.75:
            return [event | a, event | b, undone | a]
        if draw < 0.85:
            return [event | a, undone | a, event | b, undone | b, event | a]
        return [event | a, undone | a] * 2 + [event | b]

    def _retraction(self, rng: random.Random, event: dict[str, Any]) -> dict[str, Any]:
        """Return the retraction; only its identity has a meaning."""
        changes: list[dict[str, Any]] = [
            {},
            {"amount": "1", "amount_usd": None},
            {"amount_usd": "0.000001", "side": "sell", "trader": None, "symbol": None},
            {"timestamp": event["timestamp"] - 3 * HOUR},
            {"timestamp": event["timestamp"] * 1000, "price_usd": "3"},
        ]
        return event | rng.choice(changes) | {"removed": True}

    def _of_earlier(self, rng: random.Random) -> list[dict[str, Any]]:
        """Repeat a swap of any burst: unchanged, with other values or letter case, or retracted."""
        event = rng.choice(self._sent)
        if event["token"] in FIRM:
            return [event]
        changes: dict[str, Any] = rng.choice(
            [
                {},
                {"amount_usd": "77.7"},
                {"tx_hash": "0X" + event["tx_hash"][2:].upper()},
                {"block_hash": rng.choice(BLOCKS)},
            ]
        )
        if rng.random() < 0.3:
            return [self._retraction(rng, event) | changes]
        return [event | changes]

    def _new(self, rng: random.Random, token: str) -> dict[str, Any]:
        self._count += 1
        event = {
            "chain": chain_of(token),
            "tx_hash": f"0x{self._seed:08x}{self._count:08x}{rng.getrandbits(64):016x}",
            "log_index": rng.randrange(3),
            "timestamp": self._timestamp(rng, token),
            "token": token,
            "symbol": token[:4],
            "trader": f"0x{rng.randrange(40):040x}",
            "side": rng.choice(["buy", "sell"]),
            "amount": f"{rng.uniform(0.001, 1000):.9f}",
            "amount_usd": f"{rng.uniform(0.01, 50_000):.6f}",
            "removed": False,
        }
        draw = rng.random()
        if draw < 0.05:
            event["amount_usd"] = None
        elif draw < 0.06:
            event["amount_usd"] = "0"
        elif draw < 0.10:
            event["price_usd"] = f"{rng.uniform(0.1, 10):.4f}"
        draw = rng.random()
        if draw < 0.05:
            del event["trader"]
        elif draw < 0.08:
            event["trader"] = rng.choice(_TRADERS)
        if rng.random() < 0.05:
            event |= {"symbol": rng.choice(_SYMBOLS), "venue": "v" * 300, "pool": "\u0007"}
        if rng.random() < 0.5:
            event["block_number"] = rng.randrange(3)
        return event

    def _timestamp(self, rng: random.Random, token: str) -> int:
        now, draw = self._now, rng.random()
        if token in SLOW:
            return now - _SLOW_BY - rng.randrange(20_000)
        if draw < 0.60:
            return now - rng.randrange(20_000)
        if draw < 0.75:
            # Swaps of one block have one timestamp.
            return now // 15_000 * 15_000
        if draw < 0.88:
            return now - rng.randrange(20_000, 115_000)
        if draw < 0.92:
            return now - rng.randrange(4 * MINUTE, 40 * MINUTE)
        if draw < 0.94:
            return now - rng.randrange(50 * MINUTE, 70 * MINUTE)
        if draw < 0.992:
            return now // MINUTE * MINUTE - rng.choice([0, 1, MINUTE, MINUTE + 1, 2 * MINUTE])
        if draw < 0.996:
            # Too far ahead of any record of this run: a dead letter.
            return self._start_ms + 3 * HOUR
        return now + rng.randrange(3 * MINUTE)

    def _bad(self, rng: random.Random) -> bytes | None:
        """Return a message to be rejected. `bad` marks it for the oracle, which does not decode."""
        event = self._new(rng, "T0") | {"bad": True}
        breaks: dict[str, Any] = rng.choice(
            [
                {"side": "hold"},
                {"amount": "-1"},
                {"chain": None},
                {"timestamp": self._now // 1000},
            ]
        )
        if rng.random() < 0.05:
            breaks["note"] = "x" * 900_000
        return rng.choice([None, b"{", _json(event | breaks)])

    def _send(self, rng: random.Random, events: Sequence[dict[str, Any]]) -> list[Message]:
        messages = []
        for event in events:
            if not event["removed"]:
                self._sent.append(event)
            partition = self.home(event["token"])
            if event["token"] in CROSSED and rng.random() < 0.25:
                partition = (partition + rng.randrange(1, self._partitions)) % self._partitions
            messages.append(self._message(rng, partition, event["token"], _json(event)))
        return messages

    def _message(
        self, rng: random.Random, partition: int, key: str, value: bytes | None
    ) -> Message:
        if not self._stamped:
            return Message(partition, key, value)
        # Clocks of producers differ, and one of them runs ahead.
        off = 4 * MINUTE if rng.random() < 0.002 else rng.randrange(-20_000, 2_000)
        return Message(partition, key, value, self._now + off)


def _json(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode()
