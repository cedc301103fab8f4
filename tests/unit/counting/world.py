"""Aggregators over a topic, a Redis and clocks in memory; tests move the time and break things."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from typing import Any, cast

import msgspec

from aggregator.contracts.stats import Heartbeat, TokenStats
from aggregator.contracts.swaps import Swaps
from aggregator.counting.announcer import Announcer
from aggregator.counting.board_cache import PublishedRows
from aggregator.counting.partition import PartitionOwner
from aggregator.counting.saver import SnapshotSaver
from aggregator.counting.sink import CountingSink
from aggregator.dead_letters.producer import Rejected
from aggregator.member.loop import MemberLoop
from aggregator.member.memory import MemoryLog, MemoryTopic
from aggregator.nats.resync import Patch
from aggregator.runtime.clock import TrustedClock
from aggregator.runtime.config import load
from aggregator.runtime.health import Health
from tests.fakes.outbox import MemoryOutbox
from tests.fakes.snapshots import MemoryServer, MemorySnapshots

SECOND, MINUTE, HOUR = 1_000, 60_000, 3_600_000
T0 = 1_700_000_000_000 // HOUR * HOUR


class InlineExecutor(Executor):
    """Does the work in the thread of the caller; a test may hold it back with `held`."""

    def __init__(self) -> None:
        self.held = False
        self._waiting: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()

        def work() -> None:
            try:
                future.set_result(fn(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        if self.held:
            self._waiting.append(work)
        else:
            work()
        return future

    def release(self) -> None:
        """Do what was held back."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for work in waiting:
            work()


class Readers:
    """Web nodes: they keep the newest rows of each token by the rules of DESIGN 4 rule 9."""

    def __init__(self) -> None:
        self.rows: dict[str, TokenStats] = {}
        self.at: dict[int, tuple[int, int]] = {}  # partition: (epoch, seq)
        self.next_offsets: dict[int, int] = {}
        self.beats: dict[int, list[Heartbeat]] = {}

    def read(self, partition: int, epoch: int, patches: Sequence[Patch], next_offset: int) -> None:
        at = self.at.get(partition, (0, 0))
        if epoch < at[0]:
            return
        if patches[0].seq == at[1] + 1 or epoch > at[0]:
            assert next_offset >= self.next_offsets.get(partition, 0)
        self.at[partition] = (epoch, patches[-1].seq)
        self.next_offsets[partition] = max(next_offset, self.next_offsets.get(partition, 0))
        for patch in patches:
            self.rows[patch.token_id] = msgspec.json.decode(patch.payload, type=TokenStats)

    def load(self, partition: int, epoch: int, patches: Sequence[Patch], next_offset: int) -> None:
        if epoch <= self.at.get(partition, (0, 0))[0]:
            return
        assert next_offset >= self.next_offsets.get(partition, 0), "numbers would go back"
        self.at[partition], self.next_offsets[partition] = (epoch, 1), next_offset
        for patch in patches:
            self.rows[patch.token_id] = msgspec.json.decode(patch.payload, type=TokenStats)

    @property
    def newest_beats(self) -> dict[int, Heartbeat]:
        return {partition: beats[-1] for partition, beats in self.beats.items()}


class ReadersPublisher:
    """The publisher of one process, as far as the announcer uses it."""

    connected = True

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._epochs: dict[int, int] = {}

    def check(self) -> None: ...

    def take(self, partition: int, epoch: int) -> None:
        self._epochs[partition] = epoch

    def drop(self, partition: int) -> None:
        self._epochs.pop(partition, None)

    def take_questions(self) -> list[Any]:
        return []

    def trades(self, _partition: int, _epoch: int, _applied: Sequence[Swaps]) -> None: ...

    def load(self, partition: int, rows: Sequence[Patch], _seq: int, next_offset: int) -> None:
        self._readers.load(partition, self._epochs[partition], rows, next_offset)

    def publish(self, partition: int, patches: Sequence[Patch], next_offset: int) -> None:
        self._readers.read(partition, self._epochs[partition], patches, next_offset)

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        self._readers.beats.setdefault(heartbeat.partition, []).append(heartbeat)


