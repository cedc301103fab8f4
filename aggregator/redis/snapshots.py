"""The snapshots: the state of each partition in Redis, and the epoch of the partition's owner.

A snapshot has named sections and one header. The header says which offsets the sections cover, so
both change together, and only the present owner of the partition changes them (DESIGN 4 rules 7
and 8). They share the append-only file with the markers: if a snapshot survives a crash, so do the
markers of all swaps that it covers. This module does not know what a section contains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from aggregator.contracts.names import snapshot_keys
from aggregator.redis.session import Incarnation, NewIncarnation, RedisSession
from aggregator.runtime.errors import Fatal, Fenced, Retry

_HEAD: Final = "snapshot_head.lua"
_TAKE: Final = "snapshot_take.lua"
_SAVE: Final = "snapshot_save.lua"
_INDEX: Final = "snapshot_index.lua"

# Keeps each call below some milliseconds of Redis, so that claims get through in between.
_CHUNK_BYTES: Final = 4 * 2**20
_CHUNK_SECTIONS: Final = 1_000
_LOAD_ATTEMPTS: Final = 5
_OVERTAKEN: Final = -1


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What the sections cover: exactly the offsets below `next_offset`. Times are ms.

    `epoch` is the epoch of the owner that saved it, `seq` the number of that owner's last patch,
    `watermark` the newest event time, `history_from` the time from which the state is complete.
    """

    epoch: int
    next_offset: int
    watermark: int | None
    seq: int
    history_from: int | None


class Snapshot(msgspec.Struct, frozen=True):
    """One complete save: the header and every section by its name."""

    header: SnapshotHeader
    sections: dict[bytes, bytes]


class Snapshots(Protocol):
    """The last saved state of every partition, and the epoch of its owner.

    The owner of a partition calls `take`, then `load`, then `save` repeatedly. Every method raises
    Retry if the store cannot be reached, and NewIncarnation if the store restarted since `connect`:
    the state in memory may then be ahead of the store and must be discarded.
    """

    def last_epoch(self, partition: int) -> int:
        """Return the highest epoch that was taken; 0 if none was."""

    def take(self, partition: int, epoch: int) -> None:
        """Fence all lower epochs: from now on only the owner of `epoch` changes the snapshot.

        Raises Fenced unless `epoch` is higher than every epoch before. After a Retry the epoch may
        have been taken: take a higher one.
        """

    def load(self, partition: int) -> Snapshot | None:
        """Return the last complete save; None if there is none.

        Raises Retry if an owner that is not fenced yet keeps saving meanwhile, and Fatal if the
        header cannot be decoded.
        """

    def save(
        self,
        partition: int,
        header: SnapshotHeader,
        changed: Mapping[bytes, bytes],
        dropped: Sequence[bytes] = (),
        *,
        replace: bool = False,
    ) -> None:
        """Save `header` and the sections that changed since the last save that returned.

        Sections in neither `changed` nor `dropped` stay; a section in both is kept. With `replace`
        the sections become exactly `changed`. The save is atomic, even if the store or the caller
        dies during it. Raises Fenced, without any change, if `header.epoch` is not the epoch in
        force. After a Retry the save may have taken effect: save the same changes or more again.
        """


class _Ownership(msgspec.Struct):
    """An epoch that this process took, the run of Redis it was taken in, and its call counter."""

    epoch: int
    incarnation: Incarnation
    calls: int = 0


