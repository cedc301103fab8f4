"""The state of one partition as a fold of its log: the letter of each record, and the windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.model.rules import (
    BLOCK,
    GRACE,
    MAX_FUTURE,
    MINUTE,
    NEVER,
    TTL,
    Change,
    Record,
    SeenEntry,
    identity,
)

# What a reader of the archive answers for an id that Seen may have forgotten.
LookUp = Callable[[Any, Record], SeenEntry | None]


class PartitionState:
    """The journal, its fold, the log clock and the windows' minutes below `next_offset`.

    `words` holds (id, letter, block, timestamp) of each offset. `machine_time` is the clock of the
    worker's machine, which only the ablations use.
    """

    def __init__(self, rules: frozenset[str], next_offset: int = 0, floor: int = NEVER) -> None:
        self.rules = rules
        self.next_offset, self.clock, self.watermark, self.floor = next_offset, NEVER, NEVER, floor
        self.words: dict[int, tuple[Any, str, str | None, int]] = {}
        self.entries: dict[Any, SeenEntry] = {}
        self.block_ends: dict[int, int] = {}
        self.origins: dict[int, int] = {}
        self.minutes: dict[int, tuple[Change, ...]] = {}
        self.approximate: frozenset[Any] = frozenset()
        self.open_block = next_offset // BLOCK
        self.first_block = self.open_block
        self.machine_time = 0

    def close_blocks(self, offset: int) -> None:
        """Close the blocks before that of `offset`, with the log clock as of their end."""
        while self.open_block < offset // BLOCK:
            self.block_ends[self.open_block] = self.clock
            self.open_block += 1

    def note(self, offset: int, key: Any, letter: str, block: str | None, timestamp: int) -> None:
        """Write the word of an offset, and fold it into the entry of its id."""
        self.words[offset] = (key, letter, block, timestamp)
        if letter in "CLP":
            state = "C" if letter == "P" else letter
            self.entries[key] = SeenEntry(state, offset, offset, block)
        elif letter in "UVG":
            self.entries[key] = SeenEntry("X", offset, None, block)
        elif letter == "T":
            self.entries[key] = SeenEntry("T", offset, None, block)
        elif letter in "Nn":
            before = self.entries.get(key, SeenEntry("", offset, None, None))
            at = offset if "renew" in self.rules else before.at
            state = "C" if letter == "N" else "L"
            self.entries[key] = SeenEntry(state, at, before.counted_at, block)

    def entry(self, key: Any) -> SeenEntry | None:
        """Return the entry of an id, if it is not forgotten."""
        entry = self.entries.get(key)
        if entry is None:
            return None
        if "logttl" not in self.rules:
            since = self.words.get(entry.at, (0, 0, 0, self.machine_time))[3]
            return entry if self.machine_time - since <= TTL else None
        return None if self.forgotten(entry.at) else entry

    def forgotten(self, offset: int) -> bool:
        """Return whether the block of an offset is forgotten."""
        number = offset // BLOCK
        end = self.block_ends.get(number, self.clock if number >= self.first_block else NEVER)
        return number < self.open_block and self.clock > end + self._ttl()

    def forget(self) -> None:
        """Drop the words of forgotten blocks."""
        while (
            self.first_block < self.open_block
            and self.clock > self.block_ends.get(self.first_block, NEVER) + TTL
            and "ttl" in self.rules
        ):
            for offset in range(self.first_block * BLOCK, (self.first_block + 1) * BLOCK):
                self.words.pop(offset, None)
            self.first_block += 1

    def block(self, number: int) -> tuple[dict[int, Any], int]:
        """Return the words of a block, and the log clock as of its end."""
        words = {offset: word for offset, word in self.words.items() if offset // BLOCK == number}
        return words, self.block_ends.get(number, self.clock)

    def _ttl(self) -> int:
        return TTL if "ttl" in self.rules else GRACE // 2


def judge(
    state: PartitionState,
    offset: int,
    record: Record,
    away: bool,
    look_up: LookUp | None = None,
) -> tuple[str, SeenEntry | None]:
    """Move the state's clock over a record; return its letter and the entry before it.

    C counted, L late, D repeat, U undone, T removal before its add, V add made void by it,
    I removal of another block, N and n another block of a counted and of a late one, P the same of
    a late one, but on time, B dead letter, M forwarded to its home, F a forward seen before.
    """
    rules = state.rules
    state.close_blocks(offset)
    late = _move_clock(state, record)
    is_add = record.kind == "E"
    if (
        record.event_time > record.timestamp + MAX_FUTURE
        and not record.origin
        and (is_add or "anytime" not in rules)
    ):
        return "B", None
    if "home" in rules and away:
        return "M", None
    if record.origin and "origin" in rules:
        partition, origin_offset = record.origin
        if origin_offset <= state.origins.get(partition, -1):
            return "F", None
        state.origins[partition] = origin_offset
    key = identity(rules, record)
    entry = state.entry(key)
    if entry is None and look_up:
        entry = look_up(key, record)
    letter = _judge_add if is_add else _judge_removal
    return letter(rules, record, entry, late), entry


def _move_clock(state: PartitionState, record: Record) -> bool:
    """Return whether the record is late by the clock that includes its own timestamp."""
    if "late" in state.rules:
        state.clock = max(state.clock, record.timestamp)
        # What lies below the floor of a rebuild is in no window.
        return record.event_time < max(state.clock - GRACE, state.floor)
    # Without the rule: the events' times decide, with a short grace.
    late = record.event_time < state.watermark - 20
    state.watermark = max(state.watermark, min(record.event_time, record.timestamp + MAX_FUTURE))
    state.clock = max(state.clock, record.timestamp)
    return late


def _other_block(rules: frozenset[str], record: Record, entry: SeenEntry) -> bool:
    known = entry.block and record.block and "hash" in rules
    return bool(known and entry.block != record.block)


def _judge_add(rules: frozenset[str], record: Record, entry: SeenEntry | None, late: bool) -> str:
    counts = "L" if late else "C"
    if entry is None:
        return counts
    other = _other_block(rules, record, entry)
    if entry.state in "CL":
        if not other:
            return "D"
        if entry.state == "C":
            return "N"
        return "n" if late or "rise" not in rules else "P"
    if "toggle" not in rules:
        return "D" if entry.state == "X" else "V"
    return "V" if entry.state == "T" and not other else counts


def _judge_removal(
    rules: frozenset[str], record: Record, entry: SeenEntry | None, _late: bool
) -> str:
    if entry is None:
        return "T" if "tomb" in rules else "D"
    if entry.state in "CL":
        return "I" if _other_block(rules, record, entry) else "U"
    return "D"


def apply(
    state: PartitionState,
    log: list[Record],
    log_start: int,
    offset: int,
    verdict: tuple[str, SeenEntry | None],
) -> int | None:
    """Change the windows as a verdict says; return the minute that changed, or None."""
    letter, entry = verdict
    record = source = log[offset]
    key = identity(state.rules, record)
    if letter in "CP":
        sign = 1
    elif letter == "U" and entry is not None and entry.state == "C":
        sign = -1
        if "undo" in state.rules:
            if entry.counted_at is None or state.forgotten(entry.counted_at):
                # Counted so long ago that no window shows it.
                return None
            if entry.counted_at >= log_start:
                source = log[entry.counted_at]
            else:
                # The log no longer holds it: its own values, marked approximate.
                state.approximate |= {key}
    else:
        return None
    if source.event_time < state.floor:
        return None
    minute = source.event_time // MINUTE
    change = Change(key, sign, source.value, offset)
    state.minutes[minute] = (*state.minutes.get(minute, ()), change)
    return minute
