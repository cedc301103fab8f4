"""Rate limits without Redis: the node's local buckets, their keys, and the decisions."""

from __future__ import annotations

import asyncio
import random

import pytest

from api.auth import ratelimit
from api.auth.access import Access, AccessState, OwnLimits, SubjectLimits
from api.auth.ratelimit import BucketRate, LocalBuckets, RateLimiter
from api.auth.redis_link import RedisLink

HOME = "203.0.113.9"


class Clock:
    def __init__(self) -> None:
        self.now_s = 50.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def access() -> Access:
    return Access(SubjectLimits(rate_per_s=2, burst=10))


@pytest.fixture
def limiter(clock: Clock, access: Access) -> RateLimiter:
    # not started, like a node that has never reached Redis
    return RateLimiter(
        RedisLink("redis://:pass-word@127.0.0.1:1/0"), access, BucketRate(20, 30), clock
    )


async def passed(limiter: RateLimiter, subject: str | None, ip: str, count: int) -> int:
    return sum([(await limiter.take(subject, ip)).passed for _ in range(count)])


async def test_a_subject_may_take_its_burst_and_then_its_rate(
    limiter: RateLimiter, clock: Clock
) -> None:
    assert await passed(limiter, "a", HOME, 25) == 10
    clock.now_s += 3
    assert await passed(limiter, "a", HOME, 25) == 6
    clock.now_s += 3_600
    assert await passed(limiter, "a", HOME, 25) == 10


async def test_subjects_do_not_share_but_the_address_does(limiter: RateLimiter) -> None:
    taken = [await passed(limiter, f"s{number}", HOME, 25) for number in range(4)]
    assert taken == [10, 10, 10, 0]
    assert await passed(limiter, "s0", "203.0.113.10", 1) == 0, "the subject's own is empty too"
    assert await passed(limiter, "other", "203.0.113.10", 25) == 10


async def test_what_does_not_pass_is_not_charged(limiter: RateLimiter) -> None:
    await passed(limiter, "a", HOME, 1_000)
    # if the 990 refusals had been charged, the bucket of the address would be empty
    assert await passed(limiter, "b", HOME, 10) == 10


async def test_a_cost_above_the_burst_passes_when_the_bucket_is_full(
    limiter: RateLimiter, clock: Clock
) -> None:
    assert (await limiter.take("a", HOME, 25)).passed
    assert (await limiter.take("a", "203.0.113.10", 25)).passed is False
    clock.now_s += 4.9
    assert (await limiter.take("a", "203.0.113.10", 25)).passed is False
    clock.now_s += 0.1
    assert (await limiter.take("a", "203.0.113.10", 25)).passed


async def test_the_decision_says_what_is_left_and_how_long_to_wait(
    limiter: RateLimiter, clock: Clock
) -> None:
    first = await limiter.take("a", HOME, 4)
    assert first.headers == {
        "X-RateLimit-Limit": "10",
        "X-RateLimit-Remaining": "6",
        "X-RateLimit-Reset": "2",
    }
    await limiter.take("a", HOME, 6)
    refused = await limiter.take("a", HOME, 3)
    assert (refused.passed, refused.remaining, refused.reset_s) == (False, 0, 5)
    assert refused.headers["Retry-After"] == "2"
    clock.now_s += refused.retry_after_s
    assert (await limiter.take("a", HOME, 3)).passed


async def test_limits_of_a_subject_change_while_it_runs(
    limiter: RateLimiter, access: Access
) -> None:
    assert await passed(limiter, "a", HOME, 25) == 10
    access.take(AccessState(1, [], {"a": OwnLimits(burst=25), "b": OwnLimits(burst=1)}))
    assert await passed(limiter, "a", HOME, 25) == 15
    assert await passed(limiter, "b", "203.0.113.11", 25) == 1
    access.take(AccessState(2, [], {}))
    assert (await limiter.take("b", "203.0.113.11")).limit == 10


async def test_without_redis_it_says_so_without_the_password(limiter: RateLimiter) -> None:
    assert (await limiter.take("a", HOME)).local
    assert limiter.fault is not None
    assert limiter.fault.startswith("rate limits are of this node alone: Redis at 127.0.0.1:1")
    assert "pass-word" not in limiter.fault


async def test_concurrent_takes_never_pass_more_than_the_burst(limiter: RateLimiter) -> None:
    decisions = await asyncio.gather(*(limiter.take("a", HOME) for _ in range(500)))
    assert sum(each.passed for each in decisions) == 10


def test_the_local_buckets_are_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratelimit, "BUCKETS_KEPT", 100)
    buckets = LocalBuckets(clock)
    for number in range(1_000):
        buckets.take([f"k{number}"], [BucketRate(1, 1)], 1)
    assert len(buckets._full_at) == 100
    assert buckets.take(["k999"], [BucketRate(1, 1)], 1)[0] == 0, "the newest is remembered"


def test_over_any_stretch_of_time_no_more_passes_than_burst_and_refill(clock: Clock) -> None:
    rate, draw = BucketRate(7, 20), random.Random(11)
    buckets = LocalBuckets(clock)
    taken: list[tuple[float, int]] = []
    for _ in range(3_000):
        clock.now_s += draw.choice([0, 0, 0.01, 0.2, 1.5])
        cost = draw.choice([1, 1, 3, 10])
        if buckets.take(["k"], [rate], cost)[0]:
            taken.append((clock.now_s, cost))
    for begin in range(0, len(taken), 7):
        total = 0
        for at, cost in taken[begin:]:
            total += cost
            assert total <= rate.burst + rate.per_s * (at - taken[begin][0]) + 1e-3
