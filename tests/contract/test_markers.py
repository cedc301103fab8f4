"""The contract of every marker store, on the in-memory store and on a real Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.contracts.verdict import Verdict
from aggregator.redis.markers import (
    MAX_CLAIMS,
    Markers,
    NewIncarnation,
    RedisMarkers,
    kinds_of,
)
from aggregator.redis.session import RedisSession
from aggregator.runtime.errors import Fatal, Retry
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.fakes.markers import MemoryMarkers
from tests.support.processes import kill_with_all_written

C, L, U, V, D = "CLUVD"
TTL_MS = 60_000

Claim = tuple[bytes, int, int, str]
"""(marker, partition, offset, kind)."""


def redis_markers(url: str, ttl_ms: int = TTL_MS) -> RedisMarkers:
    return RedisMarkers(RedisSession(url), ttl_ms)


@pytest.fixture(params=["memory", "redis"])
def markers(request: pytest.FixtureRequest) -> Iterator[Markers]:
    if request.param == "memory":
        yield MemoryMarkers()
        return
    store = redis_markers(request.getfixturevalue("stack").redis.url)
    store.connect()
    yield store
    store.close()


@pytest.fixture
def swap() -> bytes:
    """A marker that no other test uses."""
    return secrets.token_bytes(16)


def add(marker: bytes, partition: int, offset: int, *, late: bool = False) -> Claim:
    return marker, partition, offset, "L" if late else "A"


def retract(marker: bytes, partition: int, offset: int) -> Claim:
    return marker, partition, offset, "R"


def send(store: Markers, claims: Sequence[Claim]) -> None:
    (partition,) = {claim[1] for claim in claims}
    store.send(
        partition,
        [offset for _, _, offset, _ in claims],
        [marker for marker, *_ in claims],
        "".join([kind for *_, kind in claims]),
    )


def ask(store: Markers, claims: Sequence[Claim]) -> str:
    """Return the verdicts; consecutive claims of one partition share a call."""
    verdicts = ""
    for _, run in groupby(claims, key=lambda claim: claim[1]):
        send(store, list(run))
        verdicts += store.receive()
    return verdicts


def test_the_letters_are_the_verdicts() -> None:
    assert {C, L, U, V, D} == {verdict.value for verdict in Verdict}


def test_kinds() -> None:
    assert kinds_of([False, False], [False, False]) == "AA"
    assert kinds_of([False, False, True, True], [False, True, False, True]) == "ALRR"
    assert kinds_of([], []) == ""


SEQUENCES: list[tuple[str, Callable[[bytes], list[Claim]], str]] = [
    ("first seen is counted", lambda m: [add(m, 0, 5)], "C"),
    ("own position again", lambda m: [add(m, 0, 5), add(m, 0, 5)], "CC"),
    ("another offset", lambda m: [add(m, 0, 5), add(m, 0, 6)], "CD"),
    ("an earlier offset", lambda m: [add(m, 0, 5), add(m, 0, 4)], "CD"),
    ("same offset elsewhere", lambda m: [add(m, 0, 5), add(m, 1, 5)], "CD"),
    ("offset that is a prefix", lambda m: [add(m, 0, 51), add(m, 0, 5)], "CD"),
    ("late", lambda m: [add(m, 0, 5, late=True)], "L"),
    ("late stays late", lambda m: [add(m, 0, 5, late=True), add(m, 0, 5)], "LL"),
    ("counted stays counted", lambda m: [add(m, 0, 5), add(m, 0, 5, late=True)], "CC"),
    ("late and a repeat", lambda m: [add(m, 0, 5, late=True), add(m, 0, 6)], "LD"),
    ("retraction undoes", lambda m: [add(m, 0, 5), retract(m, 0, 6)], "CU"),
    ("retraction again", lambda m: [add(m, 0, 5), retract(m, 0, 6), retract(m, 0, 6)], "CUU"),
    ("retraction repeated", lambda m: [add(m, 0, 5), retract(m, 0, 6), retract(m, 1, 9)],
     "CUD"),
    ("retraction of a late one", lambda m: [add(m, 0, 5, late=True), retract(m, 0, 6)], "LV"),
    ("retraction first", lambda m: [retract(m, 0, 4), add(m, 0, 5)], "VV"),
    ("retraction first, replayed",
     lambda m: [retract(m, 0, 4), add(m, 0, 5), retract(m, 0, 4), add(m, 0, 5)], "VVVV"),
    ("retraction first, repeats",
     lambda m: [retract(m, 0, 4), add(m, 0, 5), retract(m, 0, 7), add(m, 0, 8)], "VVDD"),
    ("replay of an undone one", lambda m: [add(m, 0, 5), retract(m, 0, 6), add(m, 0, 5)],
     "CUC"),
    ("repeat of an undone one", lambda m: [add(m, 0, 5), retract(m, 0, 6), add(m, 0, 7)],
     "CUD"),
]  # fmt: skip


@pytest.mark.parametrize("together", [True, False], ids=["one call", "a call each"])
@pytest.mark.parametrize(("name", "claims", "verdicts"), SEQUENCES, ids=[s[0] for s in SEQUENCES])
def test_sequences(
    markers: Markers,
    swap: bytes,
    name: str,
    claims: Callable[[bytes], list[Claim]],
    verdicts: str,
    together: bool,
) -> None:
    asked = claims(swap)
    answered = ask(markers, asked) if together else "".join([ask(markers, [c]) for c in asked])
    assert answered == verdicts


def test_an_empty_batch_has_no_verdicts(markers: Markers) -> None:
    assert markers.claim(0, [], [], "") == ""


def test_a_batch_of_the_largest_size_keeps_its_order(markers: Markers) -> None:
    half = MAX_CLAIMS // 2
    swaps = [secrets.token_bytes(16) for _ in range(half)]
    batch = [add(m, 2, n) for n, m in enumerate(swaps)]
    batch += [add(m, 2, 2**53 - 1 - n) for n, m in enumerate(swaps)]
    assert ask(markers, batch) == C * half + D * half
    assert ask(markers, batch[:half]) == C * half
    fresh = [add(secrets.token_bytes(16), 3, n) for n in range(MAX_CLAIMS)]
    assert ask(markers, fresh) == C * MAX_CLAIMS


def test_markers_hold_any_bytes(markers: Markers) -> None:
    for marker in (b"\x00" * 16, b"\r\n,;:C" + secrets.token_bytes(10), b"\xff" * 16):
        assert ask(markers, [add(marker, 7, 1), add(marker, 7, 2)]) == C + D


def test_a_batch_that_was_not_received_is_dropped(markers: Markers, swap: bytes) -> None:
    other = secrets.token_bytes(16)
    send(markers, [add(swap, 0, 1), add(swap, 0, 2)])
    send(markers, [add(other, 0, 3)])
    assert markers.receive() == C
    assert ask(markers, [add(swap, 0, 1)]) == C


claims_of_few_swaps = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 1), st.integers(0, 12), st.sampled_from(["A", "L", "R"])
    ),
    max_size=30,
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=claims_of_few_swaps, one_partition=st.booleans(), cut=st.integers(0, 30))
def test_redis_decides_like_the_in_memory_store(
    stack: Stack, drawn: list[tuple[int, int, int, str]], one_partition: bool, cut: int
) -> None:
    names = [secrets.token_bytes(16) for _ in range(4)]
    claims = [
        (names[swap], 0 if one_partition else partition, offset, kind)
        for swap, partition, offset, kind in drawn
    ]
    store, model = redis_markers(stack.redis.url), MemoryMarkers()
    store.connect()
    try:
        for part in (claims[:cut], claims[cut:]):
            assert ask(store, part) == ask(model, part)
    finally:
        store.close()


def test_markers_expire(stack: Stack, swap: bytes) -> None:
    store = redis_markers(stack.redis.url, 5_000)
    store.connect()
    assert ask(store, [add(swap, 0, 1)]) == C
    client = redis.Redis.from_url(stack.redis.url)
    assert 0 < client.pttl(b"dedupe:" + swap) <= 5_000
    assert ask(store, [retract(swap, 0, 2)]) == U
    assert 0 < client.pttl(b"dedupe:" + swap) <= 5_000
    client.close()
    store.close()


def test_a_server_without_msetex_does_the_same(stack: Stack, swap: bytes) -> None:
    """Redis before 8.4 and Valkey before 9.1 have no MSETEX; here a user may not call it."""
    admin = redis.Redis.from_url(stack.redis.url)
    user = f"u{secrets.token_hex(4)}"
    admin.execute_command("ACL", "SETUSER", user, "on", ">secret", "~*", "+@all", "-msetex")
    store = redis_markers(stack.redis.url.replace("://", f"://{user}:secret@"))
    store.connect()
    assert ask(store, [add(swap, 0, 1), add(swap, 0, 2), retract(swap, 0, 3)]) == C + D + U
    assert ask(store, [add(swap, 0, 1), retract(swap, 0, 3)]) == C + U
    assert 0 < admin.pttl(b"dedupe:" + swap) <= TTL_MS
    store.close()
    admin.execute_command("ACL", "DELUSER", user)
    admin.close()


def test_a_batch_whose_answer_was_lost_is_sent_again(own_redis: Stack, swap: bytes) -> None:
    admin = redis.Redis.from_url(own_redis.redis.url)
    others = {client["id"] for client in admin.client_list()}
    store = redis_markers(own_redis.redis.url)
    store.connect()
    (connection,) = {client["id"] for client in admin.client_list()} - others
    admin.client_pause(60_000, all=False)
    try:
        send(store, [add(swap, 0, 1), add(swap, 0, 2)])
        admin.client_kill_filter(_id=connection)
    finally:
        admin.client_unpause()
    with pytest.raises(Retry) as caught:
        store.receive()
    assert not isinstance(caught.value, NewIncarnation)
    assert store.receive() == C + D
    store.close()
    admin.close()


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Stack]:
    """A Redis that a test may kill."""
    with Stack(tmp_path, only=(Redis,)) as stack:
        yield stack


def test_a_restarted_redis_is_noticed_before_it_answers_a_claim(
    own_redis: Stack, swap: bytes
) -> None:
    store = redis_markers(own_redis.redis.url)
    store.connect()
    assert ask(store, [add(swap, 0, 1)]) == C
    store.ping()
    own_redis.redis.kill()
    with pytest.raises(Retry):
        ask(store, [add(swap, 0, 2)])
    own_redis.redis.start()
    with pytest.raises(NewIncarnation):
        store.ping()
    with pytest.raises(NewIncarnation):
        ask(store, [add(swap, 0, 2)])
    store.connect()
    store.ping()
    store.close()


def test_the_in_memory_store_notices_a_restart_too(swap: bytes) -> None:
    store = MemoryMarkers()
    assert ask(store, [add(swap, 0, 1)]) == C
    store.restart(keep=0)
    send(store, [add(swap, 0, 2)])
    with pytest.raises(NewIncarnation):
        store.receive()
    store.connect()
    with pytest.raises(NewIncarnation):
        store.receive()
    assert ask(store, [add(swap, 0, 2)]) == C


def test_markers_survive_a_kill_of_redis(own_redis: Stack, swap: bytes) -> None:
    store = redis_markers(own_redis.redis.url)
    store.connect()
    assert ask(store, [add(swap, 0, 1)]) == C
    kill_with_all_written(own_redis.redis)
    own_redis.redis.start()
    store.connect()
    assert ask(store, [add(swap, 0, 2), add(swap, 0, 1)]) == D + C
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
    store = redis_markers(own_redis.redis.url)
    with pytest.raises(Fatal, match=named):
        store.connect()
    store.close()


def test_an_unreachable_redis_is_a_retry() -> None:
    store = redis_markers("redis://127.0.0.1:1/0")
    with pytest.raises(Retry):
        store.connect()
    store.close()


def test_claims_that_were_sent_to_the_last_run_are_not_answered_in_the_next(
    own_redis: Stack, swap: bytes
) -> None:
    session = RedisSession(own_redis.redis.url)
    store = RedisMarkers(session, TTL_MS)
    store.connect()
    send(store, [add(swap, 0, 1)])
    own_redis.redis.kill()
    own_redis.redis.start()
    session.connect()
    for _ in range(2):
        with pytest.raises(NewIncarnation):
            store.receive()
    assert ask(store, [add(swap, 0, 1)]) == C
    store.close()


def test_send_raises_nothing_and_receive_does(own_redis: Stack, swap: bytes) -> None:
    store = redis_markers(own_redis.redis.url)
    store.connect()
    own_redis.redis.kill()
    send(store, [add(swap, 0, 1)])
    with pytest.raises(Retry):
        store.receive()
    own_redis.redis.start()
    with pytest.raises(NewIncarnation):
        store.receive()
    store.close()
