"""An owner of one partition that archives: settle the intent, fill Seen, decide, insert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.model import saves
from tests.model.engines import FencedOff, NoAnswer
from tests.model.fold import PartitionState, judge
from tests.model.rules import (
    ABANDONED,
    AHEAD,
    GRACE,
    MINUTE,
    NEVER,
    TTL,
    ArchiveRow,
    Record,
    SeenEntry,
    identity,
)

if TYPE_CHECKING:
    from tests.model.world import ModelWorld

GROUP = "archiver"
SIGNS = {"C": 1, "L": 1, "U": -1, "u": -1}
POISON = "-"


class ModelIntent(NamedTuple):
    """Offsets [first, last], and of each row its offset, its letter and the place it negates."""

    first: int
    last: int
    decisions: list[tuple[int, str, tuple[int, int] | None]]


class ArchivePosition(NamedTuple):
    """The commit metadata: clock and origins after the intent, and the epoch of Seen's filling."""

    clock: int = NEVER
    origins: Mapping[int, int] = MappingProxyType({})
    intent: ModelIntent | None = None
    epoch: int = 0


def standing(key: Any, rows: list[ArchiveRow]) -> list[ArchiveRow]:
    """Return the rows of sign +1 of an id that no row of sign -1 has taken out, oldest first."""
    up: list[ArchiveRow] = []
    for row in sorted((row for row in rows if row.identity == key and row.sign), key=_place):
        if row.sign > 0:
            up.append(row)
        elif up:
            same = (each for each in reversed(up) if _values(each) == _values(row))
            up.remove(next(same, up[-1]))
    return up


def entry_of(rules: frozenset[str], key: Any, rows: list[ArchiveRow]) -> SeenEntry | None:
    """Return the entry that the rows of an id make, in the order of offsets."""
    state = PartitionState(rules)
    for row in sorted((row for row in rows if row.identity == key), key=lambda row: row.offset):
        state.note(row.offset, row.identity, row.letter, row.block, 0)
    return state.entries.get(key)