class Rows:
    def note(self, _published: PublishedRows) -> None: ...

    def drop(self, _partition: int) -> None: ...


class World:
    """A topic, a Redis, readers and the true time, which all processes share.

    `wall_ahead` is how far the machines' clocks are ahead of the true time.
    """

    def __init__(self, partitions: int = 1, **settings: str) -> None:
        self.now = T0
        self.monotonic = 77_000
        self.wall_ahead = 0
        self.settings = {"WINDOWS": "5m,1h,24h", **settings}
        self.topic = MemoryTopic(partitions, now_ms=lambda: self.now)
        self.server = MemoryServer()
        self.readers = Readers()
        self.letters: list[Rejected] = []
        self.processes: list[Process] = []

    def process(self, **settings: str) -> Process:
        """Start another aggregator."""
        made = Process(self, self.settings | settings)
        self.processes.append(made)
        return made

    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.monotonic += ms

    def run(self, ms: int = 1_000, step: int = 100) -> None:
        """Let the time pass, with rounds of every process."""
        for _ in range(max(1, ms // step)):
            self.pass_time(step)
            for process in list(self.processes):
                process.round()

    @property
    def owners(self) -> dict[int, PartitionOwner]:
        """The owners of all processes that still run."""
        return {p: owner for each in self.processes for p, owner in each.sink.owners.items()}

    def trades(self, token: str = "A", window: str = "24h") -> int:
        row = self.readers.rows[f"ethereum:{token}"]
        return row.windows[window].trades if row.windows else 0


class Process:
    """One aggregator; its saver works in `round`."""

    def __init__(self, world: World, settings: dict[str, str]) -> None:
        self.world = world
        self.config = load(settings)
        self.log = MemoryLog(world.topic)
        self.executor = InlineExecutor()
        self.outbox = MemoryOutbox(world.topic, world.letters, lambda: world.now)
        snapshots = MemorySnapshots(world.server)

        def monotonic_ms() -> int:
            return world.monotonic

        self.saver = SnapshotSaver(snapshots, monotonic_ms)
        self.health = Health(lambda: world.monotonic / 1000)
        self.sink = CountingSink(
            config=self.config,
            member_log=self.log,
            snapshots=snapshots,
            saver=self.saver,
            outbox=cast(Any, self.outbox),
            announcer=Announcer(cast(Any, ReadersPublisher(world.readers)), Rows(), self.health),
            executor=self.executor,
            clock=TrustedClock(lambda: world.now + world.wall_ahead, monotonic_ms),
            monotonic_ms=monotonic_ms,
        )
        self.stopping = threading.Event()
        self.loop = MemberLoop(
            self.log,
            self.sink,
            batch_size=self.config.batch_size,
            stop=self.stopping,
            clock=lambda: world.monotonic / 1000,
        )
        self.sink.loop_faults = self.loop.faults

    def round(self) -> None:
        self.loop.round()
        self.saver.step()

    def kill(self) -> None:
        """End as by kill -9; the group notices after the session timeout."""
        self.world.processes.remove(self)
        self.log.expire()

    def stop(self) -> None:
        """End as by SIGTERM."""
        self.world.processes.remove(self)
        self.stopping.set()
        self.loop.run()


def event(number: int, at_ms: int, token: str = "A", **fields: Any) -> dict[str, Any]:
    """Return a swap of 10 USD; fields of None are left out."""
    made = {
        "chain": "ethereum",
        "tx_hash": f"0x{number:064x}",
        "log_index": 0,
        "timestamp": at_ms,
        "token": token,
        "symbol": token,
        "side": "buy",
        "amount": "2.5",
        "amount_usd": "10.00",
        "trader": "0xabc",
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None}


def send(world: World, number: int, partition: int = 0, token: str = "A", **fields: Any) -> int:
    """Append a swap to the log; `at` is its event time, `stamp` its record timestamp."""
    at, stamp = fields.pop("at", world.now), fields.pop("stamp", world.now)
    value = json.dumps(event(number, at, token, **fields)).encode()
    return world.topic.append(partition, value, key=f"ethereum:{token}".encode(), timestamp=stamp)
