"""A sink as small as a sink can be, a clock, and a member made of both."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from aggregator.member.log import Records
from aggregator.member.loop import MemberLoop
from aggregator.member.memory import MemoryLog, MemoryTopic
from aggregator.runtime.errors import Fenced, SwapsError


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Saved:
    """What the store has of a partition."""

    epoch: int = 0
    next_offset: int = 0
    values: list[bytes | None] = field(default_factory=list)
    gaps: list[tuple[int, int]] = field(default_factory=list)

    def copy(self) -> Saved:
        return Saved(self.epoch, self.next_offset, [*self.values], [*self.gaps])


class Store:
    """The saved states, fenced by epoch, of all members."""

    def __init__(self) -> None:
        self.saved: dict[int, Saved] = {}

    def take(self, partition: int) -> Saved:
        taken = self.saved.get(partition, Saved()).copy()
        taken.epoch += 1
        self.saved[partition] = taken.copy()
        return taken

    def save(self, partition: int, state: Saved) -> None:
        if self.saved[partition].epoch != state.epoch:
            raise Fenced("a newer owner has it")
        self.saved[partition] = state.copy()


class ToySink:
    """Collects the values of its partitions; `save_every` turns it saves and commits.

    `waits[partition]` acquires of a partition return None; `errors[name]` are raised by the next
    calls of that name, one each.
    """

    def __init__(self, log: MemoryLog, store: Store, save_every: int = 1) -> None:
        self._log = log
        self._store = store
        self._save_every = save_every
        self._turns = 0
        self.states: dict[int, Saved] = {}
        self.waits: dict[int, int] = {}
        self.errors: dict[str, list[SwapsError]] = {}
        self.unready: set[int] = set()
        self.calls: list[tuple[str, int]] = []
        self.taken: list[tuple[int, int]] = []
        self.stopped = 0

    def count(self, name: str, partition: int = 0) -> int:
        return self.calls.count((name, partition))

    def _note(self, name: str, partition: int) -> None:
        self.calls.append((name, partition))
        for key in (name, f"{name} {partition}"):
            if self.errors.get(key):
                raise self.errors[key].pop(0)

    def acquire(self, partition: int) -> int | None:
        assert partition not in self.states
        self._note("acquire", partition)
        if self.waits.get(partition, 0) > 0:
            self.waits[partition] -= 1
            return None
        state = self._store.take(partition)
        extent = self._log.extent(partition, None)
        if state.next_offset < extent.start:
            state.gaps.append((state.next_offset, extent.start))
            state.next_offset = extent.start
        self._log.commit({partition: (state.next_offset, str(state.epoch))})
        self.states[partition] = state
        return state.next_offset

    def take(self, records: Records) -> None:
        self._note("take", records.partition)
        state = self.states[records.partition]
        records = records.since(state.next_offset)
        if not len(records):
            return
        state.values += records.values
        state.next_offset = records.offsets[-1] + 1
        self.taken += [(records.partition, offset) for offset in records.offsets]

    def reached(self, partition: int, end: int) -> None:
        self._note("reached", partition)
        state = self.states[partition]
        state.next_offset = max(state.next_offset, end)

    def ready(self, partition: int) -> bool:
        return partition not in self.unready

    def turn(self) -> None:
        self._note("turn", -1)
        self._turns += 1
        if self._turns % self._save_every == 0:
            for partition in self.states:
                self._save(partition)

    def _save(self, partition: int) -> None:
        state = self.states[partition]
        self._store.save(partition, state)
        self._log.commit({partition: (state.next_offset, str(state.epoch))})

    def wait_s(self) -> float:
        return 0.0

    def release(self, partition: int, *, drain: bool) -> None:
        try:
            self._note("drain" if drain else "discard", partition)
            if drain and partition in self.states:
                self._save(partition)
        finally:
            self.states.pop(partition, None)

    def stop(self) -> None:
        assert not self.states
        self.stopped += 1


class ToyMember:
    """A member loop on a topic in memory; `rounds` runs it."""

    def __init__(
        self,
        topic: MemoryTopic,
        store: Store | None = None,
        *,
        prepare: Callable[[], object] = lambda: None,
        save_every: int = 1,
    ) -> None:
        self.clock = Clock()
        self.stop = threading.Event()
        self.log = MemoryLog(topic)
        self.store = Store() if store is None else store
        self.sink = ToySink(self.log, self.store, save_every)
        self.counted: list[int] = []
        self.loop = MemberLoop(
            self.log,
            self.sink,
            batch_size=10,
            stop=self.stop,
            prepare=prepare,
            joined=self.counted.append,
            clock=self.clock,
            poll_s=0.0,
        )

    def rounds(self, count: int = 5, *, pause_s: float = 0.0) -> None:
        """Run rounds, with `pause_s` on the clock before each."""
        for _ in range(count):
            self.clock.now += pause_s
            self.loop.round()

    def leave(self) -> None:
        """Stop the member as a process that is asked to end."""
        self.stop.set()
        self.loop.run()

    def values(self, partition: int = 0) -> list[bytes | None]:
        """What the sink holds of a partition."""
        return self.sink.states[partition].values
