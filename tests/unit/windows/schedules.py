"""Random schedules of a busy partition: batches of records, and how the clock moves between them.

The same seed gives the same schedule. The sizes make the compiled engine grow its columns, link
many buckets and free them again.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

from aggregator.contracts.event import Swap, marker_of
from tests.support.oracle import MINUTE
from tests.unit.windows.service import MAX_FUTURE, T0

# Wide enough for swaps to come many buckets out of order.
GRACE = 10 * MINUTE
WINDOWS = (("2m", 2), ("10m", 10), ("45m", 45))
TOKENS = 24
TRADERS = 60


@dataclass(frozen=True)
class Step:
    """`swaps` are read at `now`, then the clock moves to `then` (ms); `forget`: drop idle ones."""

    now: int
    swaps: list[Swap]
    then: int
    forget: bool


def schedule(seed: int, steps: int) -> Iterator[Step]:
    """Yield `steps` batches: bursts and silences, repeats, retractions, early and late swaps."""
    rng = random.Random(seed)
    market = _Market(rng)
    now = T0 + rng.randrange(MINUTE)
    for _ in range(steps):
        busy = rng.random() < 0.8
        swaps = [market.next(now) for _ in range(rng.randint(1, 40))] if busy else []
        then = now + _pause(rng)
        yield Step(now, swaps, then, forget=rng.random() < 0.2)
        now = max(now, then)


def _pause(rng: random.Random) -> int:
    """Return mostly seconds; sometimes minutes, an hour, a leap past all windows; rarely back."""
    kind = rng.random()
    if kind < 0.75:
        return rng.randrange(30_000)
    if kind < 0.955:
        return rng.randrange(4 * MINUTE)
    if kind < 0.97:
        return rng.randrange(60 * MINUTE)
    if kind < 0.98:
        return rng.choice([44, 45, 46, 89, 90, 91, 200, 10_000]) * MINUTE
    return -rng.randrange(3 * MINUTE)


class _Market:
    """Draws swaps: token, trader, time and size. Keeps all that were sent, for repeats."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._sent: list[Swap] = []
        self._traders = [None, *(f"trader-{number}" for number in range(TRADERS))]

    def next(self, now: int) -> Swap:
        rng = self._rng
        kind = rng.random()
        if self._sent and kind < 0.05:
            return self._old()
        if self._sent and kind < 0.11:
            return _removed(self._old())
        swap = self._swap(now)
        # A retraction may overtake its swap.
        self._sent.append(swap)
        return _removed(swap) if rng.random() < 0.01 else swap

    def _old(self) -> Swap:
        recent = self._rng.random() < 0.8
        return self._rng.choice(self._sent[-50:] if recent else self._sent)

    def _swap(self, now: int) -> Swap:
        rng = self._rng
        # Few tokens have most of the trades, and some have hardly any.
        token = min(int(rng.expovariate(0.25)), TOKENS - 1)
        amount = int(10 ** rng.uniform(0, 45))
        usd = rng.choice([None, 0, rng.randrange(10**4), rng.randrange(10**14), 2**63 - 1])
        price = round(10 ** rng.uniform(-9, 9), 12) if rng.random() < 0.9 else None
        number = len(self._sent)
        return Swap(
            token_id=f"ethereum:T{token}",
            chain="ethereum",
            token=f"T{token}",
            tx_hash=f"0x{number:x}",
            log_index=0,
            timestamp=self._time(now),
            is_buy=rng.random() < 0.5,
            amount_attos=amount,
            usd_micros=usd,
            price_usd=price,
            removed=False,
            marker=marker_of("ethereum", f"0x{number:x}", 0, None),
            symbol=rng.choice([None, f"T{token}", f"t{token}"]),
            trader=rng.choice(self._traders),
        )

    def _time(self, now: int) -> int:
        rng = self._rng
        kind = rng.random()
        if kind < 0.6:
            at = now - int(rng.expovariate(1 / 5_000))
        elif kind < 0.9:
            at = now - rng.randrange(GRACE + MINUTE)
        elif kind < 0.95:
            at = now + rng.randrange(2 * MINUTE)
        elif kind < 0.96:
            # This closes buckets early: often, and little else would be counted.
            at = now + rng.randrange(MAX_FUTURE + 1)
        else:
            at = now - rng.randrange(100 * MINUTE)
        # Times that are equal, and times on a minute, are where a wrong comparison shows.
        return at // 15_000 * 15_000 if rng.random() < 0.3 else at


def _removed(swap: Swap) -> Swap:
    fields = {name: getattr(swap, name) for name in swap.__struct_fields__}
    return Swap(**{**fields, "removed": True})
