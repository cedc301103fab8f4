"""A flush and a failover begin a new run of Redis: no claim passes from one run to the next."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from aggregator.redis.board_rows import RedisBoardRows
from aggregator.redis.markers import RedisMarkers
from aggregator.redis.session import (
    UNCHECKED,
    NewIncarnation,
    NotCheckedIn,
    RedisSession,
)
from aggregator.runtime.config import load
from aggregator.runtime.errors import Fatal, Retry
from console.doctor import redis as doctor
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.redis_faults import Pair, redis_pair

pytestmark = pytest.mark.engines

TTL_MS = 60_000


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Stack]:
    """A Redis that a test may flush."""
    with Stack(tmp_path, only=(Redis,)) as stack:
        yield stack


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with redis_pair(tmp_path) as made:
        yield made


@pytest.fixture
def swap() -> bytes:
    return secrets.token_bytes(16)


def markers_of(url: str) -> RedisMarkers:
    store = RedisMarkers(RedisSession(url), TTL_MS)
    store.connect()
    return store


@pytest.mark.parametrize("archive_topic", ["", "t"], ids=["no archive", "archive"])
def test_a_flush_is_noticed_before_a_claim_is_answered(
    own_redis: Stack, swap: bytes, archive_topic: str
) -> None:
    store = RedisMarkers(RedisSession(own_redis.redis.url), TTL_MS, archive_topic=archive_topic)
    store.connect()
    with redis.Redis.from_url(own_redis.redis.url) as client:
        if archive_topic:
            with pytest.raises(NotCheckedIn):
                store.claim(0, [1], [swap], "A")
        else:
            assert store.claim(0, [1], [swap], "A") == "C"
        client.flushall()
        with pytest.raises(NewIncarnation):
            store.claim(0, [2], [swap], "A")
        with pytest.raises(NewIncarnation):
            store.ping()
        assert client.keys("dedupe:*") == []
    store.connect()
    store.ping()
    store.close()


def test_two_clients_of_one_run_share_it(own_redis: Stack, swap: bytes) -> None:
    first, second = markers_of(own_redis.redis.url), markers_of(own_redis.redis.url)
    assert first.claim(0, [1], [swap], "A") == "C"
    assert second.claim(0, [2], [swap], "A") == "D"
    first.ping()
    second.ping()
    first.close()
    second.close()


def test_a_failover_and_back_counts_a_swap_once(pair: Pair, swap: bytes) -> None:
    """The second server lacks the last write of the first, and the first process keeps running."""
    store = markers_of(pair.url)
    pair.demote(pair.second, pair.first)
    # A master gets a new replication id with its first replica.
    store.connect()
    pair.promote(pair.second)
    assert store.claim(0, [1], [swap], "A") == "C"
    pair.demote(pair.first, pair.second)
    pair.promote(pair.first)
    with pytest.raises(NewIncarnation):
        store.claim(0, [2], [swap], "A")
    with pytest.raises(NewIncarnation):
        store.ping()
    store.connect()
    # The owner replays its log: first the original position, then the repeat.
    assert store.claim(0, [1, 2], [swap, swap], "AA") == "CD"
    store.close()


def test_clients_of_a_demoted_master_follow_the_name_to_the_new_master(
    pair: Pair, swap: bytes
) -> None:
    pair.demote(pair.second, pair.first)
    store = markers_of(pair.url)
    rows = RedisBoardRows(pair.url, "t")
    assert store.claim(0, [1], [swap], "A") == "C"
    save_row(rows, 1)
    pair.promote(pair.second)
    pair.demote(pair.first, pair.second)
    # First the name still resolves to the old master, later to the new one.
    for call in (lambda: store.claim(0, [2], [swap], "A"), store.ping, store.connect):
        with pytest.raises(Retry, match="replica") as caught:
            call()
        assert not isinstance(caught.value, NewIncarnation)
    with pytest.raises(Retry):
        save_row(rows, 2)
    pair.point_at(pair.second)
    with pytest.raises(NewIncarnation):
        store.receive()
    store.connect()
    assert store.claim(0, [2, 1], [swap, swap], "AA") == "DC"
    save_row(rows, 2)
    store.close()
    rows.close()


def save_row(rows: RedisBoardRows, seq: int) -> None:
    rows.save(
        0, epoch=1, since=None, seq=seq, next_offset=seq, partitions=1,
        changed={"a:1": b"{}"}, gone=[],
    )  # fmt: skip


class WithoutConfig(Redis):
    """A server without CONFIG, like managed servers."""

    def command(self) -> list[str | Path]:
        return [*super().command(), "--rename-command", "CONFIG", ""]


def forbid_config(client: redis.Redis, strictly: bool) -> tuple[str, str]:
    """Create a user without CONFIG; `strictly`: only with the rights that docs/operations.md asks.

    Returns its name and password.
    """
    user = f"u{secrets.token_hex(4)}"
    client.acl_setuser(
        user,
        enabled=True,
        passwords=["+secret"],
        keys=["*"],
        channels=["*"],
        categories=["+@all", "-@dangerous"] if strictly else ["+@all"],
        commands=["+info"] if strictly else ["-config"],
    )
    return user, "secret"


@pytest.mark.parametrize("how", ["acl", "strict acl", "renamed"])
def test_a_server_that_forbids_config_is_used_with_a_warning(
    tmp_path: Path, swap: bytes, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    with Stack(tmp_path, only=(WithoutConfig if how == "renamed" else Redis,)) as own:
        url = own.redis.url
        with redis.Redis.from_url(url) as client:
            if how != "renamed":
                user, password = forbid_config(client, strictly=how == "strict acl")
                url = url.replace("://", f"://{user}:{password}@")
        store = markers_of(url)
        assert store.claim(0, [1, 2], [swap, swap], "AA") == "CD"
        store.close()
        assert UNCHECKED in caplog.text
        found = doctor.check(load({"REDIS_URL": url}))
        assert [each.level for each in found].count("FAIL") == 0, found
        (warned,) = [each for each in found if each.level == "WARN"]
        assert warned.said == UNCHECKED
        assert "noeviction" in warned.fix


def test_a_user_without_rights_is_not_reported_as_a_redis_that_is_down(
    own_redis: Stack,
) -> None:
    with redis.Redis.from_url(own_redis.redis.url) as client:
        client.acl_setuser("weak", enabled=True, passwords=["+secret"], commands=["+ping"])
    url = own_redis.redis.url.replace("://", "://weak:secret@")
    session = RedisSession(url)
    with pytest.raises(Retry, match="refuses this user") as caught:
        session.connect()
    assert not isinstance(caught.value, Fatal)
    session.close()
    (found,) = doctor.check(load({"REDIS_URL": url}))
    assert found.level == "FAIL"
    assert "refuses this user" in found.said
    assert "start it" not in found.fix
    (down,) = doctor.check(load({"REDIS_URL": "redis://127.0.0.1:1/0"}))
    assert "start it" in down.fix