def row_of(
    world: ModelWorld,
    partition: int,
    offset: int,
    letter: str,
    negated: tuple[int, int] | None,
    rows: list[ArchiveRow],
) -> ArchiveRow:
    """Return the row of an offset; a -1 is the negative of the row that it takes out."""
    record = world.kafka.log[partition][offset]
    values = (record.block, record.event_time // MINUTE, record.value, record.event_time)
    if negated:
        values = next((_values(row) for row in rows if _place(row) == negated), values)
    key = identity(world.rules, record)
    sign = SIGNS.get(letter, 0)
    return ArchiveRow(partition, offset, key, letter, sign, *values, world.now)


def take_out(
    rules: frozenset[str], record: Record, letter: str, rows: list[ArchiveRow]
) -> tuple[str, tuple[int, int] | None]:
    """Return the letter of a retraction in the archive, and the place of the row it negates."""
    if record.kind != "R" or letter not in "UIDTG" or "mirror" not in rules:
        return letter, None
    up = standing(identity(rules, record), rows)
    leaves = 1 if letter == "I" else 0
    if len(up) <= leaves:
        # Its add is in a gap of the archive.
        return ("G" if letter == "U" else letter), None
    of_block = [row for row in up if row.block and row.block == record.block]
    negated = _place((of_block or up[-1:])[0])
    return ("U" if letter == "U" else "u"), negated


def _place(row: ArchiveRow) -> tuple[int, int]:
    return row.partition, row.offset


def _values(row: ArchiveRow) -> tuple[Any, ...]:
    return row.block, row.minute, row.value, row.event_time


class ArchivingWorker:
    """Runs as a generator: each `yield` is a point at which anything may happen to it."""

    def __init__(self, world: ModelWorld, partition: int, member: int) -> None:
        self._world, self._partition, self._member = world, partition, member
        self._rules = world.rules
        self._connection: dict[int, int] = {}
        self._skew = 0
        self._next_offset = self._epoch = 0

    def run(self) -> Iterator[None]:
        """Own the partition until another member has it, or until asked to stop."""
        self._skew = self._world.random.randint(-20, 20)
        while self._mine():
            try:
                if (yield from self._own()):
                    return
            except NoAnswer:
                yield
            except FencedOff:
                return

    def _mine(self) -> bool:
        return self._world.kafka.owner.get((GROUP, self._partition)) == self._member

    def _own(self) -> Iterator[None]:
        """Return True where the worker ends; return where it has to begin again."""
        world, partition, kafka = self._world, self._partition, self._world.kafka
        self._next_offset, metadata = kafka.committed[GROUP, partition]
        yield
        position = metadata or ArchivePosition()
        self._epoch = position.epoch
        if position.intent:
            yield from self._settle(position)
        if world.backfills_run:
            yield from self._wait_for_backfill(position)
        saved = None
        if "own" not in self._rules:
            redis = world.redis_of(partition)
            saved, _ = saves.load(world, redis, self._connection, partition)
            yield
        state = self._fill(position, saved)
        while True:
            if not self._mine() and world.noticed():
                return True
            if self._next_offset < kafka.start[partition]:
                if "gap" in self._rules:
                    gap = (self._next_offset, kafka.start[partition])
                    world.gaps[GROUP, partition].append(gap)
                self._next_offset = kafka.start[partition]
                self._commit(state)
                yield
            if world.stopping.get((GROUP, partition)) == self._member:
                return True
            if world.backfills_run and "refill" in self._rules:
                number, _ = world.clickhouse.epochs[partition]
                yield
                if number != self._epoch:
                    return False
            end = self._next_offset + world.random.randint(1, 4)
            last = min(end, len(kafka.log[partition])) - 1
            if last < self._next_offset:
                yield
                continue
            yield from self._archive(state, last)

    def _settle(self, position: ArchivePosition) -> Iterator[None]:
        """Redo exactly what was decided, before anything else."""
        world, partition, clickhouse = self._world, self._partition, self._world.clickhouse
        start = world.kafka.start[partition]
        first, last, decisions = position.intent
        token = f"{partition}:{first}-{last}"

        def landed() -> bool:
            return any(
                first <= row.offset <= last and row.letter != POISON
                for row in clickhouse.rows_of(partition)
            )

        if first < start and "gap" in self._rules:
            if decisions and not landed():
                poison = ArchiveRow(partition, first, None, POISON, 0, None, 0, 0, 0, 0)
                clickhouse.insert(token, [poison])
                yield
                if not landed():
                    world.gaps[GROUP, partition].append((first, last + 1))
        elif "lease" not in self._rules or not landed():
            rows: list[ArchiveRow] = []
            began = world.now
            for offset, letter, negated in decisions:
                if offset >= start:
                    known = [*rows, *clickhouse.rows]
                    rows.append(row_of(world, partition, offset, letter, negated, known))
            yield
            age = world.now - began if "lease" in self._rules else 0
            clickhouse.insert(token, rows, age)
            yield
        self._next_offset = last + 1
        # The clock and the origins are those after the batch.
        settled = position._replace(intent=None)
        world.kafka.commit(GROUP, partition, self._member, self._next_offset, settled)
        yield

    def _wait_for_backfill(self, position: ArchivePosition) -> Iterator[None]:
        """Report the epoch with no intent open, and wait while a backfill may be inserting."""
        world, partition = self._world, self._partition
        while True:
            number, raised_at = world.clickhouse.epochs[partition]
            yield
            if number != self._epoch:
                self._epoch = number
                seen = position._replace(intent=None, epoch=number)
                world.kafka.commit(GROUP, partition, self._member, self._next_offset, seen)
                yield
            writing = number % 2 and world.now - raised_at <= ABANDONED
            if not writing or "refill" not in self._rules:
                return
            yield

    def _fill(self, position: ArchivePosition, saved: PartitionState | None) -> PartitionState:
        """Return the state at the committed offset, from what was archived within TTL."""
        world = self._world
        state = PartitionState(self._rules, self._next_offset)
        if "clock" in self._rules:
            state.clock, state.origins = position.clock, dict(position.origins)
        if "own" not in self._rules and saved:
            # Without the rule: what the aggregator's blocks say.
            for offset in sorted(saved.words):
                if offset < self._next_offset:
                    state.note(offset, *saved.words[offset])
            state.block_ends, state.first_block = dict(saved.block_ends), saved.first_block
            state.origins = dict(saved.origins)
            return state
        rows = [
            row
            for row in world.clickhouse.rows_of(self._partition)
            if row.offset < self._next_offset and row.identity
        ]
        for row in sorted(rows, key=lambda row: row.offset):
            # All that came in within TTL, and some more.
            if row.ingested_at >= state.clock - TTL - AHEAD:
                state.note(row.offset, row.identity, row.letter, row.block, world.now)
        state.entries = {
            key: entry._replace(at=self._next_offset) for key, entry in state.entries.items()
        }
        return state

    def _archive(self, state: PartitionState, last: int) -> Iterator[None]:
        world, partition = self._world, self._partition
        first = self._next_offset
        decisions, rows = self._decide(state, last)
        yield
        if "intent" in self._rules:
            self._commit(state, ModelIntent(first, last, decisions))
        promised_at = world.now
        yield
        age = world.now - promised_at if "lease" in self._rules else 0
        world.clickhouse.insert(f"{partition}:{first}-{last}", rows, age)
        yield
        self._next_offset = last + 1
        self._commit(state)
        yield

    def _decide(
        self, state: PartitionState, last: int
    ) -> tuple[list[tuple[int, str, tuple[int, int] | None]], list[ArchiveRow]]:
        world, partition, rules = self._world, self._partition, self._rules
        archived = world.clickhouse.rows
        decisions: list[tuple[int, str, tuple[int, int] | None]] = []
        rows: list[ArchiveRow] = []

        def look_up(key: Any, record: Record) -> SeenEntry | None:
            on_time = record.kind == "E" and record.event_time >= state.clock - GRACE
            if "rows" not in rules or on_time:
                return None
            return entry_of(rules, key, [*archived, *rows])

        for offset in range(self._next_offset, last + 1):
            record = world.kafka.log[partition][offset]
            state.machine_time = world.now + self._skew
            away = world.home(record.token) != partition
            letter, entry = judge(state, offset, record, away, look_up)
            key = identity(rules, record)
            if letter in "Nn" and key not in state.entries and entry:
                state.entries[key] = entry
            state.note(offset, key, letter, record.block, record.timestamp)
            letter, negated = take_out(rules, record, letter, [*archived, *rows])
            if letter in "CLUVTGNnPu":
                decisions.append((offset, letter, negated))
                known = [*rows, *archived]
                rows.append(row_of(world, partition, offset, letter, negated, known))
        return decisions, rows

    def _commit(self, state: PartitionState, intent: ModelIntent | None = None) -> None:
        position = ArchivePosition(state.clock, dict(state.origins), intent, self._epoch)
        self._world.kafka.commit(GROUP, self._partition, self._member, self._next_offset, position)
