"""The snapshot store in memory, with the guarantees of `RedisSnapshots`, without a server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from aggregator.redis.session import NewIncarnation
from aggregator.redis.snapshots import Snapshot, SnapshotHeader
from aggregator.runtime.errors import Fenced


class Kept(msgspec.Struct, frozen=True):
    """The stored state of a partition. Never changed in place."""

    epoch: int = 0
    snapshot: Snapshot | None = None


class MemoryServer:
    """The state that all clients share; `restart(keep)` is a crash that loses later writes."""

    def __init__(self) -> None:
        self.run = 1
        self._states: list[dict[int, Kept]] = [{}]

    @property
    def writes(self) -> int:
        """How many writes the server has."""
        return len(self._states) - 1

    def restart(self, keep: int) -> None:
        """Forget all but the first `keep` writes, as a server that lost its last second."""
        del self._states[keep + 1 :]
        self.run += 1

    def kept(self, partition: int) -> Kept:
        """Return the present state of a partition."""
        return self._states[-1].get(partition, Kept())

    def write(self, partition: int, kept: Kept) -> None:
        """Write the state of a partition atomically."""
        self._states.append({**self._states[-1], partition: kept})


class MemorySession:
    """`Session` on a `MemoryServer`; the stores of a process share one."""

    def __init__(self, server: MemoryServer) -> None:
        self.server = server
        self.run = 0

    def connect(self) -> None:
        """See `Session`."""
        self.run = self.server.run

    def ping(self) -> None:
        """See `Session`."""
        if self.run != self.server.run:
            raise NewIncarnation("restarted")

    def close(self) -> None:
        """Do nothing: there is no connection to close."""


class MemorySnapshots:
    """`Snapshots` in dicts."""

    def __init__(self, session: MemorySession) -> None:
        self._session = session
        self._server = session.server
        self._owned: dict[int, tuple[int, int]] = {}

    def last_epoch(self, partition: int) -> int:
        """See `Snapshots`."""
        self._session.ping()
        return self._server.kept(partition).epoch

    def take(self, partition: int, epoch: int) -> None:
        """See `Snapshots`."""
        self._session.ping()
        kept = self._server.kept(partition)
        if kept.epoch >= epoch:
            raise Fenced("not above the last")
        self._server.write(partition, Kept(epoch, kept.snapshot))
        self._owned[partition] = (epoch, self._session.run)

    def load(self, partition: int) -> Snapshot | None:
        """See `Snapshots`."""
        self._session.ping()
        snapshot = self._server.kept(partition).snapshot
        return snapshot and Snapshot(snapshot.header, dict(snapshot.sections))

    def save(
        self,
        partition: int,
        header: SnapshotHeader,
        changed: Mapping[bytes, bytes],
        dropped: Sequence[bytes] = (),
        *,
        replace: bool = False,
    ) -> None:
        """See `Snapshots`."""
        epoch, run = self._owned.get(partition, (0, 0))
        if epoch != header.epoch:
            raise Fenced("not taken here")
        if run != self._server.run:
            raise NewIncarnation("restarted since it was taken")
        kept = self._server.kept(partition)
        if kept.epoch != epoch:
            raise Fenced("a newer epoch is in force")
        before = {} if replace or kept.snapshot is None else kept.snapshot.sections
        gone = set(dropped)
        sections = {name: part for name, part in before.items() if name not in gone}
        self._server.write(partition, Kept(epoch, Snapshot(header, {**sections, **changed})))
