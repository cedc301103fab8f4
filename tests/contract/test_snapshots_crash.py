"""Snapshots when Redis dies: every call says so, and what survives is one whole save."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.redis.session import NewIncarnation
from aggregator.redis.snapshots import RedisSnapshots, Snapshot, Snapshots
from aggregator.runtime.errors import Retry
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.contract.snapshot_clients import Clients, header
from tests.fakes.snapshots import MemoryServer, MemorySession, MemorySnapshots
from tests.support.processes import kill_with_all_written

Call = Callable[[Snapshots], object]

CALLS: list[tuple[str, Call]] = [
    ("last epoch", lambda s: s.last_epoch(0)),
    ("take", lambda s: s.take(0, 9)),
    ("load", lambda s: s.load(0)),
    ("change", lambda s: s.save(0, header(1, 2), {b"a": b"2"})),
    ("replace", lambda s: s.save(0, header(1, 2), {b"a": b"2"}, replace=True)),
]


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[Redis]:
    """A Redis that a test may kill."""
    with Stack(tmp_path, only=(Redis,)) as stack:
        yield stack.redis


@pytest.fixture
def clients(own_redis: Redis) -> Iterator[Clients]:
    clients = Clients(own_redis.url)
    yield clients
    clients.close()


def test_every_call_notices_a_restarted_redis(own_redis: Redis, clients: Clients) -> None:
    snapshots = clients.new()
    session = clients.session
    snapshots.take(0, 1)
    snapshots.save(0, header(1, 1), {b"a": b"1"})
    session.ping()
    kill_with_all_written(own_redis)
    for name, call in CALLS:
        with pytest.raises(Retry) as raised:
            call(snapshots)
        assert not isinstance(raised.value, NewIncarnation), name
    own_redis.start()
    for _, call in CALLS:
        with pytest.raises(NewIncarnation):
            call(snapshots)
    with pytest.raises(NewIncarnation):
        session.ping()
    session.connect()
    session.ping()
    # What is in memory may be ahead of what Redis kept, so an epoch ends with its run of Redis.
    for _, call in CALLS[3:]:
        with pytest.raises(NewIncarnation):
            call(snapshots)
    assert snapshots.last_epoch(0) == 1
    snapshots.take(0, 2)
    assert snapshots.load(0) == Snapshot(header(1, 1), {b"a": b"1"})
    snapshots.save(0, header(2, 2), {b"b": b"2"})
    assert snapshots.load(0) == Snapshot(header(2, 2), {b"a": b"1", b"b": b"2"})


def test_the_model_notices_too() -> None:
    server = MemoryServer()
    session = MemorySession(server)
    session.connect()
    snapshots = MemorySnapshots(session)
    snapshots.take(0, 1)
    snapshots.save(0, header(1, 1), {b"a": b"1"})
    snapshots.save(0, header(1, 2), {b"a": b"2"})
    server.restart(keep=2)
    for _, call in CALLS:
        with pytest.raises(NewIncarnation):
            call(snapshots)
    session.connect()
    for _, call in CALLS[3:]:
        with pytest.raises(NewIncarnation):
            call(snapshots)
    snapshots.take(0, 2)
    assert snapshots.load(0) == Snapshot(header(1, 1), {b"a": b"1"})


@pytest.mark.parametrize("replace", [False, True], ids=["change", "replace"])
def test_a_redis_that_is_full_changes_nothing(clients: Clients, replace: bool) -> None:
    snapshots = clients.new()
    snapshots.take(0, 1)
    snapshots.save(0, header(1, 1), {b"a": b"1", b"b": b"1"})
    clients.admin.config_set("maxmemory", 1)
    with pytest.raises(Retry, match="maxmemory"):
        snapshots.save(0, header(1, 2), {b"a": b"2"}, replace=replace)
    with pytest.raises(Retry, match="maxmemory"):
        snapshots.take(0, 2)
    clients.admin.config_set("maxmemory", 0)
    assert snapshots.load(0) == Snapshot(header(1, 1), {b"a": b"1", b"b": b"1"})
    snapshots.save(0, header(1, 3), {b"a": b"3"}, [b"b"], replace=replace)
    assert snapshots.load(0) == Snapshot(header(1, 3), {b"a": b"3"})


def test_a_full_redis_drops_and_changes_or_does_neither(clients: Clients) -> None:
    snapshots = clients.new()
    before = Snapshot(header(1, 1), {b"a": b"1", b"b": b"1"})
    after = Snapshot(header(1, 2), {b"a": b"2"})
    snapshots.take(0, 1)
    snapshots.save(0, before.header, before.sections)
    clients.admin.config_set("maxmemory", 1)
    with contextlib.suppress(Retry):
        snapshots.save(0, after.header, after.sections, [b"b"])
    assert snapshots.load(0) in (before, after)
    clients.admin.config_set("maxmemory", 0)
    snapshots.save(0, after.header, after.sections, [b"b"])
    assert snapshots.load(0) == after


class RestartedAmid(RedisSnapshots):
    """A reader whose Redis is restarted while it reads."""

    restart: Callable[[], object]

    def _sizes(self, *args: object) -> Iterator[tuple[bytes, int]]:
        found = list(super()._sizes(*args))  # type: ignore[arg-type]
        self.restart()
        return iter(found)


def test_a_load_never_reads_from_two_runs(own_redis: Redis, clients: Clients) -> None:
    reader = clients.new_of(RestartedAmid)
    reader.take(0, 1)
    reader.save(0, header(1, 1), {b"a": b"1"})

    def restart() -> None:
        own_redis.kill()
        own_redis.start()
        clients.admin.ping()
        # the idle connection is dead: what finds that out must not be the reading that is tested
        with pytest.raises(Retry):
            clients.session.call("snapshot_head.lua", [b"any"], [])

    reader.restart = restart
    with pytest.raises(NewIncarnation):
        reader.load(0)


class History:
    """Saves, one after another, and the snapshot that stood after each of them."""

    SECTIONS = tuple(b"%d" % n for n in range(30))

    def __init__(self, clients: Clients, chance: random.Random) -> None:
        self._clients = clients
        self._chance = chance
        self._snapshots = clients.new()
        self._sections: dict[bytes, bytes] = {}
        self.epochs = [0]
        self.states: list[Snapshot | None] = [None]

    def grow(self, saves: int) -> None:
        for _ in range(saves):
            number = len(self.states)
            if number % 10 == 1:
                self.epochs.append(self.epochs[-1] + 1)
                self._snapshots.take(0, self.epochs[-1])
            # Stands for a marker: what a snapshot covers is claimed before it is saved.
            self._clients.admin.set(f"claimed:{number}", 1)
            self._save(number)

    def _save(self, number: int) -> None:
        replace = number % 7 == 0
        names = self._chance.sample(self.SECTIONS, self._chance.randint(1, 20))
        dropped = [] if replace else self._chance.sample(self.SECTIONS, 3)
        changed = {name: b"%d." % number * self._chance.randint(1, 900) for name in names}
        kept = {} if replace else {n: s for n, s in self._sections.items() if n not in dropped}
        self._sections = {**kept, **changed}
        head = header(self.epochs[-1], number)
        self._snapshots.save(0, head, changed, dropped, replace=replace)
        self.states.append(Snapshot(head, dict(self._sections)))

    def survivor(self) -> int:
        """The number of the save that Redis holds now; fails unless it is one of them, whole."""
        self._clients.connect()
        loaded = self._snapshots.load(0)
        number = loaded.header.next_offset if loaded else 0
        assert loaded == self.states[number]
        claimed = [f"claimed:{n}" for n in range(1, number + 1)]
        assert not claimed or self._clients.admin.exists(*claimed) == number
        assert self._snapshots.last_epoch(0) >= (loaded.header.epoch if loaded else 0)
        return number


@pytest.mark.parametrize("seed", [1, 2])
def test_what_survives_a_cut_of_the_file_is_one_whole_save(
    own_redis: Redis, clients: Clients, seed: int
) -> None:
    chance = random.Random(seed)
    history = History(clients, chance)
    history.grow(60)
    kill_with_all_written(own_redis)
    (file,) = (own_redis.data / "appendonlydir").glob("*.incr.aof")
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


def test_after_a_cut_a_new_owner_goes_on_from_what_survived(
    own_redis: Redis, clients: Clients
) -> None:
    chance = random.Random(3)
    history = History(clients, chance)
    history.grow(25)
    kill_with_all_written(own_redis)
    (file,) = (own_redis.data / "appendonlydir").glob("*.incr.aof")
    file.write_bytes(file.read_bytes()[:-500])
    own_redis.start()
    assert history.survivor() < 25
    owner = clients.new()
    kept = owner.load(0)
    assert kept is not None
    owner.take(0, owner.last_epoch(0) + 1)
    new = header(owner.last_epoch(0), kept.header.next_offset + 1)
    owner.save(0, new, {b"new": b"1"})
    assert owner.load(0) == Snapshot(new, {**kept.sections, b"new": b"1"})