class RedisSnapshots:
    """`Snapshots` on one Redis or Valkey node; `session` is shared with the markers.

    Keys never expire. An operator deletes `snap:<topic>:*` of a topic that is no longer read, or
    of the partitions that a recreated topic no longer has. Needs Redis 7.4 or Valkey 8. Only one
    thread at a time may save a partition.

    Measured on two shared cores, with sections of 1 KB to 4 MB: `load` of 250 MB takes 0.2 to
    1.2 s, in calls that keep Redis busy for 2 ms, 20 ms at worst. A save is one call, and claims
    wait for it: with 1 MB of changes it takes 2 to 5 ms, 1 ms of it in Redis; with 8 MB 10 to
    60 ms, 4 to 18 ms in Redis; with 32 MB 160 to 420 ms, 30 to 180 ms in Redis. `replace` stages
    calls of 4 MB (250 MB in 1.2 to 2.2 s), and Redis holds both snapshots until the last call.
    """

    def __init__(self, session: RedisSession, topic: str) -> None:
        session.use(_HEAD, _TAKE, _SAVE, _INDEX)
        self._session = session
        self._topic = topic
        self._owned: dict[int, _Ownership] = {}

    def last_epoch(self, partition: int) -> int:
        """See `Snapshots`."""
        keys = snapshot_keys(self._topic, partition)
        epoch, _, _ = self._session.call(_HEAD, [keys.head], [])
        return int(epoch or 0)

    def take(self, partition: int, epoch: int) -> None:
        """See `Snapshots`."""
        keys = snapshot_keys(self._topic, partition)
        incarnation = self._session.incarnation
        before = incarnation.call(_TAKE, [keys.head, keys.staged], [epoch])
        if before >= epoch:
            raise Fenced(f"partition {partition}: epoch {epoch} is not above {before}")
        self._owned[partition] = _Ownership(epoch, incarnation)

    def load(self, partition: int) -> Snapshot | None:
        """See `Snapshots`."""
        keys = snapshot_keys(self._topic, partition)
        incarnation = self._session.incarnation
        head = incarnation.call(_HEAD, [keys.head], [])
        for _ in range(_LOAD_ATTEMPTS):
            if head[2] is None:
                return None
            sections = self._read(incarnation, keys.sections)
            # The sections are read in many calls. They belong to one save only if no save came in
            # between: every save changes the head (its call number). That this last call succeeds
            # also proves that the reads before it reached the same run of Redis.
            before, head = head, incarnation.call(_HEAD, [keys.head], [])
            if head == before:
                return Snapshot(_header(partition, head[2]), sections)
        raise Retry(f"redis: the snapshot of partition {partition} is being changed by its owner")

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
        text = msgspec.json.encode(header)
        if replace:
            # One call with the whole state would block Redis for a second. So the new sections are
            # staged under a second key, and the last call swaps the keys together with the header:
            # a crash before it leaves the old snapshot untouched.
            self._save(partition, header.epoch, "begin")
            for some in _chunks(changed.items()):
                self._save(partition, header.epoch, "stage", sections=_flat(some))
            self._save(partition, header.epoch, "replace", header=text)
        else:
            sections = _flat(changed.items())
            self._save(
                partition, header.epoch, "change", header=text, dropped=dropped, sections=sections
            )

    def _save(
        self,
        partition: int,
        epoch: int,
        step: str,
        *,
        header: bytes = b"",
        dropped: Sequence[bytes] = (),
        sections: Sequence[bytes] = (),
    ) -> None:
        owned = self._owned.get(partition)
        if owned is None or owned.epoch != epoch:
            raise Fenced(f"partition {partition}: epoch {epoch} was not taken here")
        # A call that timed out may still arrive, after a newer one. The number lets the script
        # refuse it: old sections under a new header would be a wrong state.
        owned.calls += 1
        in_force = owned.incarnation.call(
            _SAVE,
            snapshot_keys(self._topic, partition),
            [epoch, owned.calls, step, header, len(dropped), *dropped, *sections],
        )
        if in_force == _OVERTAKEN:
            raise Fenced(f"partition {partition}: a later save of epoch {epoch} came first")
        if in_force < epoch:
            # An epoch in Redis only grows, so a lower one means that Redis lost writes.
            raise NewIncarnation(f"redis has forgotten epoch {epoch} of partition {partition}")
        if in_force > epoch:
            raise Fenced(f"partition {partition}: epoch {in_force} is in force, not {epoch}")

    def _read(self, incarnation: Incarnation, key: bytes) -> dict[bytes, bytes]:
        """Read every section, in calls of some MB. A save meanwhile mixes two saves."""
        sections: dict[bytes, bytes] = {}
        for some in _chunks(self._sizes(incarnation, key)):
            names = [name for name, _ in some]
            values = incarnation.read_fields(key, names)
            # A missing value was dropped by a save meanwhile; `load` then discards this result.
            sections.update(
                (name, value)
                for name, value in zip(names, values, strict=True)
                if value is not None
            )
        return sections

    def _sizes(self, incarnation: Incarnation, key: bytes) -> Iterator[tuple[bytes, int]]:
        # Sizes first: a read of unknown size could block Redis for a second.
        cursor = b"0"
        while True:
            cursor, names, sizes = incarnation.call(_INDEX, [key], [cursor, _CHUNK_SECTIONS])
            yield from zip(names, sizes, strict=True)
            if cursor == b"0":
                return


def _chunks(sections: Iterable[tuple[bytes, Any]]) -> Iterator[list[tuple[bytes, Any]]]:
    """Group `sections`, (name, bytes or their number), into lists of some MB. Reads them lazily."""
    chunk: list[tuple[bytes, Any]] = []
    size = 0
    for name, value in sections:
        length = value if isinstance(value, int) else len(value)
        if chunk and (size + length > _CHUNK_BYTES or len(chunk) == _CHUNK_SECTIONS):
            yield chunk
            chunk, size = [], 0
        chunk.append((name, value))
        size += length
    if chunk:
        yield chunk


def _flat(sections: Iterable[tuple[bytes, bytes]]) -> list[bytes]:
    return [part for section in sections for part in section]


def _header(partition: int, text: bytes) -> SnapshotHeader:
    try:
        return msgspec.json.decode(text, type=SnapshotHeader)
    except msgspec.DecodeError as error:
        raise Fatal(
            f"the snapshot of partition {partition} is not of this version ({error}): delete its "
            "snap: keys in Redis, and the windows are rebuilt from Kafka"
        ) from error
