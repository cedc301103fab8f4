"""What every snapshot store guarantees, tested on the one in memory and on a real Redis."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.crc import key_slot

from aggregator.contracts.names import block_key, board_keys, snapshot_keys
from aggregator.contracts.seen import NEVER, SeenHeader
from aggregator.redis.snapshots import RedisSnapshots, Snapshot, SnapshotHeader, Snapshots
from aggregator.runtime.errors import Fenced, Retry
from infra.embedded.stack import Stack
from tests.contract.snapshot_stores import (
    RETENTION_MS,
    MemoryStore,
    Owner,
    RedisStore,
    Store,
    header,
)


@pytest.fixture
def redis_store(stack: Stack) -> Iterator[RedisStore]:
    store = RedisStore(stack.redis.url)
    yield store
    store.close()


@pytest.fixture(params=["memory", "redis"])
def store(request: pytest.FixtureRequest) -> Store:
    if request.param == "redis":
        found: Store = request.getfixturevalue("redis_store")
        return found
    return MemoryStore()


@pytest.fixture
def snapshots(store: Store) -> Snapshots:
    return store.new()


@pytest.fixture
def three(store: Store) -> list[Snapshots]:
    """Three clients, which the examples of a property share."""
    return [store.new() for _ in range(3)]


def owner_of(store: Store, *, blocks: int = 0) -> Owner:
    """An owner of epoch 1 that has saved section a = 1 and some blocks."""
    owner = Owner(store.new(), 1)
    owner.change({b"a": b"1"})
    for number in range(blocks):
        owner.close_block(b"words %d" % number)
    owner.save()
    owner.wholes = 0
    return owner


def test_nothing_is_there_at_first(snapshots: Snapshots) -> None:
    assert snapshots.last_epoch(3) == 0
    assert snapshots.load(3) is None
    snapshots.ping()


def test_an_epoch_is_taken_once_and_only_upwards(store: Store) -> None:
    one, other = store.new(), store.new()
    one.take(0, 5)
    for refused in (5, 4, 1):
        with pytest.raises(Fenced):
            other.take(0, refused)
        assert other.last_epoch(0) == 5
    other.take(0, 2**53)
    assert one.last_epoch(0) == 2**53
    assert one.load(0) is None


def test_taking_an_epoch_keeps_the_snapshot(store: Store) -> None:
    saved = owner_of(store, blocks=2).state()
    other = store.new()
    other.take(0, 2)
    assert other.load(0) == saved


@pytest.mark.parametrize("whole", [False, True], ids=["change", "whole"])
def test_a_zombie_changes_nothing(store: Store, whole: bool) -> None:
    zombie = owner_of(store, blocks=1)
    before = zombie.state()
    owner = Owner(store.new(), 2)
    owner.take_over(before)

    def save_as_zombie() -> None:
        head = header(1, 9, range(2))
        if whole:
            zombie.snapshots.save_whole(0, head, {b"a": b"z"}, {0: b"z", 1: b"z"})
        else:
            zombie.snapshots.save(0, head, {b"a": b"z"}, [], {1: b"z"}, [0], before=(1, 1))

    with pytest.raises(Fenced):
        save_as_zombie()
    assert owner.snapshots.load(0) == before
    owner.change({b"a": b"2"})
    owner.close_block(b"1")
    after = owner.save()
    assert owner.wholes == 0
    with pytest.raises(Fenced):
        save_as_zombie()
    assert zombie.snapshots.load(0) == after


def test_only_the_client_that_took_the_epoch_may_save(store: Store) -> None:
    owner, other = store.new(), store.new()
    owner.take(0, 1)
    for client, epoch in ((other, 1), (owner, 2), (owner, 0)):
        with pytest.raises(Fenced):
            client.save(0, header(epoch), {b"a": b""}, [], {}, [], before=None)
        with pytest.raises(Fenced):
            client.save_whole(0, header(epoch), {b"a": b""}, {})
    assert owner.load(0) is None


ALL_BYTES = bytes(range(256))


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {b"": b""},
        {b"a": b"", b"b": b"\x00"},
        {ALL_BYTES: ALL_BYTES * 50, b"\r\n$-1\r\n": b"*0\r\n"},
        {b"%d" % n: b"12" for n in range(30_000)},
        {b"%d" % n: secrets.token_bytes(3 * 2**20) for n in range(4)},
    ],
    ids=["none", "no name", "no bytes", "any bytes", "30,000 sections", "12 MB"],
)
@pytest.mark.parametrize("whole", [False, True], ids=["change", "whole"])
def test_what_is_saved_is_loaded(
    snapshots: Snapshots, sections: dict[bytes, bytes], whole: bool
) -> None:
    blocks = {number: ALL_BYTES * 384 + b"%d" % number for number in range(2**32, 2**32 + 90)}
    seen = SeenHeader(2**62, None, NEVER, {0: 2**40, 2**20: 0}, 2**32, 2**32 + 90)
    saved = SnapshotHeader(1, 2**40, seen, seq=2**40, history_from=-1, topic_id="x\"'é")
    snapshots.take(0, 1)
    if whole:
        assert snapshots.save_whole(0, saved, sections, blocks)
    else:
        assert snapshots.save_whole(0, header(1), {b"old": b""}, {})
        assert snapshots.save(0, saved, sections, [b"old"], blocks, [], before=(1, 1))
    assert snapshots.load(0) == Snapshot(saved, sections, blocks)


def test_the_last_write_of_each_section_wins(snapshots: Snapshots) -> None:
    owner = Owner(snapshots, 1)
    owner.change({b"a": b"1", b"b": b"1", b"c": b"1"})
    owner.save()
    assert owner.wholes == 1
    owner.change({b"b": b"2", b"d": b"2"}, [b"a", b"never there"])
    owner.save()
    owner.save()
    assert snapshots.load(0) == owner.state()
    assert snapshots.save(0, header(1, 4), {b"c": b"4"}, [b"c"], {}, [], before=(1, 3)), (
        "a section that is both dropped and changed is kept"
    )
    assert snapshots.load(0) == Snapshot(header(1, 4), {b"b": b"2", b"c": b"4", b"d": b"2"}, {})
    assert owner.wholes == 1


def test_30_000_sections_and_5_000_blocks_are_dropped_in_one_save(snapshots: Snapshots) -> None:
    names = [b"%d" % n for n in range(30_000)]
    blocks = {number: b"%d" % number for number in range(5_000)}
    snapshots.take(0, 1)
    assert snapshots.save_whole(0, header(1, 1), dict.fromkeys(names, b"x"), {})
    assert snapshots.save(0, header(1, 2, range(5_000)), {}, [], blocks, [], before=(1, 1))
    assert snapshots.load(0) == Snapshot(
        header(1, 2, range(5_000)), dict.fromkeys(names, b"x"), blocks
    )
    head = header(1, 3, range(4_999, 5_000))
    assert snapshots.save(0, head, {}, names[1:], {}, range(4_999), before=(1, 2))
    assert snapshots.load(0) == Snapshot(head, {b"0": b"x"}, {4_999: b"4999"})


def test_a_whole_save_keeps_nothing_older(store: Store) -> None:
    owner = owner_of(store, blocks=3)
    head = header(1, 2, range(2, 3))
    assert owner.snapshots.save_whole(0, head, {b"b": b"2"}, {2: b"words 2"})
    assert owner.snapshots.load(0) == Snapshot(head, {b"b": b"2"}, {2: b"words 2"})
    assert owner.snapshots.save_whole(0, header(1, 3), {}, {})
    assert owner.snapshots.load(0) == Snapshot(header(1, 3), {}, {})


def test_partitions_do_not_mix(store: Store) -> None:
    snapshots = store.new()
    owners = {partition: Owner(snapshots, partition, partition) for partition in (1, 11, 111)}
    for partition, owner in owners.items():
        owner.change({b"a": b"%d" % partition})
        owner.close_block(b"%d" % partition)
        owner.save()
    owners[11].change({}, [b"a"])
    owners[11].forget_block()
    owners[11].save()
    snapshots.take(1, 50)
    for partition, owner in owners.items():
        assert snapshots.load(partition) == owner.state()
        assert snapshots.last_epoch(partition) == (50 if partition == 1 else partition)
    with pytest.raises(Fenced):
        owners[1].save()
    owners[111].save()


@pytest.mark.parametrize("whole", [False, True], ids=["change", "whole"])
def test_a_save_whose_answer_was_lost_is_repeated(store: Store, whole: bool) -> None:
    owner = owner_of(store, blocks=2)
    if whole:
        store.restore(None)
    owner.change({b"a": b"2"})
    owner.close_block(b"2")
    owner.forget_block()
    # The whole save that follows: "change", "begin", "stage", two blocks, "replace".
    store.lose_answer(after=5 if whole else 0)
    with pytest.raises(Retry):
        owner.save()
    loaded = store.new().load(0)
    assert loaded == owner.state()
    wholes = owner.wholes
    assert owner.save(again=True) == loaded
    assert owner.wholes == wholes
    assert store.new().load(0) == loaded


def test_a_newer_save_after_a_lost_answer_is_whole(store: Store) -> None:
    owner = owner_of(store)
    owner.change({b"a": b"2"})
    store.lose_answer()
    with pytest.raises(Retry):
        owner.save()
    owner.change({b"b": b"3"})
    assert store.new().load(0) != owner.state()
    owner.save()
    assert owner.wholes == 1
    assert store.new().load(0) == owner.state()


def test_a_save_that_follows_none_is_whole(store: Store) -> None:
    owner = Owner(store.new(), 1)
    assert not owner.snapshots.save(0, header(1), {b"a": b"1"}, [], {}, [], before=None)
    assert owner.snapshots.load(0) is None
    owner.change({b"a": b"1"})
    owner.save()
    assert not owner.snapshots.save(0, header(1, 5), {b"a": b"5"}, [], {}, [], before=None)
    assert owner.snapshots.load(0) == owner.state()


@pytest.mark.parametrize("before", [(1, 0), (1, 2), (0, 1), (2, 1), (1, 11)], ids=str)
def test_a_save_after_another_save_than_the_held_one_changes_nothing(
    store: Store, before: tuple[int, int]
) -> None:
    owner = owner_of(store, blocks=1)
    head = header(1, 3, range(1, 2))
    assert not owner.snapshots.save(0, head, {b"b": b"3"}, [b"a"], {1: b"1"}, [0], before=before)
    assert owner.snapshots.load(0) == owner.state()
    assert owner.snapshots.save(0, head, {b"b": b"3"}, [b"a"], {1: b"1"}, [0], before=(1, 1))
    assert owner.snapshots.load(0) == Snapshot(head, {b"b": b"3"}, {1: b"1"})


@pytest.mark.parametrize("lost", ["everything", "the last save", "the last save and the take"])
def test_the_live_owner_saves_whole_under_its_epoch_after_a_loss(store: Store, lost: str) -> None:
    backups = [None, None, None]
    first = owner_of(store, blocks=2)
    backups[0] = store.copy()
    owner = Owner(store.new(), 2)
    owner.take_over(first.state())
    owner.change({b"b": b"2"})
    owner.close_block(b"2")
    owner.save()
    backups[1] = store.copy()
    owner.change({b"c": b"3"}, [b"a"])
    owner.close_block(b"3")
    owner.forget_block()
    owner.save()
    assert owner.wholes == 0
    backup = {"everything": None, "the last save": backups[1]}.get(lost, backups[0])
    store.restore(backup)
    assert store.new().last_epoch(0) == {"everything": 0, "the last save": 2}.get(lost, 1)
    owner.change({b"d": b"4"})
    owner.save()
    assert owner.wholes == 1
    reader = store.new()
    assert reader.load(0) == owner.state()
    assert reader.last_epoch(0) == 2
    with pytest.raises(Fenced):
        first.save()
    # From here on small saves do again.
    owner.change({b"e": b"5"}, [b"d"])
    owner.close_block(b"4")
    owner.save()
    assert owner.wholes == 1
    assert reader.load(0) == owner.state()


def test_a_take_that_redis_lost_is_made_good_by_a_small_save(store: Store) -> None:
    first = owner_of(store)
    backup = store.copy()
    owner = Owner(store.new(), 5)
    owner.take_over(first.state())
    store.restore(backup)
    assert store.new().last_epoch(0) == 1
    owner.change({b"a": b"2"})
    owner.save()
    assert owner.wholes == 0
    assert store.new().load(0) == owner.state()
    assert store.new().last_epoch(0) == 5
    with pytest.raises(Fenced):
        first.save()


def test_a_missing_block_means_no_state(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    owner = owner_of(store, blocks=3)
    store.lose_block(0, 1)
    assert store.new().load(0) is None
    if isinstance(store, RedisStore):
        assert f"dedupe:{{{store.topic}:0}}:1" in caplog.text
    # The live owner needs no block of Redis. A save of everything writes it again.
    owner.change({b"a": b"2"})
    owner.save()
    assert owner.wholes == 0
    assert store.new().load(0) is None
    owner.before = (1, 99)
    owner.save()
    assert owner.wholes == 1
    assert store.new().load(0) == owner.state()


def test_a_whole_save_without_a_named_block_is_refused(store: Store) -> None:
    owner = owner_of(store, blocks=2)
    before = owner.state()
    assert not owner.snapshots.save_whole(0, header(1, 2, range(3)), {b"b": b""}, {0: b"words 0"})
    assert store.new().load(0) == before
    held = {0: b"words 0", 1: b"words 1"}
    assert owner.snapshots.save_whole(0, header(1, 2, range(2)), {b"b": b""}, {}), "both are held"
    assert store.new().load(0) == Snapshot(header(1, 2, range(2)), {b"b": b""}, held)


def test_an_owner_that_read_the_log_another_way_leaves_no_block_of_before(store: Store) -> None:
    """With another GRACE, say: blocks have the same numbers and other words."""
    old = owner_of(store, blocks=4)
    new = Owner(store.new(), 2)
    new.change({b"new": b"1"})
    for number in range(2):
        new.close_block(b"new %d" % number)
    new.save()
    assert store.new().load(0) == new.state()
    # Blocks 2 and 3 may still be there, with the words of before.
    for number in (2, 3):
        new.close_block(b"new %d" % number)
        new.save()
        assert store.new().load(0) == new.state()
    assert new.wholes == 1
    with pytest.raises(Fenced):
        old.save()


@pytest.mark.parametrize("after", range(7))
def test_a_state_never_has_a_block_of_another_reading(store: Store, after: int) -> None:
    owner_of(store, blocks=2)
    new = Owner(store.new(), 2)
    new.change({b"new": b"1"})
    for number in range(3):
        new.close_block(b"new %d" % number)
    store.lose_question(after)
    # The store in memory has fewer steps than Redis, so the fault may come after all of them.
    with contextlib.suppress(Retry):
        new.save()
    loaded = store.new().load(0)
    assert loaded in (None, owner_of(MemoryStore(), blocks=2).state(), new.state())
    store.without_faults()
    new.save(again=True)
    assert store.new().load(0) == new.state()


@pytest.mark.parametrize("after", range(5))
def test_a_whole_save_cut_short_leaves_the_old_state(store: Store, after: int) -> None:
    owner = owner_of(store, blocks=2)
    before = owner.state()
    store.lose_question(after)
    new = {0: b"words 0", 1: b"words 1", 2: b"2", 3: b"3"}
    head = header(1, 9, range(1, 4))
    cut = False
    try:
        owner.snapshots.save_whole(0, head, {b"b": b"9"}, new)
    except Retry:
        cut = True
    if cut:
        assert store.new().load(0) == before
    store.without_faults()
    assert owner.snapshots.save_whole(0, head, {b"b": b"9"}, new)
    assert store.new().load(0) == Snapshot(head, {b"b": b"9"}, {n: new[n] for n in (1, 2, 3)})


names = st.sampled_from([b"a", b"b", b"c"])
work = st.tuples(
    st.dictionaries(names, st.binary(max_size=3), max_size=2),
    st.lists(names, max_size=1),
    st.integers(0, 2),
    st.integers(0, 2),
)
saves = st.tuples(
    st.just("save"),
    st.integers(0, 1),
    work,
    st.sampled_from(["", "", "", "answer", "question"]),
    st.integers(0, 6),
    st.booleans(),
)
steps = st.one_of(
    st.tuples(st.sampled_from(["take", "rebuild"]), st.integers(0, 1)),
    saves,
    saves,
    saves,
    st.tuples(st.sampled_from(["copy", "restore", "flush", "late"])),
    st.tuples(st.just("lose block"), st.integers(0, 4)),
)


class Schedule:
    """Two owners in turn, losses in between; `tried` has every state that was to be saved."""

    def __init__(self, store: Store, reader: Snapshots, clients: Sequence[Snapshots]) -> None:
        self.store = store
        self.reader = reader
        self.clients = clients
        self.owners: dict[int, Owner] = {}
        self.tried: dict[tuple[int, int], Snapshot] = {}
        self.epoch = 0
        self.backup: Any = None
        self.lost_blocks = False

    def step(self, kind: str, *rest: Any) -> None:
        if kind in {"take", "rebuild"}:
            self.take(rest[0], rebuild=kind == "rebuild")
        elif kind == "save":
            self.save(*rest)
        elif kind == "copy":
            self.backup = self.store.copy()
        elif kind in {"restore", "flush"}:
            self.store.restore(self.backup if kind == "restore" else None)
        elif kind == "lose block":
            self.lost_blocks = True
            self.store.lose_block(0, rest[0])
        elif isinstance(self.store, RedisStore) and self.store.faults.late:
            self.store.faults.late.pop()()
        loaded = self.reader.load(0)
        if loaded is not None:
            assert loaded == self.tried[loaded.header.epoch, loaded.header.call]

    def take(self, who: int, *, rebuild: bool) -> None:
        # Kafka keeps the epoch too, so that it grows even if Redis lost it.
        self.epoch += 1
        owner = self.owners[who] = Owner(self.clients[who], self.epoch)
        loaded = owner.snapshots.load(0)
        if loaded is not None and not rebuild:
            owner.take_over(loaded)

    def save(self, who: int, work: tuple[Any, ...], fault: str, after: int, again: bool) -> None:
        owner = self.owners.get(who)
        if owner is None:
            return
        changed, dropped, closed, forgotten = work
        if not again or owner.tried is None:
            owner.change(changed, dropped)
            for _ in range(closed):
                owner.close_block(b"%d by %d" % (owner.open_block, owner.epoch))
            for _ in range(forgotten):
                owner.forget_block()
        if fault == "answer":
            self.store.lose_answer(after)
        elif fault:
            self.store.lose_question(after)
        self.tried[owner.epoch, owner.call + 1] = owner.next_state()
        try:
            saved = owner.save(again=again)
        except Fenced:
            del self.owners[who]
        except Retry:
            pass
        else:
            loaded = self.reader.load(0)
            assert loaded == saved or (loaded is None and self.lost_blocks)
        finally:
            self.store.without_faults()


@settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=st.lists(steps, min_size=10, max_size=40))
def test_what_is_loaded_is_always_one_save(
    store: Store, three: list[Snapshots], drawn: list[tuple[Any, ...]]
) -> None:
    store.restore(None)
    if isinstance(store, RedisStore):
        store.faults.late.clear()
    schedule = Schedule(store, three[0], three[1:])
    schedule.take(0, rebuild=False)
    for step in drawn:
        schedule.step(*step)


# What is true of Redis alone.


def test_every_key_of_a_partition_is_in_one_slot(redis_store: RedisStore) -> None:
    owner = owner_of(redis_store, blocks=3)
    redis_store.lose_question(after=1)
    with pytest.raises(Retry):
        owner.snapshots.save_whole(0, header(1, 5, range(3)), {b"b": b"1"}, {})
    redis_store.admin.hset(snapshot_keys(redis_store.topic, 0).staged, "x", "y")
    keys = redis_store.keys()
    assert len(keys) == 6
    topic = redis_store.topic
    known = {*snapshot_keys(topic, 0), *(block_key(topic, 0, n) for n in range(3))}
    assert set(keys) == known
    assert len({key_slot(key) for key in known | set(board_keys(topic, 0))}) == 1
    slots = {key_slot(snapshot_keys(topic, partition).head) for partition in range(40)}
    assert len(slots) > 30


def test_blocks_are_kept_a_day_longer_than_the_log(redis_store: RedisStore) -> None:
    owner = owner_of(redis_store, blocks=1)
    owner.close_block(b"1")
    owner.save()
    for number in range(2):
        left = redis_store.admin.pttl(block_key(redis_store.topic, 0, number))
        assert RETENTION_MS + 86_000_000 < left <= RETENTION_MS + 86_400_000
    for key in snapshot_keys(redis_store.topic, 0)[:2]:
        assert redis_store.admin.pttl(key) == -1


def test_a_whole_save_does_not_touch_a_block_that_is_held(redis_store: RedisStore) -> None:
    owner = owner_of(redis_store, blocks=2)
    key = block_key(redis_store.topic, 0, 0)
    redis_store.admin.pexpire(key, 1_000_000)
    owner.before = (1, 99)
    owner.save()
    assert owner.wholes == 1
    assert redis_store.admin.pttl(key) <= 1_000_000


def test_forgotten_blocks_are_deleted(redis_store: RedisStore) -> None:
    owner = owner_of(redis_store, blocks=3)
    owner.forget_block()
    owner.save()
    exists = [redis_store.admin.exists(block_key(redis_store.topic, 0, n)) for n in range(3)]
    assert exists == [0, 1, 1]
    owner.forget_block()
    owner.before = (1, 99)
    owner.save()
    exists = [redis_store.admin.exists(block_key(redis_store.topic, 0, n)) for n in range(3)]
    assert exists == [0, 0, 1]


def test_an_owner_fenced_amid_a_whole_save_changes_nothing(redis_store: RedisStore) -> None:
    zombie = owner_of(redis_store, blocks=2)
    before = zombie.state()

    class Fencing(dict[bytes, bytes]):
        def items(self) -> Any:
            yield b"x", b"1"
            redis_store.new().take(0, 2)
            yield b"y", b"2"

    with pytest.raises(Fenced):
        zombie.snapshots.save_whole(0, header(1, 9), Fencing(), {})
    assert redis_store.new().load(0) == before
    assert not redis_store.admin.exists(snapshot_keys(redis_store.topic, 0).staged)


@pytest.mark.parametrize("step", range(4), ids=["begin", "stage", "block", "replace"])
def test_a_step_that_arrives_late_changes_nothing(redis_store: RedisStore, step: int) -> None:
    """Each step of a whole save times out, arrives in the middle of the next one, and after it."""
    owner = owner_of(redis_store, blocks=2)
    late, reader = redis_store.faults.late, redis_store.new()
    old, new = header(1, 8, range(1, 3)), header(1, 9, range(1, 3))
    redis_store.lose_question(after=step)
    with pytest.raises(Retry):
        owner.snapshots.save_whole(0, old, {b"old": b"8"}, {1: b"words 1", 2: b"old"})
    arrive = late[0]

    class Arriving(dict[bytes, bytes]):
        def items(self) -> Any:
            for number in range(2_500):
                if number % 1_000 == 500:
                    assert arrive()[1] == b"overtaken"
                yield b"%d" % number, b"9"

    assert owner.snapshots.save_whole(0, new, Arriving(), {2: b"new"})
    assert arrive()[1] == b"overtaken"
    loaded = reader.load(0)
    assert loaded == Snapshot(
        new, {b"%d" % n: b"9" for n in range(2_500)}, {1: b"words 1", 2: b"new"}
    )


def test_a_save_that_arrives_after_a_later_one_changes_nothing(redis_store: RedisStore) -> None:
    owner = owner_of(redis_store)
    owner.change({b"a": b"2", b"b": b"2"})
    redis_store.lose_question()
    with pytest.raises(Retry):
        owner.save()
    owner.change({b"a": b"3"}, [b"b"])
    owner.save()
    assert owner.wholes == 0, "the first of them has not arrived"
    assert redis_store.faults.late[0]()[1] == b"overtaken"
    assert redis_store.new().load(0) == owner.state()
    # It would be one that follows what an emptied Redis was restored to, but for its number.
    redis_store.restore(None)
    assert redis_store.faults.late[0]()[1] == b"whole"
    assert redis_store.new().load(0) is None


@pytest.mark.parametrize("after", range(1, 4))
def test_steps_that_a_failover_cut_off_are_noticed(redis_store: RedisStore, after: int) -> None:
    """Redis loses what it has of a whole save while the owner goes on with it."""
    owner = owner_of(redis_store, blocks=1)
    before, backup = owner.state(), redis_store.copy()

    class Losing(dict[bytes, bytes]):
        def items(self) -> Any:
            for number in range(4_000):
                if number == after * 1_000 - 1:
                    redis_store.restore(backup)
                yield b"%d" % number, b"x"

    owner.before = (1, 99)
    with pytest.raises(Retry, match="lost a part"):
        owner.snapshots.save_whole(0, header(1, 2), Losing(), {})
    assert redis_store.new().load(0) == before
    owner.save()
    assert redis_store.new().load(0) == owner.state()


class Overtaken(RedisSnapshots):
    """A reader during whose first reads another client saves."""

    meanwhile: Callable[[], object]
    times = 1

    def _read_sections(self, key: bytes) -> dict[bytes, bytes]:
        sections = super()._read_sections(key)
        if self.times:
            self.times -= 1
            self.meanwhile()
        return sections


@pytest.mark.parametrize("whole", [False, True], ids=["change", "whole"])
def test_a_load_during_a_save_is_of_one_snapshot(redis_store: RedisStore, whole: bool) -> None:
    owner, reader = owner_of(redis_store, blocks=2), redis_store.new_of(Overtaken)

    def meanwhile() -> None:
        owner.change({b"a": b"%d" % owner.call})
        owner.close_block(b"%d" % owner.call)
        owner.forget_block()
        owner.before = None if whole else owner.before
        owner.save()

    reader.meanwhile = meanwhile
    assert reader.load(0) == owner.state()
    assert owner.wholes == int(whole)
    reader.times = 100
    with pytest.raises(Retry, match="being changed"):
        reader.load(0)


def test_loads_during_many_saves_are_each_of_one_snapshot(redis_store: RedisStore) -> None:
    owner, reader = Owner(redis_store.new(), 1), redis_store.new()
    names = [b"%d" % n for n in range(200)]
    stop = threading.Event()
    states: dict[int, Snapshot] = {}

    def keep_saving() -> None:
        while not stop.wait(0.005):
            owner.change(dict.fromkeys(names, b"%d" % owner.call * 1_000))
            owner.close_block(b"%d" % owner.call * 10_000)
            if len(owner.blocks) > 5:
                owner.forget_block()
            if owner.call % 3 == 0:
                owner.before = None
            states[owner.call + 1] = owner.next_state()
            owner.save()

    writer = threading.Thread(target=keep_saving)
    writer.start()
    found: set[int] = set()
    try:
        while len(found) < 20:
            try:
                loaded = reader.load(0)
            except Retry:
                continue
            if loaded is not None:
                assert loaded == states[loaded.header.call]
                found.add(loaded.header.call)
    finally:
        stop.set()
        writer.join()


def test_topics_do_not_mix(stack: Stack, redis_store: RedisStore) -> None:
    owner_of(redis_store, blocks=1)
    redis_store.topic += "-other"
    assert redis_store.new().last_epoch(0) == 0
    assert redis_store.new().load(0) is None


@pytest.mark.parametrize("field", ["header", "format"])
def test_a_snapshot_of_another_format_is_not_read_and_saved_whole(
    redis_store: RedisStore, field: str, caplog: pytest.LogCaptureFixture
) -> None:
    owner_of(redis_store, blocks=1)
    redis_store.admin.hset(snapshot_keys(redis_store.topic, 0).head, field, '{"epoch":"x"}')
    new = Owner(redis_store.new(), 2)
    assert new.snapshots.load(0) is None
    assert "snapshot_of_another_format" in caplog.text
    new.change({b"b": b"1"})
    new.save()
    assert new.wholes == 1
    assert redis_store.new().load(0) == new.state()


def test_keys_of_the_versions_with_markers_are_ignored(redis_store: RedisStore) -> None:
    topic = redis_store.topic
    old = {f"snap:{topic}:0:head": {"epoch": 9, "header": "{}"}, f"snap:{topic}:0:sections": {1: 2}}
    for key, fields in old.items():
        redis_store.admin.hset(key, mapping=fields)
    redis_store.admin.set(b"dedupe:" + secrets.token_bytes(16), "0:1", px=60_000)
    assert redis_store.new().last_epoch(0) == 0
    assert redis_store.new().load(0) is None
    redis_store.admin.delete(*old)
