"""Rate limits: a token bucket for the subject of a request and one for its address.

A request passes if both buckets hold its cost. One call to Redis decides (`bucket.lua`), so that
all web nodes share the buckets. While Redis is down each node uses local buckets of the same rates
and reports that it does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from aggregator.contracts.names import RATE_PREFIX
from aggregator.runtime.errors import Retry
from aggregator.runtime.lua import load_lua
from api.auth.access import Access
from api.auth.redis_link import RedisLink

BUCKETS_KEPT: Final = 100_000

# The costs of routes and sockets, in units of one stats row.
COST_STATS: Final = 1
COST_OVERVIEW: Final = 3
COST_HISTORY: Final = 10
COST_BATCH: Final = 10
COST_CONNECT: Final = 5
COST_MESSAGE: Final = 1
COST_REFUSED: Final = 1
# Sending swaps costs 1 and as much again for so many of them.
LINES_A_UNIT: Final = 100
# Charged to the address only: a page, static file, probe or unknown path, answered from memory.
COST_PAGE: Final = 1
# An admin page needs a session, the database and a template: about ten times as much.
COST_ADMIN: Final = 10

BUCKET_LUA: Final = Path(__file__).with_name("bucket.lua")


class BucketRate(NamedTuple):
    """The rate of a bucket: `per_s` is its refill a second, `burst` its size."""

    per_s: float
    burst: int


class RateDecision(NamedTuple):
    """Whether the cost passed, and the state of the bucket with the smallest share left.

    `limit` is the size of that bucket and `remaining` what is left of it. `reset_s` is the time
    until it is full again, `retry_after_s` the time until the same cost would pass, 0 if it passed.
    `local` is true if this node decided without Redis.
    """

    passed: bool
    limit: int
    remaining: int
    reset_s: int
    retry_after_s: int
    local: bool

    @property
    def headers(self) -> dict[str, str]:
        """The X-RateLimit headers, and Retry-After if the cost did not pass."""
        headers = {
            "X-RateLimit-Limit": str(self.limit),
            "X-RateLimit-Remaining": str(self.remaining),
            "X-RateLimit-Reset": str(self.reset_s),
        }
        if not self.passed:
            headers["Retry-After"] = str(self.retry_after_s)
        return headers


class LocalBuckets:
    """The buckets of one process: the algorithm of `bucket.lua` on a clock in seconds."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._full_at: dict[str, float] = {}

    def take(self, keys: Sequence[str], rates: Sequence[BucketRate], cost: int) -> list[int]:
        """Take the cost; return what `bucket.lua` returns."""
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
                # reinsert at the end, so that the least recently used bucket is evicted first
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
    """Takes costs from the buckets. Every address has `ip_rate`; `access` has a subject's rate.

    Never waits for a Redis that is down, and raises nothing.
    """

    def __init__(
        self, link: RedisLink, access: Access, ip_rate: BucketRate, now_s: Callable[[], float]
    ) -> None:
        self._link = link
        self._access = access
        self._ip_rate = ip_rate
        self._local = LocalBuckets(now_s)
        self._script = load_lua(BUCKET_LUA)

    @property
    def fault(self) -> str | None:
        """Why this node uses its local buckets; None while it uses those in Redis."""
        if self._link.fault is None:
            return None
        return f"rate limits are of this node alone: {self._link.fault}"

    async def take(self, subject: str | None, ip: str | None, cost: int = 1) -> RateDecision:
        """Take `cost` from the buckets of the address and of the subject; None skips one of them.

        At least one must be given. A cost above the size of a bucket counts as its size, so it
        passes when the bucket is full.
        """
        keys, rates = [], []
        if ip is not None:
            keys.append(f"{RATE_PREFIX}ip:{ip}")
            rates.append(self._ip_rate)
        if subject is not None:
            # the hash bounds the key's length: a subject may be any text
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
