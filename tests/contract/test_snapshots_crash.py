"""Snapshots when Redis dies: what survives is one whole save, and an owner goes on from it."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.redis.snapshots import Snapshot
from aggregator.runtime.errors import Retry
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.contract.snapshot_stores import Owner, RedisStore
from tests.support.processes import kill_with_all_written

pytestmark = pytest.mark.engines


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that a test may kill."""
    with Stack(tmp_path, only=(Redis,)) as stack:
        yield stack.redis


@pytest.fixture
def store(own_redis: Redis) -> Iterator[RedisStore]:
    store = RedisStore(own_redis.url)
    yield store
    store.close()


def patiently(call: Callable[[], object]) -> None:
    """Call once more if a connection to the server of before was used."""
    try:
        call()
    except Retry:
        call()


def test_an_owner_goes_on_after_a_restart_that_lost_nothing(
    own_redis: Redis, store: RedisStore
) -> None:
    owner = Owner(store.new(), 1)
    owner.change({b"a": b"1"})
    owner.close_block(b"0")
    owner.save()
    kill_with_all_written(own_redis)
    owner.change({b"b": b"2"})
    for call in (
        owner.save, owner.snapshots.ping, lambda: owner.snapshots.last_epoch(0),
        lambda: owner.snapshots.take(1, 1), lambda: owner.snapshots.load(0),
    ):  # fmt: skip
        with pytest.raises(Retry):
            call()
    own_redis.start()
    owner.change({b"c": b"3"})
    # The restarted server has no script: that is no fault of this call.
    patiently(owner.save)
    assert owner.wholes == 1, "the first save alone: the server still held what was saved"
    assert store.new().load(0) == owner.state()


@pytest.mark.parametrize("whole", [False, True], ids=["change", "whole"])
def test_a_redis_that_is_full_changes_nothing(store: RedisStore, whole: bool) -> None:
    owner = Owner(store.new(), 1)
    owner.change({b"a": b"1", b"b": b"1"})
    owner.close_block(b"0")
    before = owner.save()
    store.admin.config_set("maxmemory", 1)
    owner.change({b"a": b"2"}, [b"b"])
    owner.close_block(b"1")
    owner.forget_block()
    owner.before = None if whole else owner.before
    with pytest.raises(Retry, match="maxmemory"):
        owner.save()
    with pytest.raises(Retry, match="maxmemory"):
        store.new().take(0, 2)
    assert store.new().load(0) == before
    store.admin.config_set("maxmemory", 0)
    owner.save(again=True)
    assert store.new().load(0) == owner.state()


def test_a_redis_that_becomes_full_amid_a_whole_save_keeps_the_old_state(
    store: RedisStore,
) -> None:
    owner = Owner(store.new(), 1)
    owner.change({b"a": b"1"})
    owner.close_block(b"0")
    before = owner.save()

    class Filling(dict[bytes, bytes]):
        def items(self) -> Iterator[tuple[bytes, bytes]]:  # type: ignore[override]
            for number in range(3_000):
                if number == 1_500:
                    store.admin.config_set("maxmemory", 1)
                yield b"%d" % number, b"x"

    head = owner.next_state().header
    with pytest.raises(Retry, match="maxmemory"):
        owner.snapshots.save_whole(0, head, Filling(), owner.blocks)
    assert store.new().load(0) == before
    store.admin.config_set("maxmemory", 0)
    owner.save()
    assert store.new().load(0) == owner.state()


class History:
    """Saves, one after another, and the snapshot that stood after each of them."""

    SECTIONS = tuple(b"%d" % n for n in range(30))

    def __init__(self, store: RedisStore, chance: random.Random) -> None:
        self._store = store
        self._chance = chance
        self._snapshots = store.new()
        self._owner: Owner | None = None
        self.states: list[Snapshot | None] = [None]
        self.epochs = 0

    def grow(self, saves: int) -> None:
        for _ in range(saves):
            number = len(self.states)
            if self._owner is None or number % 10 == 1:
                self._take()
            self._save(number)

    def _take(self) -> None:
        self.epochs += 1
        self._owner = Owner(self._snapshots, self.epochs)
        if self.states[-1] is not None:
            self._owner.take_over(self.states[-1])

    def _save(self, number: int) -> None:
        owner = self._owner
        assert owner is not None
        names = self._chance.sample(self.SECTIONS, self._chance.randint(1, 20))
        changed = {name: b"%d." % number * self._chance.randint(1, 900) for name in names}
        owner.change(changed, self._chance.sample(self.SECTIONS, 3))
        if self._chance.random() < 0.4:
            owner.close_block(b"%d." % number * 500)
        if len(owner.blocks) > 3:
            owner.forget_block()
        if number % 7 == 0:
            owner.before = None
        self.states.append(owner.save())

    def survivor(self) -> int:
        """The number of the save that Redis holds now; fails unless it is one of them, whole."""
        reader = self._store.new()
        loaded = reader.load(0)
        assert loaded in self.states
        assert reader.last_epoch(0) >= (loaded.header.epoch if loaded else 0)
        return self.states.index(loaded)


def file_of(redis: Redis) -> Path:
    (file,) = (redis.data / "appendonlydir").glob("*.incr.aof")
    return file


@pytest.mark.parametrize("seed", [1, 2])
def test_what_survives_a_cut_of_the_file_is_one_whole_save(
    own_redis: Redis, store: RedisStore, seed: int
) -> None:
    chance = random.Random(seed)
    history = History(store, chance)
    history.grow(60)
    kill_with_all_written(own_redis)
    file = file_of(own_redis)
    whole = file.read_bytes()
    last = whole.rindex(b"MULTI")
    cuts = [len(whole), last + 20, len(whole) - 1, *chance.choices(range(len(whole)), k=7)]
    survivors = []
    for cut in cuts:
        own_redis.kill()
        file.write_bytes(whole[:cut])
        own_redis.start()
        survivors.append(history.survivor())
    assert survivors[:3] == [60, 59, 59]
    assert [number for _, number in sorted(zip(cuts, survivors, strict=True))] == sorted(survivors)
    assert len(set(survivors)) > 4


@pytest.mark.parametrize("live", [True, False], ids=["the live owner", "a new owner"])
def test_after_a_cut_an_owner_goes_on(own_redis: Redis, store: RedisStore, live: bool) -> None:
    owner = Owner(store.new(), 1)
    for number in range(25):
        owner.change({b"%d" % (number % 7): b"%d." % number * 300})
        owner.close_block(b"%d." % number * 300)
        if number > 3:
            owner.forget_block()
        saved = owner.save()
    kill_with_all_written(own_redis)
    file = file_of(own_redis)
    file.write_bytes(file.read_bytes()[:-500])
    own_redis.start()
    reader = store.new()
    kept = reader.load(0)
    assert kept is not None
    assert kept.header.call == saved.header.call - 1
    if not live:
        owner = Owner(store.new(), reader.last_epoch(0) + 1)
        owner.take_over(kept)
    owner.wholes = 0
    owner.change({b"new": b"1"})
    owner.close_block(b"new")
    with contextlib.suppress(Retry):  # the connection of before
        owner.snapshots.ping()
    owner.save()
    assert owner.wholes == int(live)
    assert reader.load(0) == owner.state()
