"""What every snapshot store guarantees, tested on the one in memory and on a real Redis."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.contracts.names import snapshot_keys
from aggregator.redis.session import Incarnation, NewIncarnation
from aggregator.redis.snapshots import (
    RedisSnapshots,
    Snapshot,
    SnapshotHeader,
    Snapshots,
)
from aggregator.runtime.errors import Fatal, Fenced, Retry
from infra.embedded.stack import Stack
from tests.contract.snapshot_clients import Clients, header
from tests.fakes.snapshots import MemoryServer, MemorySession, MemorySnapshots

NewClient = Callable[[], Snapshots]


@pytest.fixture
def clients(stack: Stack) -> Iterator[Clients]:
    clients = Clients(stack.redis.url)
    yield clients
    clients.close()


@pytest.fixture(params=["memory", "redis"])
def new_client(request: pytest.FixtureRequest) -> NewClient:
    if request.param == "redis":
        new: NewClient = request.getfixturevalue("clients").new
        return new
    return memory_clients(MemoryServer())


def memory_clients(server: MemoryServer) -> NewClient:
    def new() -> Snapshots:
        session = MemorySession(server)
        session.connect()
        return MemorySnapshots(session)

    return new


@pytest.fixture
def snapshots(new_client: NewClient) -> Snapshots:
    return new_client()


def test_nothing_is_there_at_first(snapshots: Snapshots) -> None:
    assert snapshots.last_epoch(3) == 0
    assert snapshots.load(3) is None


def test_an_epoch_is_taken_once_and_only_upwards(new_client: NewClient) -> None:
    one, other = new_client(), new_client()
    one.take(0, 5)
    for refused in (5, 4, 1):
        with pytest.raises(Fenced):
            other.take(0, refused)
        assert other.last_epoch(0) == 5
    other.take(0, 2**53)
    assert one.last_epoch(0) == 2**53
    assert one.load(0) is None


def test_taking_an_epoch_keeps_the_snapshot(new_client: NewClient) -> None:
    one, other = new_client(), new_client()
    one.take(0, 1)
    one.save(0, header(1, 7), {b"a": b"1"})
    other.take(0, 2)
    assert other.load(0) == Snapshot(header(1, 7), {b"a": b"1"})


@pytest.mark.parametrize("replace", [False, True], ids=["change", "replace"])
def test_a_zombie_changes_nothing(new_client: NewClient, replace: bool) -> None:
    zombie, owner = new_client(), new_client()
    zombie.take(0, 1)
    zombie.save(0, header(1, 7), {b"a": b"1", b"b": b"1"})
    owner.take(0, 2)
    with pytest.raises(Fenced):
        zombie.save(0, header(1, 9), {b"a": b"zombie"}, [b"b"], replace=replace)
    assert owner.load(0) == Snapshot(header(1, 7), {b"a": b"1", b"b": b"1"})
    owner.save(0, header(2, 8), {b"a": b"2"})
    with pytest.raises(Fenced):
        zombie.save(0, header(1, 9), {b"a": b"zombie"}, [b"b"], replace=replace)
    assert zombie.load(0) == Snapshot(header(2, 8), {b"a": b"2", b"b": b"1"})


def test_only_the_client_that_took_the_epoch_may_save(new_client: NewClient) -> None:
    owner, other = new_client(), new_client()
    owner.take(0, 1)
    for client, epoch in ((other, 1), (owner, 2), (owner, 0)):
        with pytest.raises(Fenced):
            client.save(0, header(epoch), {b"a": b""})
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
@pytest.mark.parametrize("replace", [False, True], ids=["change", "replace"])
def test_what_is_saved_is_loaded(
    snapshots: Snapshots, sections: dict[bytes, bytes], replace: bool
) -> None:
    saved = SnapshotHeader(1, 2**62, watermark=1_700_000_000_000, seq=2**40, history_from=-1)
    snapshots.take(0, 1)
    snapshots.save(0, saved, sections, replace=replace)
    assert snapshots.load(0) == Snapshot(saved, sections)


def test_the_last_write_of_each_section_wins(snapshots: Snapshots) -> None:
    snapshots.take(0, 1)
    snapshots.save(0, header(1, 1), {b"a": b"1", b"b": b"1", b"c": b"1"})
    snapshots.save(0, header(1, 2), {b"b": b"2", b"d": b"2"}, [b"a", b"never there"])
    snapshots.save(0, header(1, 3), {})
    snapshots.save(0, header(1, 4), {b"c": b"4"}, [b"c"])
    assert snapshots.load(0) == Snapshot(header(1, 4), {b"b": b"2", b"c": b"4", b"d": b"2"})


def test_30_000_sections_are_dropped_in_one_save(snapshots: Snapshots) -> None:
    names = [b"%d" % n for n in range(30_000)]
    snapshots.take(0, 1)
    snapshots.save(0, header(1, 1), dict.fromkeys(names, b"x"))
    snapshots.save(0, header(1, 2), {}, names[1:])
    assert snapshots.load(0) == Snapshot(header(1, 2), {b"0": b"x"})


def test_a_replacement_keeps_no_older_section(snapshots: Snapshots) -> None:
    snapshots.take(0, 1)
    snapshots.save(0, header(1, 1), {b"a": b"1", b"b": b"1"})
    snapshots.save(0, header(1, 2), {b"b": b"2"}, replace=True)
    assert snapshots.load(0) == Snapshot(header(1, 2), {b"b": b"2"})
    snapshots.save(0, header(1, 3), {}, replace=True)
    assert snapshots.load(0) == Snapshot(header(1, 3), {})


def test_partitions_do_not_mix(snapshots: Snapshots) -> None:
    for partition in (1, 11, 111):
        snapshots.take(partition, partition)
        snapshots.save(partition, header(partition), {b"a": b"%d" % partition})
    snapshots.save(11, header(11), {}, [b"a"])
    snapshots.take(1, 50)
    loaded = [snapshots.load(partition) for partition in (1, 11, 111)]
    assert loaded == [
        Snapshot(header(1), {b"a": b"1"}),
        Snapshot(header(11), {}),
        Snapshot(header(111), {b"a": b"111"}),
    ]
    assert [snapshots.last_epoch(partition) for partition in (1, 11, 111)] == [50, 11, 111]


names = st.sampled_from([b"a", b"b", b"c"])
steps = st.one_of(
    st.tuples(st.just("take"), st.integers(0, 1), st.integers(0, 1), st.integers(1, 6)),
    st.tuples(
        st.just("save"),
        st.integers(0, 1),
        st.integers(0, 1),
        st.sampled_from([0, 0, 0, 0, 1]),
        st.dictionaries(names, st.binary(max_size=3)),
        st.lists(names, max_size=2),
        st.booleans(),
    ),
    st.tuples(st.just("load"), st.integers(0, 1), st.integers(0, 1)),
)


def run(new_client: NewClient, drawn: list[tuple[Any, ...]]) -> list[object]:
    """Return what each step returned or raised, and then the end state of every partition."""
    clients = [new_client(), new_client()]
    answers: list[object] = []
    last_tried: dict[tuple[int, int], int] = {}
    for number, (kind, who, partition, *rest) in enumerate(drawn):
        try:
            if kind == "take":
                last_tried[who, partition] = rest[0]
                answers.append(clients[who].take(partition, *rest))
            elif kind == "load":
                answers.append(clients[who].load(partition))
            else:
                ahead, changed, dropped, replace = rest
                saved = header(last_tried.get((who, partition), 1) + ahead, number)
                clients[who].save(partition, saved, changed, dropped, replace=replace)
        except Fenced:
            answers.append(Fenced)
    end = [(client.last_epoch(p), client.load(p)) for client in clients for p in (0, 1)]
    return [*answers, *end]


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(drawn=st.lists(steps, max_size=25))
def test_redis_behaves_as_the_store_in_memory(stack: Stack, drawn: list[tuple[Any, ...]]) -> None:
    clients = Clients(stack.redis.url)
    try:
        assert run(clients.new, drawn) == run(memory_clients(MemoryServer()), drawn)
    finally:
        clients.close()


class Interrupted(dict[bytes, bytes]):
    """Sections that call `what` at one point while they are read."""

    def __init__(self, sections: dict[bytes, bytes], at: int, what: Callable[[], object]) -> None:
        super().__init__(sections)
        self._at = at
        self._what = what

    def items(self) -> Any:
        for number, section in enumerate(super().items()):
            if number == self._at:
                self._what()
            yield section


def test_an_owner_fenced_amid_a_replacement_changes_nothing(clients: Clients) -> None:
    zombie, owner = clients.new(), clients.new()
    zombie.take(0, 1)
    zombie.save(0, header(1, 1), {b"a": b"1"})
    many = {b"%d" % n: b"x" for n in range(5_000)}
    with pytest.raises(Fenced):
        zombie.save(
            0, header(1, 2), Interrupted(many, 3_500, lambda: owner.take(0, 2)), [], replace=True
        )
    assert owner.load(0) == Snapshot(header(1, 1), {b"a": b"1"})
    assert not clients.admin.exists(snapshot_keys(clients.topic, 0).staged)


def test_a_replacement_cut_short_leaves_nothing_to_the_next(clients: Clients) -> None:
    def die() -> None:
        raise RuntimeError

    owner = clients.new()
    owner.take(0, 1)
    owner.save(0, header(1, 1), {b"a": b"1"})
    many = {b"%d" % n: b"x" for n in range(5_000)}
    with pytest.raises(RuntimeError):
        owner.save(0, header(1, 2), Interrupted(many, 3_500, die), replace=True)
    assert clients.admin.hlen(snapshot_keys(clients.topic, 0).staged) == 3_000
    assert owner.load(0) == Snapshot(header(1, 1), {b"a": b"1"})
    owner.save(0, header(1, 3), {b"b": b"3"}, replace=True)
    assert owner.load(0) == Snapshot(header(1, 3), {b"b": b"3"})
    assert not clients.admin.exists(snapshot_keys(clients.topic, 0).staged)


def test_a_save_that_arrives_after_a_later_one_changes_nothing(
    clients: Clients, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that timed out may still arrive after the same sections and more were saved."""
    owner = clients.new()
    owner.take(0, 1)
    late: list[Callable[[], Any]] = []

    def time_out(self: Incarnation, *call: Any) -> Any:
        late.append(lambda: answer(self, *call))
        raise Retry("timed out")

    answer = Incarnation.call
    with monkeypatch.context() as patch:
        patch.setattr(Incarnation, "call", time_out)
        with pytest.raises(Retry):
            owner.save(0, header(1, 1), {b"a": b"1", b"b": b"1"})
    owner.save(0, header(1, 2), {b"a": b"2"}, [b"b"])
    assert late[0]() == -1
    assert owner.load(0) == Snapshot(header(1, 2), {b"a": b"2"})


