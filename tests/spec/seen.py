"""The decided ids of a partition in the plainest code that is right: records in, verdicts out.

Ids are dictionary keys, entries are tuples, and blocks are numbers. Nothing is shared with the
compiled fold, which is tested against this one. `BLOCK` is the length of a block in offsets. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

BLOCK = 8192


@dataclass(frozen=True)
class LogRecordSpec:
    """One record of the log. Times are ms; `block` 0 stands for no block hash."""

    offset: int
    id: bytes
    event_time: int
    timestamp: int
    removed: bool = False
    block: int = 0
    bad: bool = False
    away: bool = False
    origin: tuple[int, int] | None = None


class EntrySpec(NamedTuple):
    """What stands of an id.

    `state` is C (counted), L (late), X (retracted) or T (retracted before any add). `at` is the
    offset of its last transition, `counted` that at which its swap counted, and `block` the block
    that it is in (0: unknown).
    """

    state: str
    at: int
    counted: int | None
    block: int


@dataclass
class SeenSpec:
    """The state of one partition. `ends` has the clock at which each closed block closed."""

    ttl: int
    grace: int
    max_future: int
    next_offset: int
    clock: int | None = None
    floor: int | None = None
    origins: dict[int, int] = field(default_factory=dict)
    by_event_time: bool = False
    entries: dict[bytes, EntrySpec] = field(default_factory=dict)
    remembered: dict[bytes, EntrySpec] = field(default_factory=dict)
    remembered_until: int = 0
    ends: dict[int, int | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.open_block = self.first_block = self.next_offset // BLOCK

    def judge(
        self, record: LogRecordSpec, known: dict[bytes, EntrySpec] | None = None
    ) -> tuple[str, int | None]:
        """Return the letter, and for a U the offset of the swap to be taken out of the windows."""
        self.close_blocks(record.offset // BLOCK)
        self.next_offset = record.offset + 1
        self.move_clock(record)
        self.forget()
        if record.bad:
            return "B", None
        if record.away:
            return "M", None
        if record.origin is not None:
            partition, offset = record.origin
            if offset <= self.origins.get(partition, -1):
                return "F", None
            self.origins[partition] = offset
        before = self.entry(record.id)
        if before is None and known is not None:
            before = known.get(record.id)
        letter = decided(before, record, self.is_late(record))
        after = transition(letter, before, record.offset, record.block)
        if after is not None:
            self.entries[record.id] = after
            self.remembered.pop(record.id, None)
        if letter == "U" and before is not None and before.state == "C" and self.holds(before):
            return letter, before.counted
        return letter, None

    def close_blocks(self, block: int) -> None:
        """Close the blocks before `block`, with the clock as it is."""
        while self.open_block < block:
            self.ends[self.open_block] = self.clock
            self.open_block += 1

    def move_clock(self, record: LogRecordSpec) -> None:
        time = record.timestamp
        if self.by_event_time:
            if record.bad:
                return
            time = min(record.event_time, record.timestamp + self.max_future)
        self.clock = time if self.clock is None else max(self.clock, time)

    def forget(self) -> None:
        """Forget the closed blocks whose end is more than `ttl` ago by the log clock."""
        while self.first_block < self.open_block and self.clock is not None:
            end = self.ends[self.first_block]
            if end is not None and self.clock <= end + self.ttl:
                break
            del self.ends[self.first_block]
            self.first_block += 1
            first = self.first_block * BLOCK
            self.entries = {key: e for key, e in self.entries.items() if e.at >= first}

    def entry(self, key: bytes) -> EntrySpec | None:
        """What is known of an id: from the log, or else what is still remembered."""
        if key in self.entries:
            return self.entries[key]
        if self.clock is not None and self.clock <= self.remembered_until:
            return self.remembered.get(key)
        return None

    def is_late(self, record: LogRecordSpec) -> bool:
        assert self.clock is not None
        too_old = record.event_time < self.clock - self.grace
        return too_old or (self.floor is not None and record.event_time < self.floor)

    def holds(self, entry: EntrySpec) -> bool:
        """Whether the block in which the swap of an entry counted is not forgotten."""
        return entry.counted is not None and entry.counted // BLOCK >= self.first_block


def decided(entry: EntrySpec | None, record: LogRecordSpec, late: bool) -> str:
    """The table of transitions."""
    if record.removed:
        if entry is None:
            return "T"
        if entry.state in "XT":
            return "D"
        return "I" if other_block(entry, record) else "U"
    add = "L" if late else "C"
    if entry is None or entry.state == "X":
        return add
    if entry.state == "T":
        return add if other_block(entry, record) else "V"
    if not other_block(entry, record):
        return "D"
    if entry.state == "C":
        return "N"
    return "n" if late else "P"


def other_block(entry: EntrySpec, record: LogRecordSpec) -> bool:
    """Whether both blocks are known and differ."""
    return entry.block != 0 and record.block != 0 and entry.block != record.block


def transition(letter: str, before: EntrySpec | None, offset: int, block: int) -> EntrySpec | None:
    """The entry that a letter leaves, None where it changes nothing."""
    match letter:
        case "C" | "P":
            return EntrySpec("C", offset, offset, block)
        case "L":
            return EntrySpec("L", offset, offset, block)
        case "U" | "V" | "G":
            return EntrySpec("X", offset, None, block)
        case "T":
            return EntrySpec("T", offset, None, block)
        case "N" | "n":
            counted = None if before is None else before.counted
            return EntrySpec("C" if letter == "N" else "L", offset, counted, block)
    return None


def known_of(rows: list[tuple[bytes, str, int, int]]) -> dict[bytes, EntrySpec]:
    """The entries that rows (id, letter, offset, block) of the archive make.

    Where their swaps counted is left out: the archive has them, the windows may not.
    """
    entries: dict[bytes, EntrySpec] = {}
    for key, letter, offset, block in rows:
        after = transition(letter, entries.get(key), offset, block)
        if after is not None:
            entries[key] = after._replace(counted=None)
    return entries
