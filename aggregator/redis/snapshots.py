"""The snapshots: the state of each partition in Redis, and the epoch of the partition's owner.

A snapshot has a header, named sections, and the closed blocks of decided ids that the header names.
Only the present owner of the partition changes them, in a compare-and-save: a save that does not
follow the one that Redis holds is refused, and the owner then saves everything. So a Redis that
lost its last second, was restored or was promoted never mixes two saves (docs/design.md rule 3).
This module does not know what a section or a block contains.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec
import structlog

from aggregator.contracts.names import SnapshotKeys, block_key, snapshot_keys
from aggregator.contracts.seen import SeenHeader
from aggregator.contracts.units import DAY_MS
from aggregator.redis.client import RedisClient
from aggregator.runtime.errors import Fenced, Retry

FORMAT: Final = "1"
"""The format of the head. A snapshot of another format is not read."""

_TAKE: Final = "snapshot_take.lua"
_SAVE: Final = "snapshot_save.lua"
_INDEX: Final = "snapshot_index.lua"

# Keeps each call below some milliseconds of Redis, so that other partitions get through in between.
_CHUNK_BYTES: Final = 4 * 2**20
_CHUNK_SECTIONS: Final = 1_000
_CHUNK_BLOCKS: Final = 40
_LOAD_ATTEMPTS: Final = 5

log = structlog.get_logger(__name__)


class SnapshotHeader(msgspec.Struct, frozen=True):
    """What the sections and blocks cover: exactly the offsets below `next_offset`.

    (`epoch`, `call`) names a save: the owner's epoch, and a number that grows with each save of the
    owner. `seq` is the number of the owner's last patch, `history_from` (ms) the time from which
    the state is complete, `topic_id` Kafka's id of the topic.
    """

    epoch: int
    call: int
    seen: SeenHeader
    seq: int
    history_from: int | None
    topic_id: str

    @property
    def next_offset(self) -> int:
        """The first offset that is not covered."""
        return self.seen.next_offset


class Snapshot(msgspec.Struct, frozen=True):
    """One complete save: the header, every section by its name, every named block by its number."""

    header: SnapshotHeader
    sections: dict[bytes, bytes]
    blocks: dict[int, bytes]


class Snapshots(Protocol):
    """The last saved state of every partition, and the epoch of its owner.

    The owner of a partition calls `take`, then `load`, then `save` repeatedly. Every method raises
    Retry if the store cannot be reached. Thread-safe, but only one thread at a time saves a
    partition.

    After a Retry a save may have taken effect. Repeat the same call, which then has no further
    effect, or make a new save under a higher `header.call`. Never save other contents under a used
    number.
    """

    def ping(self) -> None:
        """Check that the store can be reached."""

    def last_epoch(self, partition: int) -> int:
        """Return the highest epoch that was taken; 0 if none was."""

    def take(self, partition: int, epoch: int) -> None:
        """Fence all lower epochs: from now on only the owner of `epoch` changes the snapshot.

        Raises Fenced unless `epoch` is higher than every epoch before. After a Retry the epoch may
        have been taken: take a higher one.
        """

    def load(self, partition: int) -> Snapshot | None:
        """Return the last complete save.

        None if there is none: nothing is saved, it has another format, or a block that it names is
        missing. Raises Retry if an owner that is not fenced yet keeps saving meanwhile.
        """

    def save(  # noqa: PLR0917 - a save has these parts
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
        """Save what changed since the save `before`, (epoch, call); return whether it is saved.

        False: the store does not hold `before` and nothing changed; call `save_whole`. This is also
        the answer for None, a state that follows no save. Sections in neither `changed` nor
        `dropped` stay; a section in both is kept. `blocks` were closed since `before`, `forgotten`
        are block numbers that `header` no longer names. The save is atomic, even if the store or
        the caller dies during it. Raises Fenced, without any change, if a higher epoch was taken.
        If the store lost `header.epoch`, the save puts it in force again.
        """

    def save_whole(
        self,
        partition: int,
        header: SnapshotHeader,
        sections: Mapping[bytes, bytes],
        blocks: Mapping[int, bytes],
    ) -> bool:
        """Save everything; return whether it is saved.

        False: a block that the header names vanished meanwhile, or is not in `blocks`; call again.
        What was saved before is kept until the last step, except where a block of it differs: then
        it belongs to a reading of the log that was given up. Raises Fenced like `save`.
        """


class _Ownership(msgspec.Struct):
    """An epoch that this process took, and how many steps it has sent in it."""

    epoch: int
    steps: int = 0


class RedisSnapshots:
    """`Snapshots` on Redis 7.4, Valkey 8 or newer. Redis keeps a block a day longer than Kafka.

    `retention_ms` is how long Kafka keeps the log. All keys of a partition have one hash tag. The
    keys of the state never expire: an operator deletes `snap:{<topic>:*` of a topic that is no
    longer read. `client` repeats nothing: a repeated step would be taken for an overtaken one.

    Measured on two cores that did other work as well: a save of 1 MB with one block takes 10 to
    20 ms, 1 to 3 ms of it in Redis. `save_whole` of 105 MB in sections and 3,300 blocks (324 MB,
    27 million records) takes 2 to 5 s, in calls that keep Redis busy for 30 ms at worst; `load` of
    them takes 3 s, in calls of 12 ms at worst.
    """

    def __init__(self, client: RedisClient, topic: str, retention_ms: int) -> None:
        self._client = client
        self._topic = topic
        # What ends an id is the clock of the log. A block must be there for whoever reads the log
        # again, however long nobody has (`MARKER_TTL` would be too short after a long stop).
        self._block_ms = retention_ms + DAY_MS
        self._owned: dict[int, _Ownership] = {}

    def ping(self) -> None:
        """See `Snapshots`."""
        self._client.ping()

    def last_epoch(self, partition: int) -> int:
        """See `Snapshots`."""
        return int(self._head(self._keys(partition))[0] or 0)

    def take(self, partition: int, epoch: int) -> None:
        """See `Snapshots`."""
        keys = self._keys(partition)
        before = self._client.call(_TAKE, [keys.head, keys.staged], [epoch])
        if before >= epoch:
            raise Fenced(f"partition {partition}: epoch {epoch} is not above {before}")
        self._owned[partition] = _Ownership(epoch)

    def load(self, partition: int) -> Snapshot | None:
        """See `Snapshots`."""
        keys = self._keys(partition)
        head = self._head(keys)
        for _ in range(_LOAD_ATTEMPTS):
            header = _header_of(head, partition)
            if header is None:
                return None
            sections = self._read_sections(keys.sections)
            blocks = dict(self._read_blocks(partition, header.seen.named_blocks))
            # The parts are read in many calls. They belong to one save only if no save came in
            # between: every step of a save changes the head (its number).
            before, head = head, self._head(keys)
            if head == before:
                found = {number: block for number, block in blocks.items() if block is not None}
                if len(found) == len(blocks):
                    return Snapshot(header, sections, found)
                missing = sorted(blocks.keys() - found.keys())
                log.warning(
                    "snapshot_block_missing",
                    partition=partition,
                    key=block_key(self._topic, partition, missing[0]).decode(),
                    blocks=len(missing),
                )
                return None
        raise Retry(f"redis: the snapshot of partition {partition} is being changed by its owner")

    def save(  # noqa: PLR0917 - a save has these parts
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
        done = self._step(
            partition, header, "change",
            before=before, blocks=blocks, forgotten=forgotten, dropped=dropped,
            sections=_flat(changed.items()),
        )  # fmt: skip
        return done != b"whole"

    def save_whole(
        self,
        partition: int,
        header: SnapshotHeader,
        sections: Mapping[bytes, bytes],
        blocks: Mapping[int, bytes],
    ) -> bool:
        """See `Snapshots`."""
        # One call with the whole state would block Redis for a second. So the new sections are
        # staged under a second key, and the last step swaps the keys together with the header: a
        # crash before it leaves the old snapshot untouched.
        old = _header_of(self._head(self._keys(partition)), partition)
        if self._step(partition, header, "begin") == b"saved":
            return True
        for some in _chunks(sections.items()):
            self._step(partition, header, "stage", sections=_flat(some))
        named = header.seen.named_blocks
        for number, held in self._read_blocks(partition, [n for n in named if n in blocks]):
            if held != blocks[number]:
                self._step(partition, header, "block", blocks={number: blocks[number]})
        unnamed = [n for n in old.seen.named_blocks if n not in named] if old else []
        done = self._step(partition, header, "replace", named=named, forgotten=unnamed)
        return done == b"done"

    def _step(
        self,
        partition: int,
        header: SnapshotHeader,
        step: str,
        *,
        before: tuple[int, int] | None = None,
        blocks: Mapping[int, bytes] | None = None,
        named: Iterable[int] = (),
        forgotten: Iterable[int] = (),
        dropped: Sequence[bytes] = (),
        sections: Sequence[bytes] = (),
    ) -> bytes:
        """Send one step of snapshot_save.lua and return what it did."""
        owned = self._owned.get(partition)
        if owned is None or owned.epoch != header.epoch:
            raise Fenced(f"partition {partition}: epoch {header.epoch} was not taken here")
        owned.steps += 1
        blocks = blocks or {}
        written = [*blocks, *named]
        in_force, done = self._client.call(
            _SAVE,
            [*self._keys(partition), *self._block_keys(partition, [*written, *forgotten])],
            [
                header.epoch,
                owned.steps,
                step,
                f"{header.epoch}:{header.call}",
                "none" if before is None else f"{before[0]}:{before[1]}",
                FORMAT,
                msgspec.json.encode(header) if step in {"change", "replace"} else "",
                self._block_ms,
                len(written),
                len(dropped),
                *blocks.values(),
                *dropped,
                *sections,
            ],
        )
        if done == b"fenced":
            raise Fenced(f"partition {partition}: epoch {in_force} is in force, not {header.epoch}")
        if done == b"overtaken":
            raise Fenced(f"partition {partition}: a later save of epoch {in_force} came first")
        if done == b"lost":
            raise Retry(f"redis lost a part of the save of partition {partition}")
        assert isinstance(done, bytes)
        return done

    def _keys(self, partition: int) -> SnapshotKeys:
        return snapshot_keys(self._topic, partition)

    def _block_keys(self, partition: int, numbers: Iterable[int]) -> list[bytes]:
        return [block_key(self._topic, partition, number) for number in numbers]

    def _head(self, keys: SnapshotKeys) -> list[bytes | None]:
        """Return [epoch, step, save, format, header]."""
        return self._client.fields(keys.head, ["epoch", "step", "save", "format", "header"])

    def _read_sections(self, key: bytes) -> dict[bytes, bytes]:
        """Read every section, in calls of some MB. A save meanwhile mixes two saves."""
        sections: dict[bytes, bytes] = {}
        for some in _chunks(self._sizes(key)):
            names = [name for name, _ in some]
            values = self._client.fields(key, names)
            # A missing value was dropped by a save meanwhile; `load` then discards this result.
            sections.update(
                (name, value)
                for name, value in zip(names, values, strict=True)
                if value is not None
            )
        return sections

    def _sizes(self, key: bytes) -> Iterator[tuple[bytes, int]]:
        # Sizes first: a read of unknown size could block Redis for a second.
        cursor = b"0"
        while True:
            cursor, names, sizes = self._client.call(_INDEX, [key], [cursor, _CHUNK_SECTIONS])
            yield from zip(names, sizes, strict=True)
            if cursor == b"0":
                return

    def _read_blocks(
        self, partition: int, numbers: Sequence[int]
    ) -> Iterator[tuple[int, bytes | None]]:
        """Read blocks, in calls of some MB; None for each that is missing."""
        for begin in range(0, len(numbers), _CHUNK_BLOCKS):
            some = numbers[begin : begin + _CHUNK_BLOCKS]
            yield from zip(
                some, self._client.values(self._block_keys(partition, some)), strict=True
            )


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


def _header_of(head: Sequence[bytes | None], partition: int) -> SnapshotHeader | None:
    """Return the header in `head`; None if there is none that this version reads."""
    *_, held, text = head
    if text is None:
        return None
    try:
        if held == FORMAT.encode():
            return msgspec.json.decode(text, type=SnapshotHeader)
    except msgspec.DecodeError:
        pass
    log.warning("snapshot_of_another_format", partition=partition, format=repr(held))
    return None