class Overtaken(RedisSnapshots):
    """A reader during whose first reads another client saves."""

    meanwhile: Callable[[], object]
    times = 1

    def _read(self, incarnation: Incarnation, key: bytes) -> dict[bytes, bytes]:
        sections = super()._read(incarnation, key)
        if self.times:
            self.times -= 1
            self.meanwhile()
        return sections


@pytest.mark.parametrize("replace", [False, True], ids=["change", "replace"])
def test_a_load_during_a_save_is_of_one_snapshot(clients: Clients, replace: bool) -> None:
    owner, reader = clients.new(), clients.new_of(Overtaken)
    owner.take(0, 1)
    owner.save(0, header(1, 1), {b"a": b"1", b"b": b"1"})
    reader.meanwhile = lambda: owner.save(0, header(1, 1), {b"a": b"2"}, replace=replace)
    sections = {b"a": b"2"} if replace else {b"a": b"2", b"b": b"1"}
    assert reader.load(0) == Snapshot(header(1, 1), sections)
    reader.times = 100
    with pytest.raises(Retry, match="being changed"):
        reader.load(0)


def test_loads_during_many_saves_are_each_of_one_snapshot(clients: Clients) -> None:
    owner, reader = clients.new(), clients.new()
    names = [b"%d" % n for n in range(200)]
    owner.take(0, 1)
    owner.save(0, header(1), dict.fromkeys(names, b"0" * 2_000))
    stop = threading.Event()
    saved = [0]

    def keep_saving() -> None:
        while not stop.wait(0.005):
            saved[0] += 1
            number = saved[0]
            owner.save(
                0, header(1, number), dict.fromkeys(names, b"%d" % number * 2_000),
                replace=number % 3 == 0,
            )  # fmt: skip

    writer = threading.Thread(target=keep_saving)
    writer.start()
    offsets: set[int] = set()
    try:
        while len(offsets) < 20:
            try:
                loaded = reader.load(0)
            except Retry:
                continue
            assert loaded is not None
            offset = loaded.header.next_offset
            assert loaded.sections == dict.fromkeys(names, b"%d" % offset * 2_000)
            offsets.add(offset)
    finally:
        stop.set()
        writer.join()
    assert max(offsets) <= saved[0]


def test_topics_do_not_mix(clients: Clients) -> None:
    one = clients.new()
    one.take(0, 1)
    one.save(0, header(1), {b"a": b"1"})
    clients.topic += "-other"
    assert clients.new().last_epoch(0) == 0
    assert clients.new().load(0) is None


def test_a_redis_that_lost_the_epoch_accepts_no_part_of_a_state(clients: Clients) -> None:
    owner = clients.new()
    owner.take(0, 4)
    owner.save(0, header(4), {b"a": b"1"})
    clients.admin.delete(*snapshot_keys(clients.topic, 0))
    with pytest.raises(NewIncarnation):
        owner.save(0, header(4), {b"b": b"2"})
    assert owner.load(0) is None


def test_a_header_of_another_version_is_refused(clients: Clients) -> None:
    owner = clients.new()
    owner.take(0, 1)
    owner.save(0, header(1), {})
    clients.admin.hset(snapshot_keys(clients.topic, 0).head, "header", '{"epoch":"x"}')
    with pytest.raises(Fatal, match="delete its snap: keys"):
        owner.load(0)
