"""The snapshots: each partition's state in Redis, as named sections and one header, and its epoch.

The header says which offsets the sections cover, so the two are only ever changed together, and
only by the partition's present owner (DESIGN 4 rules 4 to 6). They live in the same append-only
file as the markers: a snapshot that outlives a crash covers only swaps whose markers do too. Knows
nothing of what is in a section.
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

# One call occupies Redis for some milliseconds at most, and others claim in between.
_CHUNK_BYTES: Final = 4 * 2**20
_CHUNK_SECTIONS: Final = 1_000
_LOAD_ATTEMPTS: Final = 5
_OVERTAKEN: Final = -1


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What the sections cover: exactly the offsets below `next_offset`. Times in ms.

    `epoch` is the owner's that saved it, `seq` that owner's last patch, `watermark` the newest
    event time, `history_from` the instant from which on the state is whole.
    """

    epoch: int
    next_offset: int
    watermark: int | None
    seq: int
    history_from: int | None


class Snapshot(msgspec.Struct, frozen=True):
    """One save, whole: the header and every section by its name."""

    header: SnapshotHeader
    sections: dict[bytes, bytes]


class Snapshots(Protocol):
    """The last saved state of every partition, and the epoch of its owner.

    A partition's owner calls `take`, then `load`, then `save` again and again. Every method raises
    Retry when the store cannot be reached, and NewIncarnation when the store has been restarted
    since `connect`: what is in memory may then be ahead of the store and must be discarded.
    """

    def last_epoch(self, partition: int) -> int:
        """The highest epoch that was taken; 0 where none was."""

    def take(self, partition: int, epoch: int) -> None:
        """Make `epoch` the one that may save; from then on no other owner changes the snapshot.

        Raises Fenced unless it is higher than every epoch before. After a Retry it may have been
        taken: take a higher one.
        """

    def load(self, partition: int) -> Snapshot | None:
        """The last save, whole; None where there is none.

        Raises Retry where an owner that is not fenced yet saves all the while, and Fatal where
        the header is not one of ours.
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
        """Put `header` in place with the sections that changed since the last save that returned.

        Sections in neither `changed` nor `dropped` stay as they are; one in both is kept. With
        `replace` the sections become exactly `changed`. All or nothing, whenever the store or the
        caller dies. Raises Fenced where `header.epoch` is not the epoch in force, and changes
        nothing then. After a Retry it may have been saved: save the same changes again, or more.
        """


class _Ownership(msgspec.Struct):
    """An epoch that was taken here, the run of Redis it was taken in, and the calls made in it."""

    epoch: int
    incarnation: Incarnation
    calls: int = 0


class RedisSnapshots:
    """`Snapshots` on one Redis or Valkey node; `session` is the one of the markers.

    Keys never expire: an operator deletes `snap:<topic>:*` of a topic that is no longer read, or
    of the partitions that a topic made anew no longer has. Needs Redis 7.4 or Valkey 8.

    Measured on two shared cores, sections of 1 KB to 4 MB. `load` of 250 MB takes 0.2 to 1.2 s, in
    calls that keep Redis busy for 2 ms, 20 ms at worst. A save that changes 1 MB takes 2 to 5 ms
    and 1 ms of Redis, 8 MB 10 to 60 ms and 4 to 18 ms, 32 MB 160 to 420 ms and 30 to 180 ms: it is
    one call, and claims wait meanwhile. `replace` stages calls of 4 MB (250 MB in 1.2 to 2.2 s),
    and Redis holds both snapshots until the last of them. One thread at a time may save a
    partition.
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
            # The same head before and after: nobody saved in between, and Redis did not restart.
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
        # A call that timed out may still be on its way; its number tells Redis that it is late.
        owned.calls += 1
        in_force = owned.incarnation.call(
            _SAVE,
            snapshot_keys(self._topic, partition),
            [epoch, owned.calls, step, header, len(dropped), *dropped, *sections],
        )
        if in_force == _OVERTAKEN:
            raise Fenced(f"partition {partition}: a later save of epoch {epoch} came first")
        if in_force < epoch:
            raise NewIncarnation(f"redis has forgotten epoch {epoch} of partition {partition}")
        if in_force > epoch:
            raise Fenced(f"partition {partition}: epoch {in_force} is in force, not {epoch}")

    def _read(self, incarnation: Incarnation, key: bytes) -> dict[bytes, bytes]:
        """Every section, in calls of some MB. Not of one save, if somebody saves meanwhile."""
        sections: dict[bytes, bytes] = {}
        for some in _chunks(self._sizes(incarnation, key)):
            names = [name for name, _ in some]
            values = incarnation.read_fields(key, names)
            # One that is gone was dropped meanwhile: what is read here will not be used.
            sections.update(
                (name, value)
                for name, value in zip(names, values, strict=True)
                if value is not None
            )
        return sections

    def _sizes(self, incarnation: Incarnation, key: bytes) -> Iterator[tuple[bytes, int]]:
        cursor = b"0"
        while True:
            cursor, names, sizes = incarnation.call(_INDEX, [key], [cursor, _CHUNK_SECTIONS])
            yield from zip(names, sizes, strict=True)
            if cursor == b"0":
                return


def _chunks(sections: Iterable[tuple[bytes, Any]]) -> Iterator[list[tuple[bytes, Any]]]:
    """The (name, bytes or their number) in lists of some MB, taken from `sections` one by one."""
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
