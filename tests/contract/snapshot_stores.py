"""The snapshot stores of the contract tests, with faults: in memory, and on a real Redis."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import redis

from aggregator.contracts.seen import SeenHeader
from aggregator.redis.client import RedisClient
from aggregator.redis.snapshots import RedisSnapshots, Snapshot, SnapshotHeader, Snapshots
from aggregator.runtime.errors import Retry
from tests.fakes.snapshots import MemoryServer, MemorySnapshots

RETENTION_MS = 7 * 86_400_000
S = TypeVar("S", bound=RedisSnapshots)


def header(epoch: int, call: int = 1, blocks: range = range(0)) -> SnapshotHeader:
    seen = SeenHeader(call, call, -1, {1: call}, blocks.start, blocks.stop)
    return SnapshotHeader(epoch, call, seen, seq=call, history_from=None, topic_id="t")


class Store(Protocol):
    """A server with one topic."""

    def new(self) -> Snapshots:
        """A new client."""

    def copy(self) -> Any:
        """A backup of everything."""

    def restore(self, copy: Any) -> None:
        """Restore a backup; None: an empty server."""

    def lose_block(self, partition: int, number: int) -> None:
        """Delete a block."""

    def lose_answer(self, after: int = 0) -> None:
        """Carry out one of the next steps of a save without an answer."""

    def lose_question(self, after: int = 0) -> None:
        """Do not carry out one of the next steps of a save; it fails."""

    def without_faults(self) -> None:
        """Drop the faults that have not come yet."""


class MemoryStore:
    """The fake."""

    def __init__(self) -> None:
        self.server = MemoryServer()

    def new(self) -> Snapshots:
        return MemorySnapshots(self.server)

    def copy(self) -> Any:
        return {partition: self.server.kept(partition) for partition in range(3)}

    def restore(self, copy: Any) -> None:
        if copy is None:
            self.server.lose()
        for partition, kept in (copy or {}).items():
            self.server.write(partition, kept)

    def lose_block(self, partition: int, number: int) -> None:
        self.server.lose_block(partition, number)

    def lose_answer(self, after: int = 0) -> None:
        self.server.lose_answers = 1

    def lose_question(self, after: int = 0) -> None:
        left = [after]

        def fail() -> None:
            left[0] -= 1
            if left[0] < 0:
                self.server.before_write = lambda: None
                raise Retry("lost")

        self.server.before_write = fail

    def without_faults(self) -> None:
        self.server.lose_answers = 0
        self.server.before_write = lambda: None


class Faults:
    """What happens to the steps of saves: `after` so many of them, one fails; `late` has those
    that the server has not received yet."""

    def __init__(self) -> None:
        self.kind = ""
        self.after = 0
        self.late: list[Callable[[], Any]] = []


class FaultyClient(RedisClient):
    """A client whose saves fail as `faults` says."""

    faults: Faults

    def call(self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]) -> Any:
        faults = self.faults
        if script != "snapshot_save.lua" or not faults.kind:
            return super().call(script, keys, args)
        if faults.after:
            faults.after -= 1
            return super().call(script, keys, args)
        kind, faults.kind = faults.kind, ""
        if kind == "answer":
            super().call(script, keys, args)
        else:
            call = super().call
            faults.late.append(lambda: call(script, keys, args))
        raise Retry("timed out")


class RedisStore:
    """One topic on a Redis; each client has a connection of its own."""

    def __init__(self, url: str) -> None:
        self.topic = f"swaps-{secrets.token_hex(6)}"
        self.admin = redis.Redis.from_url(url)
        self.faults = Faults()
        self._url = url
        self._clients: list[RedisClient] = []

    def client(self) -> RedisClient:
        client = FaultyClient(self._url)
        client.faults = self.faults
        self._clients.append(client)
        return client

    def new(self) -> RedisSnapshots:
        return self.new_of(RedisSnapshots)

    def new_of(self, kind: type[S]) -> S:
        return kind(self.client(), self.topic, RETENTION_MS)

    def keys(self) -> list[bytes]:
        """All keys of the topic."""
        return sorted(self.admin.scan_iter(match=f"*{{{self.topic}:*", count=10_000))

    def copy(self) -> Any:
        return {key: self.admin.dump(key) for key in self.keys()}

    def restore(self, copy: Any) -> None:
        keys = self.keys()
        with self.admin.pipeline() as together:
            if keys:
                together.delete(*keys)
            for key, dump in (copy or {}).items():
                together.restore(key, 0, dump)
            together.execute()

    def lose_block(self, partition: int, number: int) -> None:
        self.admin.delete(f"dedupe:{{{self.topic}:{partition}}}:{number}")

    def lose_answer(self, after: int = 0) -> None:
        self.faults.kind, self.faults.after = "answer", after

    def lose_question(self, after: int = 0) -> None:
        self.faults.kind, self.faults.after = "question", after

    def without_faults(self) -> None:
        self.faults.kind = ""

    def close(self) -> None:
        self.admin.close()
        for client in self._clients:
            client.close()


class Owner:
    """An owner of a partition with a state in memory, which saves it as the product does.

    `before` is the last save that is known to be saved, `tried` one whose outcome is unknown.
    """

    def __init__(self, snapshots: Snapshots, epoch: int, partition: int = 0) -> None:
        self.snapshots = snapshots
        self.epoch = epoch
        self.partition = partition
        self.before: tuple[int, int] | None = None
        self.call = 0
        self.sections: dict[bytes, bytes] = {}
        self.blocks: dict[int, bytes] = {}
        self.open_block = 0
        self.wholes = 0
        self._touched: set[bytes] = set()
        self._closed: set[int] = set()
        self._forgotten: set[int] = set()
        self.tried: Snapshot | None = None
        snapshots.take(partition, epoch)

    def take_over(self, loaded: Snapshot) -> None:
        """Go on from what was loaded."""
        self.before = (loaded.header.epoch, loaded.header.call)
        self.sections, self.blocks = dict(loaded.sections), dict(loaded.blocks)
        self.open_block = loaded.header.seen.open_block

    def change(self, sections: Mapping[bytes, bytes], dropped: Iterable[bytes] = ()) -> None:
        """Drop sections, then change some."""
        for name in dropped:
            self.sections.pop(name, None)
        self.sections.update(sections)
        self._touched.update(sections, dropped)

    def close_block(self, words: bytes) -> None:
        """Close the open block."""
        self.blocks[self.open_block] = words
        self._closed.add(self.open_block)
        self.open_block += 1

    def forget_block(self) -> None:
        """Forget the first block, if there is one."""
        if self.blocks:
            number = min(self.blocks)
            del self.blocks[number]
            self._forgotten.add(number)

    def state(self) -> Snapshot:
        """What the last save saved, if nothing has changed since."""
        return self._state(self.call)

    def next_state(self) -> Snapshot:
        """What the next save saves."""
        return self._state(self.call + 1)

    def _state(self, call: int) -> Snapshot:
        first = min(self.blocks, default=self.open_block)
        head = header(self.epoch, call, range(first, self.open_block))
        return Snapshot(head, dict(self.sections), dict(self.blocks))

    def save(self, *, again: bool = False) -> Snapshot:
        """Save the state and return it; `again`: the very save whose outcome is unknown.

        Raises as the store does.
        """
        if not again or self.tried is None:
            self.call += 1
            self.tried = self.state()
        tried = self.tried
        changed = {n: tried.sections[n] for n in self._touched if n in tried.sections}
        saved = self.snapshots.save(
            self.partition,
            tried.header,
            changed,
            [name for name in sorted(self._touched) if name not in tried.sections],
            {number: tried.blocks[number] for number in self._closed if number in tried.blocks},
            sorted(self._forgotten),
            before=self.before,
        )
        while not saved:
            self.wholes += 1
            saved = self.snapshots.save_whole(
                self.partition, tried.header, tried.sections, tried.blocks
            )
        self.before = (self.epoch, self.call)
        if tried == self.state():
            self._touched, self._closed, self._forgotten = set(), set(), set()
        self.tried = None
        return tried
