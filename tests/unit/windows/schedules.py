"""Random schedules of a partition: batches of records, and how the clock moves between them.

The same seed gives the same schedule. The sizes make the compiled engine grow its columns, link
many buckets and free them again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import msgspec

from aggregator.contracts.event import Swap, marker_of
from tests.support.oracle import MINUTE
from tests.unit.windows.service import MAX_FUTURE, T0

HOUR = 60 * MINUTE
DAY = 24 * HOUR


@dataclass(frozen=True)
class Shape:
    """What a schedule is like.

    `grace_ms` is how late swaps come and still count. `pause_ms` is the mean pause between batches.
    Each chain has a lag (ms): its swaps are so much older than their records.
    """

    windows: tuple[tuple[str, int], ...]
    grace_ms: int
    tokens: int
    pause_ms: int
    chains: tuple[int, ...]


BUSY = Shape((("2m", 2), ("10m", 10), ("45m", 45)), 45 * MINUTE, 24, MINUTE, (0,))
"""Many batches a minute, and windows that are soon left."""

DAYS = Shape(
    (("7m", 7), ("1h", 60), ("24h", 1_440)), DAY, 90, 40 * MINUTE, (0, 0, 13 * MINUTE, 20 * HOUR)
)
"""A history of more than two days; one chain is 13 minutes late and one 20 hours."""

WEEKS = Shape((("7m", 7), ("1h", 60), ("7d", 10_080)), DAY, 70, 4 * HOUR, (0, 0, 13 * MINUTE))
"""A history of more than two weeks."""


@dataclass(frozen=True)
class Step:
    """`swaps` are recorded at `now`, then the clock moves to `then` (ms); `forget`: drop idle ones.

    `clock` is what the machine's clock shows in place of `then`: it may be hours ahead or lag.
    """

    now: int
    swaps: list[Swap | None]
    then: int
    clock: int
    forget: bool


def schedule(seed: int, steps: int, shape: Shape = BUSY) -> Iterator[Step]:
    """Yield `steps` batches: bursts and silences, repeats, retractions, early and late swaps."""
    rng = random.Random(seed)
    market = _Market(rng, shape)
    now, ahead = T0 + rng.randrange(MINUTE), 0
    for _ in range(steps):
        busy = rng.random() < 0.8
        swaps = [market.next(now) for _ in range(rng.randint(1, 40))] if busy else []
        then = now + _pause(rng, shape)
        ahead = _ahead(rng, ahead, shape)
        yield Step(now, swaps, then, then + ahead, forget=rng.random() < 0.2)
        now = then


def _pause(rng: random.Random, shape: Shape) -> int:
    """Return mostly a fraction of the mean; sometimes much more, rarely a leap past all windows."""
    kind = rng.random()
    if kind < 0.75:
        return rng.randrange(shape.pause_ms // 2)
    if kind < 0.985:
        return rng.randrange(5 * shape.pause_ms)
    longest = max(minutes for _, minutes in shape.windows)
    return (rng.choice([1, 1, 2, 2, 4]) * longest + rng.randrange(-1, 2)) * MINUTE


def _ahead(rng: random.Random, ahead: int, shape: Shape) -> int:
    """Return how far the machine's clock is ahead of the log's, from now on."""
    kind = rng.random()
    if kind < 0.96:
        return ahead
    if kind < 0.98:
        return 0
    return rng.choice([-5 * MINUTE, -MINUTE, 90_000, 6 * MINUTE, 2 * shape.pause_ms])


class _Market:
    """Draws swaps: token, trader, time and size. Keeps all that were sent, for repeats."""

    def __init__(self, rng: random.Random, shape: Shape) -> None:
        self._rng = rng
        self._shape = shape
        self._sent: list[Swap] = []
        self._owed: list[Swap] = []
        self._late: list[Swap] = []
        self._traders = [None, *(f"trader-{number}" for number in range(60))]

    def next(self, now: int) -> Swap | None:
        rng = self._rng
        kind = rng.random()
        if kind < 0.01:
            return None
        if self._owed and kind < 0.03:
            return self._owed.pop()
        if self._sent and kind < 0.05:
            return self._again(now)
        if self._sent and kind < 0.12:
            return self._removal(self._old())
        swap = self._swap(now)
        self._sent.append(swap)
        if swap.timestamp < now - self._shape.grace_ms:
            self._late.append(swap)
        # A retraction may overtake its swap.
        if rng.random() < 0.02:
            self._owed.append(swap)
            return self._removal(swap)
        return swap

    def _old(self) -> Swap:
        recent = self._rng.random() < 0.8
        return self._rng.choice(self._sent[-50:] if recent else self._sent)

    def _again(self, now: int) -> Swap:
        """Return an old swap, sometimes in another block with another time."""
        swap = self._old()
        if self._rng.random() < 0.4:
            return swap
        if self._late and self._rng.random() < 0.5:
            swap = self._rng.choice(self._late)
        return msgspec.structs.replace(
            swap,
            block_hash=self._rng.choice([None, "0xaa", "0xbb"]),
            timestamp=self._rng.choice([now, swap.timestamp + self._rng.randrange(3 * MINUTE)]),
        )

    def _removal(self, swap: Swap) -> Swap:
        """Return a retraction whose own values are mostly not those of the swap."""
        if self._rng.random() < 0.3:
            return msgspec.structs.replace(swap, removed=True)
        return msgspec.structs.replace(
            swap,
            removed=True,
            timestamp=swap.timestamp + self._rng.randrange(-DAY, DAY),
            is_buy=not swap.is_buy,
            amount_attos=self._rng.randrange(1, 10**20),
            usd_micros=self._rng.choice([None, 5]),
            price_usd=None,
            trader="somebody else",
            symbol=None,
            block_hash=self._rng.choice([None, swap.block_hash, "0xaa"]),
        )

    def _swap(self, now: int) -> Swap:
        rng, shape = self._rng, self._shape
        # Few tokens have most of the trades, and some have hardly any.
        token = min(int(rng.expovariate(6 / shape.tokens)), shape.tokens - 1)
        chain = token % len(shape.chains)
        number = len(self._sent)
        tx_hash, log_index = f"0x{number // 3:x}", number % 3
        return Swap(
            token_id=f"chain{chain}:T{token}",
            chain=f"chain{chain}",
            token=f"T{token}",
            tx_hash=tx_hash,
            log_index=log_index,
            timestamp=self._time(now - shape.chains[chain]),
            is_buy=rng.random() < 0.5,
            amount_attos=int(10 ** rng.uniform(0, 45)),
            usd_micros=rng.choice(
                [None, 0, rng.randrange(10**4), rng.randrange(10**14), 2**63 - 1]
            ),
            price_usd=round(10 ** rng.uniform(-9, 9), 12) if rng.random() < 0.9 else None,
            removed=False,
            marker=marker_of(f"chain{chain}", tx_hash, log_index, f"T{token}"),
            symbol=rng.choice([None, f"T{token}", f"t{token}"]),
            trader=rng.choice(self._traders),
            block_number=rng.choice([None, 5, 6, 2**40]),
            block_hash=rng.choice([None, "0xaa", "0xbb"]),
        )

    def _time(self, now: int) -> int:
        rng = self._rng
        kind = rng.random()
        if kind < 0.6:
            at = now - int(rng.expovariate(1 / 5_000))
        elif kind < 0.85:
            at = now - rng.randrange(self._shape.grace_ms + MINUTE)
        elif kind < 0.95:
            at = now + rng.randrange(2 * MINUTE)
        elif kind < 0.97:
            at = now + rng.randrange(MAX_FUTURE + 1)
        else:
            at = now - rng.randrange(2 * self._shape.grace_ms)
        # Times that are equal, and times on a minute, are where a wrong comparison shows.
        return at // 15_000 * 15_000 if rng.random() < 0.3 else at
