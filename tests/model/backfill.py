"""An operator's backfill of one partition: archives what the archive lacks, beside the archiver."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tests.model.archiver import GROUP, entry_of, row_of, take_out
from tests.model.fold import PartitionState, judge
from tests.model.rules import BACKFILL_LEASE, ArchiveRow, Record, identity

if TYPE_CHECKING:
    from tests.model.world import ModelWorld

# Every swap is late for a backfill: whether it was on time is not known any more.
_ALL_LATE = 10**6


def backfill(world: ModelWorld, partition: int) -> Iterator[None]:
    """Raise the epoch, wait for the archiver, insert what is missing, raise the epoch again."""
    epochs = world.clickhouse.epochs
    end, _ = world.kafka.committed[GROUP, partition]
    while True:
        number, _ = epochs[partition]
        odd = number + 1 + number % 2
        epochs[partition] = (odd, world.now)
        raised_at = world.now
        yield
        while not _archiver_waits(world, partition, odd):
            yield
        rows = missing_rows(world, partition, end)
        yield
        if world.now - raised_at > BACKFILL_LEASE:
            # The archiver may have gone on.
            continue
        world.clickhouse.insert(f"{partition}:backfill", rows)
        yield
        epochs[partition] = (odd + 1, world.now)
        return


def _archiver_waits(world: ModelWorld, partition: int, epoch: int) -> bool:
    _, position = world.kafka.committed[GROUP, partition]
    if position and position.intent:
        return False
    if not {"settled", "refill"} <= world.rules:
        return True
    return position is not None and position.epoch >= epoch


def _is_decided(
    record: Record, offset: int, known: list[ArchiveRow], archived: list[ArchiveRow]
) -> bool:
    """Return whether a record without a row is left as it is.

    A later row of its id was decided with it, or without it. And a forward may be a repeated one,
    of which the log no longer holds the first.
    """
    if any(row.offset > offset for row in known):
        return True
    return bool(record.origin) and any(row in archived for row in known)


def missing_rows(world: ModelWorld, partition: int, end: int) -> list[ArchiveRow]:
    """Return the rows that the log below `end` makes and the archive lacks."""
    rules, archived = world.rules, world.clickhouse.rows
    there = {row.offset for row in world.clickhouse.rows_of(partition)}
    rows: list[ArchiveRow] = []
    origins: dict[int, int] = {}
    for offset in range(world.kafka.start[partition], end):
        record = world.kafka.log[partition][offset]
        key = identity(rules, record)
        known = [row for row in [*archived, *rows] if row.identity == key]
        state = PartitionState(rules, offset, _ALL_LATE)
        state.origins = origins
        if entry := entry_of(rules, key, known):
            state.entries[key] = entry._replace(at=offset)
        letter, _ = judge(state, offset, record, world.home(record.token) != partition)
        if offset in there or _is_decided(record, offset, known, archived):
            continue
        letter, negated = take_out(rules, record, letter, known)
        if letter in "CLUVTGNnPu":
            rows.append(row_of(world, partition, offset, letter, negated, known))
    return rows
