"""How much a caller may take: a token bucket for the subject and one for the address.

Both must let a request's cost pass, decided by one call to Redis (`bucket.lua`), so that any
number of web nodes share one bucket. While Redis is away each node decides alone with buckets of
the same rates, and says that it does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from aggregator.contracts.names import RATE_PREFIX
from aggregator.runtime.errors import Retry
from api.auth.access import Access
from api.auth.redis_link import RedisLink, Script

BUCKETS_KEPT: Final = 100_000

# What the routes and the sockets cost; a stats row is the unit.
COST_STATS: Final = 1
COST_OVERVIEW: Final = 3
COST_HISTORY: Final = 10
COST_BATCH: Final = 10
COST_CONNECT: Final = 5
COST_MESSAGE: Final = 1
COST_REFUSED: Final = 1
# Of the address alone: a page, a static file, a probe or an unknown address, from memory.
COST_PAGE: Final = 1
# A page of the admin takes sessions, the database and a template: about ten times as much.
COST_ADMIN: Final = 10

BUCKET_LUA: Final = Path(__file__).with_name("bucket.lua")


class BucketRate(NamedTuple):
    """A bucket's size: `per_s` comes in a second, `burst` is what it holds."""

    per_s: float
    burst: int


class RateDecision(NamedTuple):
    """Whether the cost passed, and what the bucket that is nearest to its end says.

    `remaining` is what could be taken at once; `reset_s` is when the bucket is full again,
    `retry_after_s` when the same cost would pass (0 where it did), both from now. `local` tells
    that this node decided without Redis.
    """

    passed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: int
    local: bool

    @property
    def headers(self) -> dict[str, str]:
        """The X-RateLimit headers, and Retry-After where it did not pass."""
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset_s),
        }
        if not self.passed:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers


class LocalBuckets:
    """The buckets of one process: the arithmetic of `bucket.lua` on a clock in seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._full_at: dict[str, float] = {}

    def take(self, keys: Sequence[str], rates: Sequence[BucketRate], cost: int) -> list[int]:
        """As `bucket.lua` answers."""
        now = self._now_s()
        before = [max(self._full_at.get(key, now), now) for key in keys]
        after = [
            at + min(cost, rate.burst) / rate.per_s for at, rate in zip(before, rates, strict=True)
        ]
        wait = max(
            0.0,
            *(at - now - rate.burst / rate.per_s for at, rate in zip(after, rates, strict=True)),
        )
        passes = wait < 1e-6
        if passes:
            for key, at in zip(keys, after, strict=True):
                # the newest stands last, so the oldest is dropped first
                self._full_at.pop(key, None)
                self._full_at[key] = at
            while len(self._full_at) > BUCKETS_KEPT:
                del self._full_at[next(iter(self._full_at))]
        answer = [int(passes), math.ceil(wait * 1e6)]
        for at, rate in zip(after if passes else before, rates, strict=True):
            left = math.floor(rate.burst - (at - now) * rate.per_s + 1e-6)
            answer += [max(0, left), math.ceil((at - now) * 1e6)]
        return answer


class RateLimiter:
    """Takes costs from the buckets. `ip_rate` is every address's, a subject's comes from `access`.

    It never waits for a Redis that is away and raises nothing.
    """

    def __init__(
        self, link: RedisLink, access: Access, ip_rate: BucketRate, now_s: Callable[[], float]
    ) -> None:
        self._link = link
        self._access = access
        self._ip_rate = ip_rate
        self._local = LocalBuckets(now_s)
        self._script = Script(BUCKET_LUA.read_bytes())

    @property
    def fault(self) -> str | None:
        """Why this node decides alone; None while Redis decides."""
        if self._link.fault is None:
            return None
        return f"rate limits are of this node alone: {self._link.fault}"

    async def take(self, subject: str | None, ip: str | None, cost: int = 1) -> RateDecision:
        """Take `cost` from the bucket of the address and of the subject, where given.

        At least one must be.
        A cost above a bucket's burst counts as the burst: it passes when the bucket is full.
        """
        keys, rates = [], []
        if ip is not None:
            keys.append(f"{RATE_PREFIX}ip:{ip}")
            rates.append(self._ip_rate)
        if subject is not None:
            # by its hash: a subject may be any text of any language
            digest = hashlib.blake2b(subject.encode(), digest_size=16).hexdigest()
            keys.append(f"{RATE_PREFIX}sub:{digest}")
            limits = self._access.limits(subject)
            rates.append(BucketRate(limits.rate_per_s, limits.burst))
        local = False
        try:
            answer = await self._link.run(self._script, keys, _arguments(cost, rates))
        except Retry:
            answer, local = self._local.take(keys, rates, cost), True
        return _decision(answer, rates, local)


def _arguments(cost: int, rates: Sequence[BucketRate]) -> list[float]:
    arguments: list[float] = [cost]
    for rate in rates:
        arguments += rate
    return arguments


def _decision(answer: Sequence[int], rates: Sequence[BucketRate], local: bool) -> RateDecision:
    passed, wait_us, *of_buckets = answer
    left, full_us = of_buckets[0::2], of_buckets[1::2]
    nearest = min(range(len(rates)), key=lambda i: left[i] / rates[i].burst)
    return RateDecision(
        passed=bool(passed),
        limit=rates[nearest].burst,
        remaining=left[nearest],
        reset_s=math.ceil(full_us[nearest] / 1e6),
        retry_after_s=0 if passed else max(1, math.ceil(wait_us / 1e6)),
        local=local,
    )
