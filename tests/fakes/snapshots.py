"""The snapshot store in memory, with the guarantees of `RedisSnapshots`, without a server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from aggregator.redis.snapshots import Snapshot, SnapshotHeader
from aggregator.runtime.errors import Fenced, Retry


class Kept(msgspec.Struct, frozen=True):
    """The stored state of a partition. Never changed in place."""

    epoch: int = 0
    header: SnapshotHeader | None = None
    sections: dict[bytes, bytes] = msgspec.field(default_factory=dict)
    blocks: dict[int, bytes] = msgspec.field(default_factory=dict)

    @property
    def saved(self) -> tuple[int, int] | None:
        """(epoch, call) of the save that is held."""
        return (self.header.epoch, self.header.call) if self.header else None

    def has_all_blocks(self, header: SnapshotHeader) -> bool:
        """Return whether every block that the header names is held."""
        return all(number in self.blocks for number in header.seen.named_blocks)


class MemoryServer:
    """The state that all clients share, and what can go wrong with it.

    While `down`, every call raises Retry. `lose_answers` is how many of the next saves take effect
    and then raise Retry. `before_write` is called before each write, a save of everything
    being one for each differing block and one for the rest: what it raises ends the call there.
    """

    def __init__(self) -> None:
        self.down = False
        self.lose_answers = 0
        self.before_write: Callable[[], object] = lambda: None
        self._states: list[dict[int, Kept]] = [{}]

    @property
    def writes(self) -> int:
        """How many writes the server has."""
        return len(self._states) - 1

    def lose(self, keep: int = 0) -> None:
        """Forget all but the first `keep` writes, as a server that lost its last second."""
        del self._states[keep + 1 :]

    def lose_block(self, partition: int, number: int) -> None:
        """Delete a block."""
        kept = self.kept(partition)
        blocks = {each: block for each, block in kept.blocks.items() if each != number}
        self.write(partition, msgspec.structs.replace(kept, blocks=blocks))

    def kept(self, partition: int) -> Kept:
        """Return the present state of a partition."""
        return self._states[-1].get(partition, Kept())

    def write(self, partition: int, kept: Kept) -> None:
        """Write the state of a partition atomically."""
        self._states.append({**self._states[-1], partition: kept})

    def check(self) -> None:
        """Raise Retry while the server is down."""
        if self.down:
            raise Retry("redis: the server is down")


class MemorySnapshots:
    """`Snapshots` in dicts."""

    def __init__(self, server: MemoryServer) -> None:
        self._server = server
        self._owned: dict[int, int] = {}

    def ping(self) -> None:
        """See `Snapshots`."""
        self._server.check()

    def last_epoch(self, partition: int) -> int:
        """See `Snapshots`."""
        self._server.check()
        return self._server.kept(partition).epoch

    def take(self, partition: int, epoch: int) -> None:
        """See `Snapshots`."""
        self._server.check()
        kept = self._server.kept(partition)
        if kept.epoch >= epoch:
            raise Fenced("not above the last")
        self._server.write(partition, msgspec.structs.replace(kept, epoch=epoch))
        self._owned[partition] = epoch

    def load(self, partition: int) -> Snapshot | None:
        """See `Snapshots`."""
        self._server.check()
        kept = self._server.kept(partition)
        if kept.header is None or not kept.has_all_blocks(kept.header):
            return None
        blocks = {number: kept.blocks[number] for number in kept.header.seen.named_blocks}
        return Snapshot(kept.header, dict(kept.sections), blocks)

    def save(
        self,
        partition: int,
        header: SnapshotHeader,
        changed: Mapping[bytes, bytes],
        dropped: Sequence[bytes],
        blocks: Mapping[int, bytes],
        forgotten: Sequence[int],
        *,
        before: tuple[int, int] | None,
    ) -> bool:
        """See `Snapshots`."""
        kept = self._owned_state(partition, header)
        if kept.saved == (header.epoch, header.call):
            return self._done()
        if before is None or kept.saved != before:
            return False
        gone = set(dropped)
        sections = {name: part for name, part in kept.sections.items() if name not in gone}
        held = {**kept.blocks, **blocks}
        for number in forgotten:
            held.pop(number, None)
        self._write(partition, Kept(header.epoch, header, {**sections, **changed}, held))
        return self._done()

    def save_whole(
        self,
        partition: int,
        header: SnapshotHeader,
        sections: Mapping[bytes, bytes],
        blocks: Mapping[int, bytes],
    ) -> bool:
        """See `Snapshots`."""
        kept = self._owned_state(partition, header)
        if kept.saved == (header.epoch, header.call):
            return self._done()
        old = set(kept.header.seen.named_blocks) if kept.header else set()
        named = header.seen.named_blocks
        for number in named:
            if number in blocks and kept.blocks.get(number) != blocks[number]:
                # A block with other words is of another reading of the log: so is the state.
                still = None if number in kept.blocks else kept.header
                here = {**kept.blocks, number: blocks[number]}
                kept = msgspec.structs.replace(kept, header=still, blocks=here)
                self._write(partition, kept)
        if not kept.has_all_blocks(header):
            return False
        here = {n: block for n, block in kept.blocks.items() if n in named or n not in old}
        self._write(partition, Kept(header.epoch, header, dict(sections), here))
        return self._done()

    def _owned_state(self, partition: int, header: SnapshotHeader) -> Kept:
        """Return the state to change, under this epoch. Raises Fenced and Retry."""
        if self._owned.get(partition) != header.epoch:
            raise Fenced("not taken here")
        self._server.check()
        kept = self._server.kept(partition)
        if kept.epoch > header.epoch:
            raise Fenced("a newer epoch is in force")
        if kept.epoch < header.epoch:
            kept = msgspec.structs.replace(kept, epoch=header.epoch)
            self._server.write(partition, kept)
        return kept

    def _done(self) -> bool:
        if self._server.lose_answers:
            self._server.lose_answers -= 1
            raise Retry("redis: the answer was lost")
        return True

    def _write(self, partition: int, kept: Kept) -> None:
        self._server.before_write()
        self._server.check()
        if self._server.kept(partition).epoch != kept.epoch:
            raise Fenced("a newer epoch is in force")
        self._server.write(partition, kept)
