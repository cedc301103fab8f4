"""Two Redis servers, one promoted after the other: clients follow, and no two saves are mixed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.redis.board_rows import RedisBoardRows
from aggregator.redis.snapshots import RedisSnapshots
from aggregator.runtime.errors import Fenced, Retry
from tests.contract.snapshot_stores import RETENTION_MS, Owner, RedisStore
from tests.support.redis_faults import Pair, redis_pair

pytestmark = pytest.mark.engines


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """The second server is a replica of the first, which the name leads to."""
    with redis_pair(tmp_path) as made:
        made.demote(made.second, made.first)
        yield made


@pytest.fixture
def store(pair: Pair) -> Iterator[RedisStore]:
    store = RedisStore(pair.url)
    yield store
    store.close()


def work(owner: Owner) -> None:
    owner.change({b"%d" % (owner.call % 3): b"%d" % owner.call}, [b"%d" % (owner.call % 2)])
    owner.close_block(b"%d" % owner.call)
    if len(owner.blocks) > 3:
        owner.forget_block()


def test_clients_of_a_demoted_master_follow_the_name_to_the_new_one(
    pair: Pair, store: RedisStore
) -> None:
    owner = Owner(store.new(), 1)
    rows = RedisBoardRows(pair.url, store.topic)
    work(owner)
    owner.save()
    save_row(rows, 1)
    pair.demote(pair.second, pair.first)
    pair.promote(pair.second)
    pair.demote(pair.first, pair.second)
    work(owner)
    # First the name still leads to the old master.
    for call in (owner.save, owner.snapshots.ping, lambda: save_row(rows, 2), owner.save):
        with pytest.raises(Retry, match="replica"):
            call()
    pair.point_at(pair.second)
    owner.snapshots.ping()
    owner.save(again=True)
    save_row(rows, 2)
    assert owner.wholes == 1, "the first save alone: the replica had everything"
    assert RedisStore.new(store).load(0) == owner.state()
    rows.close()


def save_row(rows: RedisBoardRows, seq: int) -> None:
    rows.save(
        0, epoch=1, since=None, seq=seq, next_offset=seq, partitions=1,
        changed={"a:1": b"{}"}, gone=[],
    )  # fmt: skip


@pytest.mark.parametrize("lost_takes", [False, True], ids=["saves", "saves and a take"])
def test_after_a_failover_that_lost_saves_the_live_owner_saves_whole(
    pair: Pair, store: RedisStore, lost_takes: bool
) -> None:
    first = Owner(store.new(), 1)
    work(first)
    work(first)
    first.save()
    owner = first
    if not lost_takes:
        owner = Owner(store.new(), 2)
        owner.take_over(first.state())
        owner.save()
    pair.demote(pair.second, pair.first)
    # From here on the first server is alone, and what it is given is lost.
    pair.promote(pair.second)
    if lost_takes:
        owner = Owner(store.new(), 2)
        owner.take_over(first.state())
    for _ in range(4):
        work(owner)
        owner.save()
    assert owner.wholes == 0 or owner is first
    pair.demote(pair.first, pair.second)
    pair.point_at(pair.second)
    work(owner)
    owner.wholes = 0
    with pytest.raises(Retry, match="replica"):
        owner.save()
    owner.save()
    assert owner.wholes == 1
    reader = store.new()
    assert reader.load(0) == owner.state()
    assert reader.last_epoch(0) == 2
    with pytest.raises(Fenced):
        patiently_save(first)
    # A new owner finds all of it.
    new = Owner(store.new(), 3)
    found = new.snapshots.load(0)
    assert found is not None
    new.take_over(found)
    work(new)
    new.save()
    assert new.wholes == 0


def patiently_save(owner: Owner) -> None:
    for _ in range(3):
        try:
            owner.save()
        except Retry:
            continue
        return


def test_an_owner_that_stays_on_the_old_master_harms_nobody(pair: Pair, store: RedisStore) -> None:
    zombie = Owner(store.new(), 1)
    work(zombie)
    zombie.save()
    pair.demote(pair.second, pair.first)
    pair.promote(pair.second)
    pair.point_at(pair.second)
    there = RedisStore(pair.url)
    there.topic = store.topic
    owner = Owner(RedisSnapshots(there.client(), store.topic, RETENTION_MS), 2)
    found = owner.snapshots.load(0)
    assert found is not None
    owner.take_over(found)
    for _ in range(3):
        work(zombie)
        zombie.save()
        work(owner)
        owner.save()
    assert owner.wholes == 0
    assert there.new().load(0) == owner.state()
    pair.demote(pair.first, pair.second)
    for _ in range(2):
        with pytest.raises((Retry, Fenced)):
            zombie.save()
    with pytest.raises(Fenced):
        zombie.save()
    assert there.new().load(0) == owner.state()
    there.close()
