"""How an archiver's batches are cut from the decided records, and rebuilt from an intent. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
import structlog

from aggregator.archiving.decisions import (
    Decided,
    origins_after,
    settle_times,
    swap_at,
    with_values,
)
from aggregator.archiving.intents import (
    MAX_METADATA,
    NO_ROW,
    Intent,
    LogPosition,
    Place,
    pack,
    pack_letters,
    pack_places,
)
from aggregator.clickhouse.writer import HAS_ROW, SIGNS, ArchiveBlock, Span, day_of
from aggregator.contracts.arrays import Array
from aggregator.contracts.event import Swap
from aggregator.contracts.swaps import Swaps
from aggregator.decoding.rows import picked
from aggregator.runtime.errors import Fatal

log = structlog.get_logger(__name__)

# Each day of a batch is a block of its own, and small blocks are expensive for ClickHouse.
MAX_DAYS: Final = 16
# Every offset of a span takes a letter, also where the log has no record.
_MAX_SPAN: Final = 1_000_000


class DecidedQueue:
    """Decided records of one partition in log order, kept in the parts in which they came."""

    def __init__(self) -> None:
        self._parts: deque[Decided] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Decided]:
        return iter(self._parts)

    def add(self, decided: Decided) -> None:
        """Append records that follow all others in the log."""
        if len(decided.swaps):
            self._parts.append(decided)
            self._count += len(decided.swaps)

    def first(self, count: int) -> list[Decided]:
        """Return the first `count` records, or all if there are fewer."""
        found = []
        for part in self._parts:
            if count <= 0:
                break
            found.append(part if len(part.swaps) <= count else part.part(0, count))
            count -= len(part.swaps)
        return found

    def take(self, count: int) -> list[Decided]:
        """Remove the first `count` records and return them."""
        taken = self.first(count)
        for part in taken:
            whole = self._parts.popleft()
            self._count -= len(part.swaps)
            if len(part.swaps) < len(whole.swaps):
                self._parts.appendleft(whole.part(len(part.swaps), len(whole.swaps)))
        return taken

    @property
    def oldest(self) -> int:
        """The timestamp (ms) of the first record; the queue must not be empty."""
        return int(self._parts[0].swaps.records["recorded"][0])


class InsertBatch(msgspec.Struct, frozen=True):
    """What one intent covers; `after` is the position once the batch is archived.

    `decided` are the records as they were decided, none in a batch that is rebuilt. `size` is the
    bytes of the records' values, `oldest` the timestamp of the first record in ms since the epoch.
    """

    intent: Intent
    after: LogPosition
    blocks: list[ArchiveBlock]
    decided: list[Decided]
    size: int
    oldest: int

    @property
    def promised(self) -> LogPosition:
        """The position to commit before the batch is inserted."""
        return msgspec.structs.replace(self.after, intent=self.intent)

    @property
    def next_offset(self) -> int:
        """The end offset of the batch."""
        return self.intent.last + 1

    @property
    def rows(self) -> int:
        """The number of rows."""
        return sum(len(block.swaps) for block in self.blocks)


def blocks_of(parts: Sequence[Swaps], partition: int, ingested_at: int) -> list[ArchiveBlock]:
    """Group the records that have a row into one block per UTC day.

    The days come in the order in which they first occur in the log.
    """
    # A UTC day is a partition of the table. ClickHouse splits a block that spans two of them, and
    # one token cannot cover both halves.
    days: dict[int, list[tuple[Swaps, Array]]] = {}
    for part in parts:
        archived, day = HAS_ROW[part.swaps["verdict"]], day_of(part.swaps["timestamp"])
        for each in dict.fromkeys(day[archived].tolist()):
            places = np.flatnonzero(archived & (day == each))
            days.setdefault(each, []).append((part, places))
    return [ArchiveBlock(partition, day, picked(those), ingested_at) for day, those in days.items()]


def span_of(block: ArchiveBlock) -> Span:
    """Return where a block lies."""
    offsets = block.swaps.offsets
    return Span(block.day, int(offsets[0]), int(offsets[-1]))


def cut(
    decided: DecidedQueue, partition: int, before: LogPosition, *, max_rows: int, now_ms: int
) -> InsertBatch:
    """Take a batch off the front: as many records as an intent and a block can hold.

    `decided` must not be empty; `before` is the position at its begin.
    """
    parts = decided.first(max_rows)
    offsets, letters = _column(parts, "offset"), _column(parts, "verdict")
    days = day_of(_column(parts, "timestamp"))
    clocks = np.concatenate([part.clocks for part in parts])
    negated = {at: place for part in parts for at, place in part.negated.items()}
    count = _within_days(offsets, days, HAS_ROW[letters])
    # How far the letters compress depends on them: equal ones take a few bytes for 50,000 offsets,
    # random ones fill 4 KB after some thousands. So measure, and shorten until it fits; a single
    # record always does.
    while True:
        intent = _intent(offsets[:count], days[:count], letters[:count], negated, now_ms)
        after = _after(before, decided.first(count), int(clocks[count - 1]))
        promised = msgspec.structs.replace(after, intent=intent)
        if len(pack(promised)) <= MAX_METADATA or count == 1:
            break
        count = count * 2 // 3
    taken = decided.take(count)
    swaps = [part.swaps for part in taken]
    return InsertBatch(
        intent,
        after,
        blocks_of(swaps, partition, now_ms),
        taken,
        sum(int(part.records["size"].sum()) for part in swaps),
        int(swaps[0].records["recorded"][0]),
    )


def _column(parts: Sequence[Decided], name: str) -> Array:
    return np.concatenate([part.swaps.swaps[name] for part in parts])


def _after(before: LogPosition, parts: Sequence[Decided], clock: int) -> LogPosition:
    origins = before.origins
    for part in parts:
        origins = origins_after(origins, part.swaps)
    return msgspec.structs.replace(before, clock=clock, origins=origins, intent=None)


def _within_days(offsets: Array, days: Array, archived: Array) -> int:
    """Return how many of the first records lie in at most MAX_DAYS days and _MAX_SPAN offsets."""
    count = int(np.searchsorted(offsets, offsets[0] + _MAX_SPAN))
    places = np.flatnonzero(archived[:count])
    _, begins = np.unique(days[places], return_index=True)
    return count if len(begins) <= MAX_DAYS else int(places[np.sort(begins)[MAX_DAYS]])


def _intent(
    offsets: Array, days: Array, letters: Array, negated: Mapping[int, Place], now_ms: int
) -> Intent:
    first, last = int(offsets[0]), int(offsets[-1])
    archived = HAS_ROW[letters]
    # One letter for every offset of the range: its place alone says which offset it is about.
    packed = np.full(last - first + 1, ord(NO_ROW), np.uint8)
    packed[offsets[archived] - first] = letters[archived]
    places = [negated[at] for at in offsets[SIGNS[letters] < 0].tolist()]
    offsets, days = offsets[archived], days[archived]
    spans = []
    for day in dict.fromkeys(days.tolist()):
        of_day = offsets[days == day]
        spans.append((day, int(of_day[0]), int(of_day[-1])))
    return Intent(first, last, now_ms, spans, pack_letters(packed), pack_places(places))


class Rebuilding:
    """An intent that is built again from the records that it names.

    `parts` are the decoded records of [first, last]. `asked` are the places of the negated rows
    that the archive must be asked for.
    """

    def __init__(
        self, intent: Intent, position: LogPosition, partition: int, parts: Sequence[Swaps]
    ) -> None:
        self._intent = intent
        self._after = msgspec.structs.replace(position, intent=None)
        self._partition = partition
        self._parts = parts
        letters = intent.letters()
        minus = np.flatnonzero(SIGNS[letters] < 0) + intent.first
        self._negated = dict(zip(minus.tolist(), intent.negated_places(), strict=True))
        self.asked = [place for place in self._negated.values() if not self._own(place)]

    def _own(self, place: Place) -> bool:
        within = self._intent.first <= place.offset <= self._intent.last
        return place.partition == self._partition and within

    def batch(self, rows: Mapping[Place, Swap], max_future_ms: int) -> InsertBatch:
        """Return the batch; `rows` are the rows at `asked`.

        Raises Fatal if the log does not hold what was decided.
        """
        intent, letters = self._intent, self._intent.letters().copy()
        values = self._own_rows() | dict(rows)
        gone = {at for at, place in self._negated.items() if place not in values}
        for at in gone:
            # ARCHIVE_KEEP has taken the row meanwhile, and would take its negative as well.
            log.error("negated_row_gone", partition=self._partition, offset=at)
            letters[at - intent.first] = ord(NO_ROW)
        parts = [self._filled(part, letters, values, max_future_ms) for part in self._parts]
        blocks = blocks_of(parts, self._partition, intent.decided_at)
        # ClickHouse drops a block by its token without a look at its rows. Other rows under a token
        # that is taken would be lost without notice, so stop here if the records changed.
        rows_built = sum(len(block.swaps) for block in blocks)
        spans = [span_of(block) for block in blocks]
        if rows_built != HAS_ROW[letters].sum() or (not gone and spans != intent.block_spans()):
            raise Fatal(
                f"partition {self._partition}: the records {intent.first} to {intent.last} are not "
                "those that were to be archived: MAX_FUTURE was changed, or the topic was created "
                "again"
            )
        return InsertBatch(
            intent,
            self._after,
            blocks,
            [],
            sum(int(part.records["size"].sum()) for part in parts),
            int(parts[0].records["recorded"][0]) if parts else intent.decided_at,
        )

    def _own_rows(self) -> dict[Place, Swap]:
        wanted = {place.offset for place in self._negated.values() if self._own(place)}
        return {
            Place(self._partition, int(part.offsets[place])): swap_at(part, place)
            for part in self._parts
            for place in np.flatnonzero(np.isin(part.offsets, list(wanted))).tolist()
            if wanted
        }

    def _filled(
        self, part: Swaps, letters: Array, values: Mapping[Place, Swap], max_future_ms: int
    ) -> Swaps:
        part.swaps["verdict"] = letters[part.offsets - self._intent.first]
        part.swaps["verdict"][part.records["bad"]] = ord(NO_ROW)
        settle_times(part, max_future_ms)
        first, last = int(part.offsets[0]), int(part.offsets[-1])
        return with_values(
            part,
            {
                at: values[place]
                for at, place in self._negated.items()
                if first <= at <= last and place in values
            },
        )
