"""The decided ids of a partition: the fold of its log, the log clock, and what a save needs.

A verdict is a function of the records before it. The state is saved together with the windows, and
any owner that continues from a save decides as this one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.seen import NEVER, SeenHeader
from aggregator.contracts.swaps import ABSENT, RECORD, SWAP, Swaps
from aggregator.seen import journal as journals
from aggregator.seen.journal import NONE
from aggregator.seen.kernels import (
    AHEAD,
    Batch,
    fold_words,
    judge,
    present,
    reindex,
    transitions,
)
from aggregator.seen.known import NOTHING_KNOWN, Known
from aggregator.seen.saving import closed_blocks, tail_sections, with_saved_words
from aggregator.seen.words import BLOCK_BITS

__all__ = ["Known", "Seen", "SeenChanges", "SeenHeader", "Verdicts", "compile_seen"]

_NO_ORIGINS: Final = np.empty(0, np.int64)
_MORE_MOVED: Final = 1024


class Verdicts(NamedTuple):
    """What was decided about each record.

    `letters` (uint8) are letters of `Verdict`. `counted_at` (int64) is, for a U, the offset of the
    swap to be taken out of the windows. It is NONE (-1) for every other letter, and where there is
    nothing to take out: the swap stood as late, or counted in a block that is forgotten, or its
    entry came from the archive.
    """

    letters: Array
    counted_at: Array


class SeenChanges(NamedTuple):
    """What a save adds to the save before it.

    `blocks` are those that were closed since, by number, and `sections` the tail sections that
    changed, both in the format of `words.py`. `dropped` names tail sections of a block that closed,
    and `forgotten` lists blocks that the header covers no more.
    """

    header: SeenHeader
    blocks: dict[int, bytes]
    sections: dict[bytes, bytes]
    dropped: list[bytes]
    forgotten: list[int]


class Seen:
    """The ids that a partition has decided up to `next_offset`.

    An id is forgotten once the log clock is more than `ttl_ms` past the clock at which the block of
    its last transition closed. An add counts on time if its event time is at least the clock less
    `grace_ms`, and at least `floor`. `clock` and `origins` are those of the records before
    `next_offset`. With `by_event_time` the clock follows min(event time, record timestamp +
    `max_future_ms`) of the records that are not bad, otherwise the timestamps of all records.
    """

    def __init__(
        self,
        *,
        ttl_ms: int,
        grace_ms: int,
        max_future_ms: int,
        next_offset: int,
        clock: int | None = None,
        floor: int = NEVER,
        origins: Mapping[int, int] | None = None,
        by_event_time: bool = False,
    ) -> None:
        self._journal = journals.new_journal(next_offset >> BLOCK_BITS)
        numbers = self._numbers
        numbers["next_offset"], numbers["floor"] = next_offset, floor
        numbers["clock"] = NEVER if clock is None else clock
        numbers["ttl"], numbers["grace"] = ttl_ms, grace_ms
        numbers["max_future"], numbers["by_event_time"] = max_future_ms, by_event_time
        self._origins = dict(origins or {})
        self._remembered = NOTHING_KNOWN
        self._hashes = np.empty(AHEAD, np.uint64)
        self._spare = np.empty(AHEAD + 1, np.uint64)
        # What the save before holds: blocks below `_saved_block`, and records below `_saved_offset`
        # of the block that was open then.
        self._saved_first = self._saved_block = next_offset >> BLOCK_BITS
        self._saved_offset = next_offset
        self._saved_sections: set[bytes] = set()

    @property
    def next_offset(self) -> int:
        """The first offset that is not judged yet."""
        return int(self._numbers["next_offset"])

    @property
    def clock(self) -> int | None:
        """The log clock (ms), None before the first record that moves it."""
        clock = int(self._numbers["clock"])
        return None if clock == NEVER else clock

    @property
    def floor(self) -> int:
        """The time (ms) below which every add is late; NEVER where there is none."""
        return int(self._numbers["floor"])

    @property
    def origins(self) -> dict[int, int]:
        """The highest origin offset seen of each partition that forwarded records here."""
        return dict(self._origins)

    @property
    def ids(self) -> int:
        """How many ids the journal has an entry of."""
        return int(self._numbers["ids"])

    @property
    def memory_bytes(self) -> int:
        """The bytes of memory that the state uses."""
        remembered = self._remembered.entries
        return (
            journals.memory_bytes(self._journal) + remembered.words.nbytes + remembered.table.nbytes
        )

    def clocks(self, swaps: Swaps) -> Array:
        """Return the log clock after each record (int64, ms), and change nothing.

        NEVER until a record moves it.
        """
        times = swaps.records["recorded"]
        if self._numbers["by_event_time"]:
            newest = times + self._numbers["max_future"]
            times = np.minimum(swaps.swaps["timestamp"], newest)
            times = np.where(swaps.records["bad"], NEVER, times)
        clocks: Array = np.maximum.accumulate(np.maximum(times, self._numbers["clock"]))
        return clocks

    def has(self, swaps: Swaps, places: Array) -> Array:
        """Return which of the records at `places` have an entry of their id now (bool).

        Of entries that the clock of the record itself may outlast, False is returned.
        """
        found = np.empty(len(places), np.bool_)
        present(
            self._journal,
            self._remembered.entries,
            swaps.markers,
            np.ascontiguousarray(places, np.int64),
            self.clocks(swaps),
            found,
        )
        return found

    def judge(self, swaps: Swaps, away: Array, known: Known | None = None) -> Verdicts:
        """Decide consecutive records of the log, and move the state past them.

        `away` (bool) says of which records the token's home is another partition. `known` is
        consulted for ids of which neither the journal nor the remembered entries have one. Raises
        ValueError, and changes nothing, unless the offsets ascend from `next_offset`.
        """
        count = len(swaps)
        verdicts = Verdicts(np.empty(count, np.uint8), np.empty(count, np.int64))
        if not count:
            return verdicts
        offsets = swaps.offsets
        if offsets[0] < self.next_offset or (offsets[1:] <= offsets[:-1]).any():
            raise ValueError(f"offsets from {offsets[0]} do not ascend from {self.next_offset}")
        partitions, origin_places, highest = self._highest_origins(swaps)
        batch = Batch(
            swaps.swaps,
            swaps.records,
            swaps.markers,
            np.ascontiguousarray(away),
            origin_places,
            highest,
            self._hashes,
            self._spare,
            *verdicts,
        )
        remembered = self._remembered.entries
        entries = (NOTHING_KNOWN if known is None else known).entries
        begin = 0
        while (begin := judge(self._journal, remembered, entries, batch, begin)) < count:
            self._make_room()
        self._origins.update(
            (partition, offset)
            for partition, offset in zip(partitions.tolist(), highest.tolist(), strict=True)
            if offset >= 0
        )
        if self._numbers["clock"] > self._numbers["remembered_until"]:
            self._remembered = NOTHING_KNOWN
        return verdicts

    def remember(self, known: Known, until_clock: int) -> None:
        """Use these entries for ids that the journal has none of, until the clock is past a time.

        They replace those of an earlier call. `known` is not changed.
        """
        self._remembered = known.copy()
        self._numbers["remembered_until"] = until_clock

    def skip_to(self, offset: int) -> None:
        """Move `next_offset` up over offsets without records; a lower offset changes nothing."""
        self._numbers["next_offset"] = max(self.next_offset, offset)

    def changes(self) -> SeenChanges:
        """Return what changed since the last call of this or of `whole`."""
        return self._save(whole=False)

    def whole(self) -> SeenChanges:
        """Return all blocks and tail sections; nothing counts as changed after that."""
        return self._save(whole=True)

    @classmethod
    def restore(
        cls,
        header: SeenHeader,
        blocks: Mapping[int, bytes],
        sections: Mapping[bytes, bytes],
        *,
        ttl_ms: int,
        grace_ms: int,
        max_future_ms: int,
        by_event_time: bool = False,
    ) -> Seen:
        """Return the state of a save.

        `blocks` holds all that the header covers, `sections` those of the open block. Raises
        ValueError if one is missing or not in its format.
        """
        seen = cls(
            ttl_ms=ttl_ms,
            grace_ms=grace_ms,
            max_future_ms=max_future_ms,
            next_offset=header.next_offset,
            clock=header.clock,
            floor=header.floor,
            origins=header.origins,
            by_event_time=by_event_time,
        )
        seen._load(header, blocks, sections)
        return seen

    @property
    def _numbers(self) -> np.void:
        numbers: np.void = self._journal.state[0]
        return numbers

    def _highest_origins(self, swaps: Swaps) -> tuple[Array, Array, Array]:
        """Return the origin partitions, each record's place among them, and their offsets."""
        origins = swaps.records["origin_partition"]
        if (origins < 0).all():
            return _NO_ORIGINS, _NO_ORIGINS, _NO_ORIGINS
        partitions, places = np.unique(origins, return_inverse=True)
        highest = [self._origins.get(partition, NONE) for partition in partitions.tolist()]
        return partitions, places.astype(np.int64), np.array(highest, np.int64)

    def _make_room(self) -> None:
        """Give more room to each part of the journal that has none for another record."""
        numbers = self._numbers
        if numbers["free"] == NONE and numbers["fresh"] == len(self._journal.slots):
            self._journal = journals.with_slots(self._journal, len(self._journal.slots) + 1)
        if numbers["ids"] >= numbers["most_ids"]:
            self._more_ids(self.ids)
        if numbers["moved_end"] == len(self._journal.moved):
            self._journal = journals.with_moved(self._journal, _MORE_MOVED)

    def _more_ids(self, ids: int) -> None:
        """Move all ids to a table with room for so many and some more."""
        table = journals.new_table(ids)
        reindex(self._journal, table)
        self._journal = self._journal._replace(table=table)
        self._numbers["most_ids"] = journals.most_ids(table)

    def _save(self, whole: bool) -> SeenChanges:
        slots, numbers = self._journal.slots, self._numbers
        first, last = (int(slots[numbers[place]]["number"]) for place in ("first", "open"))
        header = SeenHeader(
            next_offset=self.next_offset,
            clock=self.clock,
            floor=self.floor,
            origins=self.origins,
            first_block=first,
            open_block=last,
        )
        begin = first if whole else max(first, self._saved_block)
        blocks = closed_blocks(self._journal, begin, last)
        same_block = last == self._saved_block and not whole
        sections = tail_sections(self._journal, self._saved_offset if same_block else 0)
        dropped = set() if whole or same_block else self._saved_sections - sections.keys()
        # A block that no save has held need not be deleted from one.
        forgotten = list(range(self._saved_first, min(first, self._saved_block)))
        self._saved_sections = (self._saved_sections if same_block else set()) | sections.keys()
        self._saved_first, self._saved_block = first, last
        self._saved_offset = self.next_offset
        return SeenChanges(header, blocks, sections, sorted(dropped), forgotten)

    def _load(
        self, header: SeenHeader, blocks: Mapping[int, bytes], sections: Mapping[bytes, bytes]
    ) -> None:
        """Take over the words of a save into the new journal."""
        self._journal = with_saved_words(self._journal, header, blocks, sections)
        # The slots are in the order of the log.
        place = int(self._numbers["first"]) << BLOCK_BITS
        end = (int(self._numbers["open"]) + 1) << BLOCK_BITS
        self._more_ids(transitions(self._journal.words[place:end]))
        scratch = self._hashes, self._spare
        while (place := fold_words(self._journal, place, end, *scratch)) < end:
            self._make_room()
        self._saved_first, self._saved_block = header.first_block, header.open_block
        self._saved_sections = set(sections)


class _Sample(NamedTuple):
    """Rows of the archive, for `compile_seen`."""

    markers: Array
    letters: Array
    offsets: Array
    block_checks: Array


def compile_seen() -> None:
    """Compile the loops, or load them from numba's cache; takes seconds on the first start."""
    swaps = Swaps(
        swaps=np.zeros(1, SWAP),
        records=np.zeros(1, RECORD),
        markers=np.zeros((1, 2), np.uint64),
        spans=np.empty((1, 0, 2), np.int32),
        text=np.empty(0, np.uint8),
        token_names=[],
    )
    swaps.records["origin_partition"] = ABSENT
    rows = _Sample(swaps.markers, np.full(1, ord("C"), np.uint8), swaps.offsets, np.zeros(1))
    seen = Seen(ttl_ms=1, grace_ms=1, max_future_ms=1, next_offset=0)
    seen.judge(swaps, np.zeros(1, np.bool_), Known.of(rows))
    seen.has(swaps, np.zeros(1, np.int64))
    whole = seen.whole()
    Seen.restore(whole.header, whole.blocks, whole.sections, ttl_ms=1, grace_ms=1, max_future_ms=1)
