"""Rate limits of running nodes: buckets in Redis for all web nodes, and local ones without it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import pytest
from redis.asyncio.connection import AbstractConnection

from aggregator.runtime.errors import Retry
from aggregator.runtime.lua import load_lua
from api.auth import redis_link
from api.auth.access import Access, SubjectLimits
from api.auth.ratelimit import BucketRate, RateLimiter
from api.auth.redis_link import ANSWER_WITHIN_S, RedisLink
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.redis_faults import redis_pair
from tests.support.web_nodes import STATUS, Node, Nodes

pytestmark = pytest.mark.engines

HOME = "203.0.113.9"
WIDE = BucketRate(1_000_000, 1_000_000)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    with Stack(tmp_path / "stack", only=(Redis,)) as stack:
        yield stack.redis


@pytest.fixture
async def link(redis: Redis) -> AsyncIterator[RedisLink]:
    made = RedisLink(redis.url)
    made.start()
    await until_up(made)
    yield made
    await made.stop()


async def until_up(link: RedisLink, within_s: float = 20) -> None:
    async with asyncio.timeout(within_s):
        while link.fault is not None:  # noqa: ASYNC110 - it has no event to wait for
            await asyncio.sleep(0.01)


def limiter_of(link: RedisLink, rate: int, burst: int, ip: BucketRate = WIDE) -> RateLimiter:
    return RateLimiter(link, Access(SubjectLimits(rate, burst)), ip, time.monotonic)


async def test_both_buckets_must_let_a_cost_pass_and_a_refusal_charges_none(
    link: RedisLink,
) -> None:
    limiter = limiter_of(link, 1, 10, BucketRate(1, 15))
    first = [await limiter.take("a", HOME, 2) for _ in range(6)]
    assert [each.passed for each in first] == [True] * 5 + [False]
    assert (first[4].remaining, first[4].limit) == (0, 10)
    assert first[5].retry_after_s in {1, 2}
    second = [await limiter.take("b", HOME, 1) for _ in range(6)]
    assert [each.passed for each in second] == [True] * 5 + [False], "the address had 5 left"
    assert not any(each.local for each in first + second)


async def test_a_demoted_redis_is_left_for_the_new_master(tmp_path: Path) -> None:
    """A demoted master answers READONLY for as long as the open connection is used."""
    with redis_pair(tmp_path) as pair:
        await asyncio.to_thread(pair.demote, pair.second, pair.first)
        link = RedisLink(pair.url)
        link.start()
        try:
            await until_up(link)
            limiter = limiter_of(link, 1_000, 1_000)
            assert not (await limiter.take("a", HOME)).local
            await asyncio.to_thread(pair.promote, pair.second)
            await asyncio.to_thread(pair.demote, pair.first, pair.second)
            pair.point_at(pair.second)
            assert (await limiter.take("a", HOME)).local
            async with asyncio.timeout(30):
                while (await limiter.take("a", HOME)).local:  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.05)
            assert pair.client(pair.second).keys("rl:*"), "counted at the new master"
        finally:
            await link.stop()


async def test_it_refills_at_its_rate(link: RedisLink) -> None:
    limiter = limiter_of(link, 50, 5)
    for _ in range(5):
        assert (await limiter.take("a", HOME)).passed
    begun, passed = time.monotonic(), 0
    while time.monotonic() - begun < 1:
        passed += (await limiter.take("a", HOME)).passed
    took = time.monotonic() - begun
    assert 45 <= passed <= 50 * took + 1


async def test_concurrent_callers_get_exactly_the_burst(
    link: RedisLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    # On a busy machine a few of thousands of concurrent calls time out and are decided locally.
    monkeypatch.setattr(redis_link, "ANSWER_WITHIN_S", 60)
    limiter = limiter_of(link, 1, 100)
    begun = time.monotonic()
    decisions = []
    for _ in range(10):
        # no more concurrent calls than Redis answers in time on a busy machine
        decisions += await asyncio.gather(*(limiter.take("a", HOME) for _ in range(300)))
    took = time.monotonic() - begun
    assert not any(each.local for each in decisions)
    assert 100 <= sum(each.passed for each in decisions) <= 101 + took


async def test_keys_hold_no_text_of_the_caller_and_expire(link: RedisLink) -> None:
    limiter = limiter_of(link, 5, 10)
    await limiter.take("x\r\nFLUSHALL {evil}", "2001:db8::")
    keys = sorted(await link.call("KEYS", "*"))
    assert len(keys) == 2
    assert keys[0] == b"rl:ip:2001:db8::"
    assert keys[1].startswith(b"rl:sub:") and len(keys[1]) == len("rl:sub:") + 32
    for key in keys:
        assert 0 < await link.call("PTTL", key) <= 3_000


async def test_redis_dies_and_comes_back(redis: Redis, link: RedisLink) -> None:
    limiter = limiter_of(link, 1, 5)
    assert not (await limiter.take("a", HOME)).local
    redis.kill()
    decisions = await asyncio.gather(*(limiter.take("a", HOME) for _ in range(100)))
    assert all(each.local for each in decisions)
    assert sum(each.passed for each in decisions) == 5, "a bucket of the same rate"
    assert limiter.fault is not None and "of this node alone" in limiter.fault
    redis.start()
    await until_up(link)
    again = await limiter.take("a", HOME)
    assert (again.local, limiter.fault) == (False, None)


async def test_a_redis_that_hangs_does_not_hold_a_request_up(redis: Redis, link: RedisLink) -> None:
    limiter = limiter_of(link, 1, 5)
    os.kill(redis.pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        decisions = await asyncio.gather(*(limiter.take("a", HOME) for _ in range(20)))
        assert time.monotonic() - begun < ANSWER_WITHIN_S + 3
        assert all(each.local for each in decisions)
        begun = time.monotonic()
        assert (await limiter.take("b", HOME)).local
        assert time.monotonic() - begun < ANSWER_WITHIN_S, "it does not wait again"
    finally:
        os.kill(redis.pid, signal.SIGCONT)
    await until_up(link)
    assert not (await limiter.take("b", HOME)).local


async def test_a_connection_is_closed_where_its_handshake_is_cancelled(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: asyncio.Queue[AbstractConnection] = asyncio.Queue()

    async def endless(connection: AbstractConnection, **_: Any) -> None:
        begun.put_nowait(connection)
        await asyncio.Event().wait()

    monkeypatch.setattr(AbstractConnection, "on_connect_check_health", endless)
    link = RedisLink(redis.url)
    link.start()
    async with asyncio.timeout(30):
        connection = await begun.get()
        assert connection.is_connected
        await link.stop()
    assert not connection.is_connected


async def test_a_script_that_redis_forgot_is_sent_again_and_a_broken_one_is_a_retry(
    link: RedisLink, tmp_path: Path
) -> None:
    path = tmp_path / "script.lua"
    path.write_text("return {KEYS[1], ARGV[1]}")
    script = load_lua(path)
    assert await link.run(script, ["k"], [7]) == [b"k", b"7"]
    await link.call("SCRIPT", "FLUSH")
    assert await link.run(script, ["k"], [8]) == [b"k", b"8"]
    path.write_text("return redis.call('NOPE')")
    with pytest.raises(Retry, match="refused a script"):
        await link.run(load_lua(path), [], [])
    assert await link.call("PING") == b"PONG", "the connection is as good as before"


async def test_callers_that_give_up_do_not_mix_up_the_answers(link: RedisLink) -> None:
    async def ask(number: int) -> bool:
        return bool(await link.call("ECHO", str(number)) == str(number).encode())

    tasks = [asyncio.create_task(ask(number)) for number in range(300)]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    kept = [each for number, each in enumerate(answers) if number % 3]
    assert kept and all(each is True for each in kept)


class Answer(NamedTuple):
    """The answer of a node."""

    status: int
    headers: dict[str, str]
    body: bytes


async def _fire(nodes: list[Node], token: str, count: int) -> list[Answer]:
    """Send `count` requests to the nodes in turn, fifty of them concurrently.

    Over raw sockets: an HTTP client would be slower than the nodes.
    """
    request = f"GET {STATUS} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {token}\r\n\r\n"
    waiting = iter(range(count))
    answers: list[Answer] = []

    async def worker(number: int) -> None:
        address = urlsplit(nodes[number % len(nodes)].url)
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for _ in waiting:
            writer.write(request.encode())
            first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")[:-2]
            headers = dict(line.lower().split(": ", 1) for line in lines)
            body = await reader.readexactly(int(headers["content-length"]))
            answers.append(Answer(int(first.split()[1]), headers, body))
        writer.close()
        await writer.wait_closed()

    async with asyncio.timeout(90):
        await asyncio.gather(*(worker(number) for number in range(50)))
    return answers


def test_5000_requests_at_two_nodes_never_pass_more_than_burst_and_refill(tmp_path: Path) -> None:
    rate, burst = 40, 300
    limits = {"RATE_LIMIT": str(rate), "RATE_BURST": str(burst)}
    wide = {"RATE_LIMIT_IP": "100000", "RATE_BURST_IP": "100000"}
    with Nodes(tmp_path, **limits, **wide) as nodes:
        pair = [nodes.web("one"), nodes.web("two")]
        token = nodes.token("busy")
        begun = time.monotonic()
        answers = asyncio.run(_fire(pair, token, 5_000))
        took = time.monotonic() - begun
        by_status = {status: [a for a in answers if a.status == status] for status in (200, 429)}
        passed, refused = len(by_status[200]), by_status[429]
        assert passed + len(refused) == 5_000
        assert passed <= burst + rate * took + 1, f"{passed} passed in {took:.2f} s"
        assert passed >= burst + rate * (took - 1), "what is free is given"
        for answer in refused[:50]:
            assert json.loads(answer.body)["code"] == "rate_limited"
            assert int(answer.headers["retry-after"]) >= 1
        for answer in by_status[200][:50]:
            assert answer.headers["x-ratelimit-limit"] == str(burst)
        assert nodes.token("calm") and pair[0].get(nodes.token("calm")).status_code == 200


def test_a_client_cannot_change_its_address_by_a_header(tmp_path: Path) -> None:
    with Nodes(tmp_path, RATE_LIMIT_IP="1", RATE_BURST_IP="20") as nodes:
        node = nodes.web()
        forged = [
            node.get("no-token", **{"X-Forwarded-For": f"198.51.100.{number}"})
            for number in range(40)
        ]
        assert 15 <= sum(each.status_code == 401 for each in forged) <= 25
        assert forged[-1].status_code == 429, "bad tokens are counted too"
        proxied = nodes.web("proxied", TRUSTED_PROXIES="127.0.0.0/8")
        honest = [
            proxied.get("no-token", **{"X-Forwarded-For": f"9.9.9.9, 198.51.100.{number}"})
            for number in range(40)
        ]
        assert {each.status_code for each in honest} == {401}
        one = [
            proxied.get("no-token", **{"X-Forwarded-For": f"198.51.100.{number}, 203.0.113.1"})
            for number in range(40)
        ]
        assert one[-1].status_code == 429, "only the entry that the proxy wrote counts"
