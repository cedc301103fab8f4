"""The log of `member.log` in memory: a topic, its consumer groups, and their members.

For tests of the code that is hardest to test with a broker: rebalances, fenced members, trimmed
logs, holes, topics that are made again. It never waits, so a test runs in milliseconds. The
contract suite holds it to what Kafka does. Members may be used from several threads; the listener
is called without a lock held.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence

from aggregator.contracts.records import Header, LogRecord, origin_of
from aggregator.member.log import LONGEST_METADATA, Listener, LogExtent, Polled, Records
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.errors import Fatal, Fenced, Retry, SwapsError


class _Partition:
    """The records of one partition; `offsets` are theirs, ascending, with holes between."""

    def __init__(self) -> None:
        self.start = 0
        self.end = 0
        self.offsets: list[int] = []
        self.records: list[LogRecord] = []

    def keep(self, first: int, last: int) -> None:
        self.records = self.records[first:last]
        self.offsets = self.offsets[first:last]


class MemoryTopic:
    """A topic in memory.

    `reachable` is False while the broker does not answer: then polls are empty and requests raise
    Retry.
    """

    def __init__(
        self, partitions: int = 1, *, name: str = "raw-swaps", now_ms: Callable[[], int] = wall_ms
    ) -> None:
        self.name = name
        self.reachable = True
        self.lock = threading.RLock()
        self.topic_id = f"{name}-1"
        self.partitions = [_Partition() for _ in range(partitions)]
        self._groups: dict[str, MemoryGroup] = {}
        self._made = 1
        self._now_ms = now_ms

    def append(
        self,
        partition: int,
        value: bytes | None,
        *,
        key: bytes | None = None,
        timestamp: int | None = None,
        headers: Sequence[Header] = (),
    ) -> int:
        """Append a record, as a producer does; return its offset. `timestamp` is in ms."""
        with self.lock:
            log = self.partitions[partition]
            at = self._now_ms() if timestamp is None else timestamp
            offset, log.end = log.end, log.end + 1
            log.offsets.append(offset)
            log.records.append(LogRecord(partition, offset, at, key, value, headers))
            return offset

    def skip(self, partition: int, count: int = 1) -> None:
        """Append offsets without a record, as transaction markers are."""
        with self.lock:
            self.partitions[partition].end += count

    def trim(self, partition: int, start: int) -> None:
        """Delete the records below `start`, as retention does."""
        with self.lock:
            log = self.partitions[partition]
            log.start = min(max(log.start, start), log.end)
            log.keep(bisect_left(log.offsets, log.start), len(log.offsets))

    def cut(self, partition: int, end: int) -> None:
        """Lose the records from `end` on, as an unclean leader election does."""
        with self.lock:
            log = self.partitions[partition]
            log.end = min(log.end, end)
            log.keep(0, bisect_left(log.offsets, log.end))

    def add_partitions(self, count: int) -> None:
        """Add partitions; the groups rebalance."""
        with self.lock:
            self.partitions += [_Partition() for _ in range(count)]
            for group in self._groups.values():
                group.rebalance()

    def make_again(self, partitions: int | None = None) -> None:
        """Delete the topic and create it: it is empty, has another id and no committed offsets."""
        with self.lock:
            self._made += 1
            self.topic_id = f"{self.name}-{self._made}"
            self.partitions = [_Partition() for _ in range(partitions or len(self.partitions))]
            for group in self._groups.values():
                group.committed.clear()
                group.rebalance()

    def records(self, partition: int) -> list[LogRecord]:
        """Return the records of a partition."""
        with self.lock:
            return list(self.partitions[partition].records)

    def group(self, name: str) -> MemoryGroup:
        """Return the consumer group of this name."""
        with self.lock:
            return self._groups.setdefault(name, MemoryGroup(self))


class MemoryGroup:
    """A consumer group: its members, who owns which partition, and the committed offsets.

    Rebalances are cooperative and sticky. A partition changes its owner in two steps: the old one
    gives it up in a poll of its own, and the new one receives it in a poll after that.
    """

    def __init__(self, topic: MemoryTopic) -> None:
        self.generation = 0
        self.committed: dict[int, tuple[int, str]] = {}
        self.owners: dict[int, MemoryLog] = {}
        self._topic = topic
        self._members: list[MemoryLog] = []
        self._targets: dict[int, MemoryLog] = {}

    def join(self, member: MemoryLog) -> None:
        """Add a member; one with the same instance id is fenced and replaced."""
        for other in self._members:
            if member.instance_id and other.instance_id == member.instance_id:
                self.remove(other)
                break
        self._members.append(member)
        self.rebalance()

    def remove(self, member: MemoryLog) -> None:
        """Remove a member with all that it owns."""
        if member in self._members:
            self._members.remove(member)
            for partition in [p for p, owner in self.owners.items() if owner is member]:
                del self.owners[partition]
            self.rebalance()

    def has(self, member: MemoryLog) -> bool:
        """Return whether this member belongs to the current generation."""
        return member in self._members

    def rebalance(self) -> None:
        """Begin a new generation: decide who is to own which partition."""
        self.generation += 1
        count, before = len(self._topic.partitions), self._targets
        self._targets = {}
        self.owners = {p: owner for p, owner in self.owners.items() if p < count}
        if not self._members:
            return
        fair, extra = divmod(count, len(self._members))
        # Members with the most partitions before keep one more where the count does not divide.
        held = {id(each): [p for p in before if before[p] is each] for each in self._members}
        by_held = sorted(self._members, key=lambda each: -len(held[id(each)]))
        quotas = {id(each): fair + (rank < extra) for rank, each in enumerate(by_held)}
        for member in by_held:
            for partition in held[id(member)][: quotas[id(member)]]:
                if partition < count:
                    self._targets[partition] = member
        for partition in range(count):
            if partition not in self._targets:
                self._targets[partition] = min(
                    by_held, key=lambda each: self._given(each) - quotas[id(each)]
                )

    def _given(self, member: MemoryLog) -> int:
        return sum(1 for each in self._targets.values() if each is member)

    def to_revoke(self, member: MemoryLog) -> list[int]:
        """Return what `member` owns and is to give up."""
        return sorted(
            p
            for p, owner in self.owners.items()
            if owner is member and self._targets.get(p) is not member
        )

    def to_assign(self, member: MemoryLog) -> list[int]:
        """Return what `member` is to own and nobody owns now."""
        return sorted(
            p for p, wanted in self._targets.items() if wanted is member and p not in self.owners
        )


class MemoryLog:
    """A member of a group of a `MemoryTopic`; see `Log`. Nothing here waits.

    `failing` maps names of methods to errors that their next calls raise, one each.
    """

    def __init__(
        self, topic: MemoryTopic, group: str = "aggregators", *, instance_id: str = ""
    ) -> None:
        self.unreachable = ""
        self.unreadable: dict[int, str] = {}
        self.commit_fault = ""
        self.instance_id = instance_id
        self.failing: dict[str, list[SwapsError]] = {}
        self.paused: set[int] = set()
        self._topic = topic
        self._group = topic.group(group)
        self._listener: Listener
        self._joined = False
        self._held: set[int] = set()
        self._next: dict[int, int] = {}
        # The end that the last poll reported of a partition; reported once each time it is reached.
        self._reported: dict[int, int] = {}
        self._out_of_range: set[int] = set()
        self._first = 0

    def expire(self) -> None:
        """Have the group drop this member, as after a session timeout: others get its partitions.

        It notices in its next poll, and joins again.
        """
        with self._topic.lock:
            self._group.remove(self)

    def rewind(self, partition: int, offset: int) -> None:
        """Repeat records from `offset` on in the next poll, as a client that was sought back."""
        self._next[partition] = min(self._next[partition], offset)

    def subscribe(self, listener: Listener) -> None:
        """See `Log`."""
        self._listener = listener
        self._joined = True
        with self._topic.lock:
            self._group.join(self)

    def poll(self, limit: int, timeout_s: float) -> Polled:  # noqa: ARG002
        """See `Log`."""
        self._fail("poll")
        if not self._topic.reachable:
            self.unreachable = "all brokers are down"
            return Polled([], {}, [])
        self.unreachable = ""
        if not self._joined:
            return Polled([], {}, [])
        if not self._group.has(self):
            self._drop(sorted(self._held), lost=True)
            with self._topic.lock:
                self._group.join(self)
            return Polled([], {}, [])
        self._settle_assignment()
        with self._topic.lock:
            return self._read(limit)

    def _settle_assignment(self) -> None:
        with self._topic.lock:
            revoked = self._group.to_revoke(self)
            # Partitions that the topic no longer has.
            gone = sorted(p for p in self._held if self._group.owners.get(p) is not self)
        if gone:
            self._drop(gone, lost=True)
        if revoked:
            self._drop(revoked, lost=False)
            with self._topic.lock:
                for partition in revoked:
                    self._group.owners.pop(partition, None)
        with self._topic.lock:
            assigned = self._group.to_assign(self)
            self._group.owners.update(dict.fromkeys(assigned, self))
        if assigned:
            self._held.update(assigned)
            self._listener.on_assign(assigned)

    def _drop(self, partitions: Sequence[int], *, lost: bool) -> None:
        for partition in partitions:
            self._held.discard(partition)
            self._next.pop(partition, None)
            self._reported.pop(partition, None)
            self._out_of_range.discard(partition)
            self.paused.discard(partition)
            self.unreadable.pop(partition, None)
        if lost and partitions:
            self._listener.on_lost(partitions)
        elif partitions:
            self._listener.on_revoke(partitions)

    def _read(self, limit: int) -> Polled:
        polled = Polled([], {}, [])
        begun = sorted(self._next.keys() - self.paused - self._out_of_range)
        # Begin with another partition each time, so that a small limit starves none.
        self._first += 1
        for turn in range(len(begun)):
            partition = begun[(self._first + turn) % len(begun)]
            log, offset = self._topic.partitions[partition], self._next[partition]
            if not log.start <= offset <= log.end:
                self._out_of_range.add(partition)
                polled.out_of_range.append(partition)
                continue
            first = bisect_left(log.offsets, offset)
            taken = log.records[first : first + limit]
            limit -= len(taken)
            if taken:
                self._next[partition] = taken[-1].offset + 1
                polled.records.append(_columns(partition, taken))
                self._reported.pop(partition, None)
            if first + len(taken) == len(log.records) and self._reported.get(partition) != log.end:
                self._next[partition] = self._reported[partition] = log.end
                polled.ends[partition] = log.end
        return polled

    def committed(self, partition: int) -> tuple[int | None, str]:
        """See `Log`."""
        self._ask("committed")
        with self._topic.lock:
            return self._group.committed.get(partition, (None, ""))

    def commit(self, positions: Mapping[int, tuple[int, str]], *, wait: bool = True) -> None:
        """See `Log`."""
        try:
            self._commit(positions)
        except SwapsError as error:
            if wait:
                raise
            self.commit_fault = str(error)

    def _commit(self, positions: Mapping[int, tuple[int, str]]) -> None:
        if not positions:
            return
        self._ask("commit")
        with self._topic.lock:
            if not self._group.has(self):
                raise Fenced("kafka: committing: this member is no longer in the group")
            for _, metadata in positions.values():
                if len(metadata) > LONGEST_METADATA:
                    raise Fatal(f"kafka: committing: over {LONGEST_METADATA} characters")
            self._group.committed.update(positions)

    def extent(self, partition: int, since_ms: int | None) -> LogExtent:
        """See `Log`."""
        self._ask("extent")
        with self._topic.lock:
            log = self._topic.partitions[partition]
            if since_ms is None:
                return LogExtent(log.start, log.end, log.start)
            newer = (each.offset for each in log.records if each.timestamp >= since_ms)
            return LogExtent(log.start, log.end, next(newer, log.end))

    def partition_count(self) -> int:
        """See `Log`."""
        self._ask("partition_count")
        self.unreachable = ""
        return len(self._topic.partitions)

    def topic_id(self) -> str:
        """See `Log`."""
        self._ask("topic_id")
        return self._topic.topic_id

    def read_at(self, partition: int, offsets: Sequence[int]) -> dict[int, LogRecord]:
        """See `Log`."""
        self._ask("read_at")
        wanted = set(offsets)
        return {
            each.offset: each for each in self._topic.records(partition) if each.offset in wanted
        }

    def last_timestamp(self, partition: int) -> int | None:
        """See `Log`."""
        self._ask("last_timestamp")
        records = self._topic.records(partition)
        return records[-1].timestamp if records else None

    def first_timestamp(self, partition: int) -> int | None:
        """See `Log`."""
        self._ask("first_timestamp")
        records = self._topic.records(partition)
        return records[0].timestamp if records else None

    def begin(self, partition: int, offset: int) -> None:
        """See `Log`."""
        self._fail("begin")
        if partition not in self._held:
            raise Retry(f"kafka: seeking: partition {partition} is not assigned")
        self._next[partition] = offset
        self._reported.pop(partition, None)
        self._out_of_range.discard(partition)
        self.paused.discard(partition)

    def pause(self, partitions: Sequence[int]) -> None:
        """See `Log`."""
        self.paused.update(each for each in partitions if each in self._held)

    def resume(self, partitions: Sequence[int]) -> None:
        """See `Log`."""
        self.paused.difference_update(partitions)

    def newest_end(self, partition: int) -> int | None:
        """See `Log`."""
        return self._topic.partitions[partition].end if partition in self._next else None

    def still_reachable(self) -> bool:
        """See `Log`."""
        if self._topic.reachable:
            self.unreachable = ""
        return self._topic.reachable

    def close(self) -> None:
        """See `Log`."""
        if self._joined:
            self._joined = False
            self._drop(sorted(self._held), lost=not self._group.has(self))
            with self._topic.lock:
                self._group.remove(self)

    def _ask(self, name: str) -> None:
        self._fail(name)
        if not self._topic.reachable:
            raise Retry(f"kafka: {name}: no answer")

    def _fail(self, name: str) -> None:
        if errors := self.failing.get(name):
            raise errors.pop(0)


def _columns(partition: int, records: Sequence[LogRecord]) -> Records:
    origins = [origin_of(each.headers) for each in records]
    return Records(
        partition,
        [each.offset for each in records],
        [each.timestamp for each in records],
        [each.value for each in records],
        origins if any(origins) else None,
        records,
        lambda record: record,
    )
