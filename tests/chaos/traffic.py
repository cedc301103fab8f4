"""The traffic of a run: bursts of swaps with every irregularity that the log may hold.

The events of a burst depend only on the seed, the burst's number and the start of the run. Event
times run from `span_ms` before the start up to it, burst by burst, so the windows' edges pass over
them. Every token has a home partition; only the tokens of `CROSSED` are ever sent to another one.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any, Final

MINUTE: Final = 60_000
HOUR: Final = 60 * MINUTE

CROSSED: Final = ("X/one", "X:two", "X-three", "X.four", "X five".replace(" ", "_"), "X6")
HOME_ONLY: Final = (
    *(f"T{number}" for number in range(12)),
    "0xABCDEFabcdefABCDEFabcdefABCDEFabcdefABCD",
    "ibc/27394FB092D2ECCD56123C74F36E4C1F926001CEADA9CA97EA622B25F41E5EB2",
    "So11111111111111111111111111111111111111112",
)
TOKENS: Final = CROSSED + HOME_ONLY
# The outcomes of a crossed token are tried one by one, so a token has few crossed swaps.
CROSSINGS_A_TOKEN: Final = 4


@dataclass(frozen=True)
class Message:
    """A message for the topic."""

    partition: int
    key: str
    value: bytes | None


class Traffic:
    """All bursts of one run, in order. `bad` holds the values that must end as dead letters."""

    def __init__(
        self, seed: int, start_ms: int, span_ms: int, bursts: int, partitions: int
    ) -> None:
        self._seed = seed
        self._start_ms = start_ms
        self._span_ms = span_ms
        self._bursts = bursts
        self._partitions = partitions
        self._count = 0
        self._number = 0
        self._sent: list[tuple[dict[str, Any], int]] = []
        self._crossings = dict.fromkeys(CROSSED, 0)

    def burst(self, size: int, partitions: tuple[int, ...]) -> list[Message]:
        """Return the next burst: about `size` messages, only to `partitions`."""
        number, self._number = self._number, self._number + 1
        rng = random.Random(f"{self._seed}:{number}")
        tokens = [token for token in TOKENS if self.home(token) in partitions]
        messages: list[Message] = []
        for index in range(size):
            now = self._event_clock(number + index / size)
            messages += self._swap(rng, now, rng.choice(tokens))
            if rng.random() < 0.004:
                messages.append(Message(rng.choice(partitions), "bad", self._bad(rng)))
        return [message for message in messages if message.partition in partitions]

    def home(self, token: str) -> int:
        """Return the home partition of the token."""
        return TOKENS.index(token) % self._partitions

    def _event_clock(self, burst: float) -> int:
        passed = min(1.0, burst / self._bursts)
        return round(self._start_ms - self._span_ms * (1 - passed))

    def _swap(self, rng: random.Random, now: int, token: str) -> list[Message]:
        """Return a swap, perhaps after its retraction, or with repeats and retractions."""
        event, home = self._new(rng, now, token), self.home(token)
        draw = rng.random()
        if draw < 0.02:
            return [self._send(_retraction(event), home), self._send(event, home)]
        messages = [self._send(event, home)]
        if draw < 0.06:
            messages.append(self._send(_retraction(event), home))
        elif draw < 0.09:
            again = event | {"block_hash": f"0x{rng.getrandbits(64):x}"}
            messages += [self._send(_retraction(event), home), self._send(again, home)]
        elif draw < 0.15:
            messages.append(self._send(event, home))
        elif draw < 0.25:
            messages += self._of_earlier(rng)
        if token in CROSSED and rng.random() < 0.2:
            messages += self._cross(rng, event, token)
        return messages

    def _of_earlier(self, rng: random.Random) -> list[Message]:
        """Repeat a swap of any burst: unchanged, with other values or letter case, or retracted."""
        event, home = rng.choice(self._sent)
        if home != self.home(event["token"]):
            return []
        changes: dict[str, Any] = rng.choice(
            [
                {},
                {"amount_usd": "77.7"},
                {"tx_hash": "0x" + event["tx_hash"][2:].upper()},
                {"removed": True},
            ]
        )
        return [_message(event | changes, home)]

    def _cross(self, rng: random.Random, event: dict[str, Any], token: str) -> list[Message]:
        """Send the same swap, or its retraction, to another partition, as with a wrong key."""
        # The first burst decides where a partition's history begins, so nothing in it may depend on
        # the order of partitions.
        if self._number == 1 or self._crossings[token] >= CROSSINGS_A_TOKEN:
            return []
        self._crossings[token] += 1
        home = self.home(token)
        other = (home + rng.randrange(1, self._partitions)) % self._partitions
        draw = rng.random()
        if draw < 0.6:
            return [self._send(event, other)]
        if draw < 0.8:
            return [self._send(event, other), self._send(_retraction(event), home)]
        return [self._send(_retraction(event), other)]

    def _new(self, rng: random.Random, now: int, token: str) -> dict[str, Any]:
        self._count += 1
        event = {
            "chain": "ethereum",
            "tx_hash": f"0x{self._seed:08x}{self._count:08x}{rng.getrandbits(64):016x}",
            "log_index": rng.randrange(3),
            "timestamp": self._timestamp(rng, now),
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
        if rng.random() < 0.05:
            del event["trader"]
        return event

    def _timestamp(self, rng: random.Random, now: int) -> int:
        draw = rng.random()
        if draw < 0.75:
            return now - rng.randrange(20_000)
        if draw < 0.88:
            return now - rng.randrange(20_000, 115_000)
        if draw < 0.93:
            return now - rng.randrange(4 * MINUTE, 40 * MINUTE)
        if draw < 0.996:
            return now // MINUTE * MINUTE - rng.choice([0, 1, MINUTE, MINUTE + 1, 2 * MINUTE])
        return now + rng.randrange(3 * MINUTE)

    def _bad(self, rng: random.Random) -> bytes | None:
        """Return a message to be rejected. `bad` marks it for the oracle, which does not decode."""
        event = self._new(rng, self._start_ms, "T0") | {"bad": True}
        breaks: dict[str, Any] = rng.choice(
            [
                {"side": "hold"},
                {"amount": "-1"},
                {"chain": None},
                {"timestamp": self._start_ms + 3 * HOUR},
            ]
        )
        return rng.choice([None, b"{", json.dumps(event | breaks).encode()])

    def _send(self, event: dict[str, Any], partition: int) -> Message:
        if not event["removed"]:
            self._sent.append((event, partition))
        return _message(event, partition)


def _message(event: dict[str, Any], partition: int) -> Message:
    return Message(partition, event["token"], json.dumps(event).encode())


def _retraction(event: dict[str, Any]) -> dict[str, Any]:
    return event | {"removed": True}
