"""An owner of one partition that counts: epoch, state, replay, saves, commits, patches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model import saves
from tests.model.engines import FencedOff, NoAnswer
from tests.model.fold import PartitionState, apply, judge
from tests.model.rules import Record, identity

if TYPE_CHECKING:
    from tests.model.world import ModelWorld

GROUP = "aggregator"


class CountingWorker:
    """Runs as a generator: each `yield` is a point at which anything may happen to it."""

    def __init__(self, world: ModelWorld, partition: int, member: int) -> None:
        self._world, self._partition, self._member = world, partition, member
        self._redis = world.redis_of(partition)
        self._connection: dict[int, int] = {}
        self._skew = 0
        self._epoch = self._committed = self._end_at_assignment = 0

    def run(self) -> Iterator[None]:
        """Own the partition until another member has it, or until asked to stop."""
        self._skew = self._world.random.randint(-20, 20)
        while self._mine():
            try:
                if (yield from self._own()):
                    return
            except NoAnswer:
                yield
            except FencedOff:
                if "epoch" not in self._world.rules or not self._mine():
                    return
                yield

    def _mine(self) -> bool:
        return self._world.kafka.owner.get((GROUP, self._partition)) == self._member

    def _own(self) -> Iterator[None]:
        """Return True where the worker ends."""
        world, partition, kafka = self._world, self._partition, self._world.kafka
        yield from self._take_epoch()
        slack = world.random.randint(0, 3) if "hw" in world.faults else 0
        self._end_at_assignment = len(kafka.log[partition]) - slack
        state, header = saves.load(world, self._redis, self._connection, partition)
        yield
        self._whole = state is None
        self._before = (header["epoch"], header["call"]) if header else None
        self._call, self._seq = 0, header["seq"] if header else 0
        if state is None:
            state = saves.rebuild(world, partition, self._committed)
        self._saved_blocks = state.open_block
        self._dirty: set[int] = set()
        self._unsaved: set[int] = set()
        self._count: float = 0
        self._announced = False
        while True:
            if not self._mine() and world.noticed():
                return True
            stopping = world.stopping.get((GROUP, partition)) == self._member
            if state.next_offset < kafka.start[partition]:
                if "gap" in world.rules:
                    gap = (state.next_offset, kafka.start[partition])
                    world.gaps[GROUP, partition].append(gap)
                state.next_offset = kafka.start[partition]
            batch = []
            if not stopping:
                end = state.next_offset + world.random.randint(1, 4)
                batch = kafka.log[partition][state.next_offset : end]
            yield from self._count_batch(state, batch)
            yield
            reached = state.next_offset >= self._end_at_assignment
            if (
                self._count >= 3
                or stopping
                or (reached and not self._announced)
                or world.random.random() < 0.1
            ):
                yield from self._save(state)
            if self._announced or (
                "reader" not in world.rules and state.next_offset >= self._end_at_assignment
            ):
                self._seq += 1
                changes = {minute: state.minutes[minute] for minute in self._dirty}
                world.publish(partition, (self._epoch, self._seq, state.next_offset, changes))
                self._dirty = set()
                yield
            if stopping and not self._count:
                return True
            if not batch:
                self._count += 0.2
                yield

    def _take_epoch(self) -> Iterator[None]:
        kafka, partition = self._world.kafka, self._partition
        self._committed, metadata = kafka.committed[GROUP, partition]
        yield
        if "epoch" in self._world.rules:
            saved = self._redis.call(
                self._connection, lambda redis: redis.get(("epoch", partition), 0)
            )
            epoch = max((metadata or {}).get("epoch", 0), saved) + 1
            kafka.commit(GROUP, partition, self._member, self._committed, {"epoch": epoch})
            yield
            self._redis.call(self._connection, saves.acquire_epoch, partition, epoch)
            yield
        else:
            epoch = self._redis.call(self._connection, saves.acquire_epoch, partition, None)
            yield
        self._epoch = epoch

    def _count_batch(self, state: PartitionState, batch: list[Record]) -> Iterator[None]:
        world, partition, kafka = self._world, self._partition, self._world.kafka
        pending: list[tuple[Record, int, int]] = []
        for record in batch:
            offset = state.next_offset
            state.machine_time = world.now + self._skew
            verdict = judge(state, offset, record, world.home(record.token) != partition)
            letter, _ = verdict
            key = identity(world.rules, record)
            state.note(offset, key, letter, record.block, record.timestamp)
            state.next_offset = offset + 1
            minute = apply(state, kafka.log[partition], kafka.start[partition], offset, verdict)
            if minute is not None:
                self._dirty.add(minute)
                self._unsaved.add(minute)
            # Below the committed offset all forwards were acknowledged.
            if letter == "M" and offset >= self._committed:
                yield
                if "order" not in world.rules:
                    pending.append((record, partition, offset))
                elif "ack" in world.rules:
                    world.forward(record, partition, offset)
                    yield
                else:
                    world.outbox.append((self._member, record, partition, offset))
            self._count += 1
        while pending:
            world.forward(*pending.pop(world.random.randrange(len(pending))))
            yield

    def _save(self, state: PartitionState) -> Iterator[None]:
        """Save, then commit; while Redis is away the numbers go on."""
        world, partition, redis = self._world, self._partition, self._redis
        try:
            state.forget()
            self._call += 1
            header = saves.header_of(state, self._epoch, self._call, self._seq)
            first = max(self._saved_blocks, state.first_block)
            blocks = {number: state.block(number) for number in range(first, state.open_block)}
            if "state" not in world.rules:
                # Without the rule: Seen first, in a call of its own, then the windows.
                redis.call(self._connection, lambda redis: redis.set(("seen", partition), header))
                yield
            if self._whole:
                for number in header["blocks"]:
                    args = (world, partition, self._epoch, number, state.block(number))
                    redis.call(self._connection, saves.save_block, *args)
                    yield
                blocks = {}
            minutes = state.minutes if self._whole else self._unsaved
            changed = {minute: state.minutes[minute] for minute in minutes}
            saved = redis.call(
                self._connection,
                saves.save,
                *(world, partition, header, self._before, changed, blocks, self._whole),
            )
            self._whole = not saved
            if saved:
                self._before = (self._epoch, self._call)
                self._saved_blocks, self._unsaved, self._count = state.open_block, set(), 0
            yield
            if saved:
                world.kafka.commit(
                    GROUP, partition, self._member, state.next_offset, {"epoch": self._epoch}
                )
                yield
                self._committed = max(self._committed, state.next_offset)
                self._announced |= state.next_offset >= self._end_at_assignment
        except NoAnswer:
            self._count = 0
            yield
