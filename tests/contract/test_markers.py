"""What every marker store promises, on the one in memory and on the real Redis."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.contracts.verdict import Verdict
from aggregator.errors import Fatal, Retry
from aggregator.stores.redis.markers import Claim, Markers, NewIncarnation, RedisMarkers
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.fakes.markers import MemoryMarkers

C, L, U, V, D = Verdict.COUNTED, Verdict.LATE, Verdict.UNDONE, Verdict.VOID, Verdict.DUPLICATE
TTL_MS = 60_000


@pytest.fixture(params=["memory", "redis"])
def markers(request: pytest.FixtureRequest) -> Iterator[Markers]:
    if request.param == "memory":
        yield MemoryMarkers()
        return
    store = RedisMarkers(request.getfixturevalue("stack").redis.url, TTL_MS)
    store.connect()
    yield store
    store.close()


@pytest.fixture
def swap() -> bytes:
    """A marker that no other test uses."""
    return secrets.token_bytes(16)


def add(marker: bytes, partition: int, offset: int, *, late: bool = False) -> Claim:
    return Claim(marker, partition, offset, late, removed=False)


def retract(marker: bytes, partition: int, offset: int) -> Claim:
    return Claim(marker, partition, offset, late=False, removed=True)


SEQUENCES: list[tuple[str, Callable[[bytes], list[Claim]], list[Verdict]]] = [
    ("first seen is counted", lambda m: [add(m, 0, 5)], [C]),
    ("own position again", lambda m: [add(m, 0, 5), add(m, 0, 5)], [C, C]),
    ("another offset", lambda m: [add(m, 0, 5), add(m, 0, 6)], [C, D]),
    ("an earlier offset", lambda m: [add(m, 0, 5), add(m, 0, 4)], [C, D]),
    ("same offset elsewhere", lambda m: [add(m, 0, 5), add(m, 1, 5)], [C, D]),
    ("offset that is a prefix", lambda m: [add(m, 0, 51), add(m, 0, 5)], [C, D]),
    ("late", lambda m: [add(m, 0, 5, late=True)], [L]),
    ("late stays late", lambda m: [add(m, 0, 5, late=True), add(m, 0, 5)], [L, L]),
    ("counted stays counted", lambda m: [add(m, 0, 5), add(m, 0, 5, late=True)], [C, C]),
    ("late and a repeat", lambda m: [add(m, 0, 5, late=True), add(m, 0, 6)], [L, D]),
    ("retraction undoes", lambda m: [add(m, 0, 5), retract(m, 0, 6)], [C, U]),
    ("retraction again", lambda m: [add(m, 0, 5), retract(m, 0, 6), retract(m, 0, 6)], [C, U, U]),
    ("retraction repeated", lambda m: [add(m, 0, 5), retract(m, 0, 6), retract(m, 1, 9)],
     [C, U, D]),
    ("retraction of a late one", lambda m: [add(m, 0, 5, late=True), retract(m, 0, 6)], [L, V]),
    ("retraction first", lambda m: [retract(m, 0, 4), add(m, 0, 5)], [V, V]),
    ("retraction first, replayed",
     lambda m: [retract(m, 0, 4), add(m, 0, 5), retract(m, 0, 4), add(m, 0, 5)], [V, V, V, V]),
    ("retraction first, repeats",
     lambda m: [retract(m, 0, 4), add(m, 0, 5), retract(m, 0, 7), add(m, 0, 8)], [V, V, D, D]),
    ("replay of an undone one", lambda m: [add(m, 0, 5), retract(m, 0, 6), add(m, 0, 5)],
     [C, U, C]),
    ("repeat of an undone one", lambda m: [add(m, 0, 5), retract(m, 0, 6), add(m, 0, 7)],
     [C, U, D]),
]  # fmt: skip


@pytest.mark.parametrize("at_once", [True, False], ids=["one call", "a call each"])
@pytest.mark.parametrize(("name", "claims", "verdicts"), SEQUENCES, ids=[s[0] for s in SEQUENCES])
def test_sequences(
    markers: Markers,
    swap: bytes,
    name: str,
    claims: Callable[[bytes], list[Claim]],
    verdicts: list[Verdict],
    at_once: bool,
) -> None:
    asked = claims(swap)
    answered = markers.claim(asked) if at_once else [v for c in asked for v in markers.claim([c])]
    assert answered == verdicts


def test_an_empty_batch_asks_nothing(markers: Markers) -> None:
    assert markers.claim([]) == []


def test_a_batch_of_2000_keeps_its_order(markers: Markers) -> None:
    swaps = [secrets.token_bytes(16) for _ in range(1_000)]
    batch = [add(m, 2, n) for n, m in enumerate(swaps)]
    batch += [add(m, 3, 2**53 - 1 - n) for n, m in enumerate(swaps)]
    assert markers.claim(batch) == [C] * 1_000 + [D] * 1_000
    assert markers.claim(batch[:1_000]) == [C] * 1_000


def test_markers_hold_any_bytes(markers: Markers) -> None:
    for marker in (b"\x00" * 16, b"\r\n,;:C" + secrets.token_bytes(10), b"\xff" * 16):
        assert markers.claim([add(marker, 7, 1), add(marker, 7, 2)]) == [C, D]


claims_of_few_swaps = st.lists(
    st.builds(
        lambda swap, partition, offset, late, removed: (swap, partition, offset, late, removed),
        st.integers(0, 3),
        st.integers(0, 1),
        st.integers(0, 12),
        st.booleans(),
        st.booleans(),
    ),
    max_size=30,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=claims_of_few_swaps)
def test_redis_decides_as_the_model(
    stack: Stack, drawn: list[tuple[int, int, int, bool, bool]]
) -> None:
    names = [secrets.token_bytes(16) for _ in range(4)]
    claims = [Claim(names[swap], *rest) for swap, *rest in drawn]
    store = RedisMarkers(stack.redis.url, TTL_MS)
    store.connect()
    try:
        assert store.claim(claims) == MemoryMarkers().claim(claims)
    finally:
        store.close()


def test_markers_expire(stack: Stack, swap: bytes) -> None:
    store = RedisMarkers(stack.redis.url, 150)
    store.connect()
    assert store.claim([add(swap, 0, 1)]) == [C]
    client = redis.Redis.from_url(stack.redis.url)
    assert 0 < client.pttl(b"dedupe:" + swap) <= 150
    store.claim([retract(swap, 0, 2)])
    assert 0 < client.pttl(b"dedupe:" + swap) <= 150
    client.close()
    store.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Stack]:
    """A Redis that a test may kill."""
    with Stack(tmp_path, only=(Redis,)) as stack:
        yield stack


def test_a_restarted_redis_is_noticed_before_it_answers_a_claim(
    own_redis: Stack, swap: bytes
) -> None:
    store = RedisMarkers(own_redis.redis.url, TTL_MS)
    store.connect()
    assert store.claim([add(swap, 0, 1)]) == [C]
    store.ping()
    own_redis.redis.kill()
    with pytest.raises(Retry):
        store.claim([add(swap, 0, 2)])
    own_redis.redis.start()
    with pytest.raises(NewIncarnation):
        store.ping()
    with pytest.raises(NewIncarnation):
        store.claim([add(swap, 0, 2)])
    store.connect()
    store.ping()
    store.close()


def test_the_model_notices_too(swap: bytes) -> None:
    store = MemoryMarkers()
    assert store.claim([add(swap, 0, 1)]) == [C]
    store.restart(keep=0)
    with pytest.raises(NewIncarnation):
        store.claim([add(swap, 0, 2)])
    store.connect()
    assert store.claim([add(swap, 0, 2)]) == [C]


def test_markers_outlive_a_kill_of_redis_after_a_second(own_redis: Stack, swap: bytes) -> None:
    store = RedisMarkers(own_redis.redis.url, TTL_MS)
    store.connect()
    assert store.claim([add(swap, 0, 1)]) == [C]
    client = redis.Redis.from_url(own_redis.redis.url)
    deadline = time.monotonic() + 10
    while client.info("persistence")["aof_pending_bio_fsync"] and time.monotonic() < deadline:
        time.sleep(0.01)
    client.close()
    own_redis.redis.kill()
    own_redis.redis.start()
    store.connect()
    assert store.claim([add(swap, 0, 2), add(swap, 0, 1)]) == [D, C]
    store.close()


@pytest.mark.parametrize(
    ("setting", "value", "named"),
    [("maxmemory-policy", "allkeys-lru", "noeviction"), ("appendonly", "no", "appendonly")],
)
def test_a_redis_that_may_forget_markers_is_refused(
    own_redis: Stack, setting: str, value: str, named: str
) -> None:
    client = redis.Redis.from_url(own_redis.redis.url)
    client.config_set(setting, value)
    client.close()
    store = RedisMarkers(own_redis.redis.url, TTL_MS)
    with pytest.raises(Fatal, match=named):
        store.connect()
    store.close()


def test_an_unreachable_redis_is_a_retry() -> None:
    store = RedisMarkers("redis://127.0.0.1:1/0", TTL_MS)
    with pytest.raises(Retry):
        store.connect()
    store.close()
