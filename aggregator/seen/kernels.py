"""The compiled loops: decide a batch, fold saved words, look ids up.

All change the arrays of a `Journal` in place. A loop that runs out of room stops before the record
that needs more; the caller makes room and continues there. `words.py` and `journal.py` say what the
arrays mean. Pure.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.runtime.compiled import compiled
from aggregator.seen.journal import DISTANCE_BITS, NONE, Journal, KnownEntries
from aggregator.seen.words import (
    BLOCK_BITS,
    BLOCK_WORDS,
    CODES,
    COUNTED,
    LATE,
    LATE_N,
    LETTER,
    NOTHING,
    REMOVED_FIRST,
    STATES,
    B,
    C,
    D,
    F,
    I,
    L,
    M,
    N,
    P,
    T,
    U,
    V,
)

AHEAD: Final = 1024
"""Ids of which the table is read ahead: few enough that the cache holds it until it is needed."""

_IN_BLOCK: Final = BLOCK_WORDS - 1
_CHECK: Final = 0xFFF
_CODE_SHIFT: Final = 12
_HALF: Final = np.uint64(32)
_LOW_HALF: Final = np.uint64(0xFFFFFFFF)
_LOW_16: Final = np.uint64(0xFFFF)

Key = tuple[int, int, int]
"""80 bits of a marker, as in WORD, and their hash."""


class Batch(NamedTuple):
    """Records to decide, and where to write the verdicts; one entry per record unless stated.

    `swaps`, `records` and `markers` are those of `Swaps`, `letters` and `counted_at` those of
    `Verdicts`. `origins` (int64) are the highest offsets of some origin partitions, and
    `origin_places` (int64) the places there of the records' partitions. Scratch space are `hashes`
    (uint64, AHEAD) and `spare` (uint64, AHEAD + 1).
    """

    swaps: Array
    records: Array
    markers: Array
    away: Array
    origin_places: Array
    origins: Array
    hashes: Array
    spare: Array
    letters: Array
    counted_at: Array


@compiled
def _hash(low: int, secret: Array) -> int:
    """Return the keyed hash of 64 bits of a marker."""
    # Markers are hashes, so their bits are even already. What the two secret multiplications add is
    # that nobody outside can compute which ids will be neighbours.
    mixed = (low ^ secret[0]) * secret[1]
    return (mixed ^ (mixed >> _HALF)) * secret[2]


@compiled
def _home(hashed: int, table: Array) -> int:
    """Return the position at which the search for an id begins."""
    # High bits times length: any length will do, and a longer index keeps the order of the ids.
    return np.int64(((hashed >> _HALF) * np.uint64(len(table))) >> _HALF)


@compiled
def _distance(home: int, position: int, table: Array) -> int:
    """Return how far a position is from a home, around the end of the table."""
    distance = position - home
    return distance + len(table) if distance < 0 else distance


@compiled
def _table_entry(hashed: int, distance: int, place: int, bits: int) -> int:
    """Return the entry that names `place`, at a distance from its home (`Journal` has the form)."""
    near = min(DISTANCE_BITS, 32 - bits)
    mark = np.int64(hashed & _LOW_HALF) >> (bits + near) << (bits + near)
    return mark | min(distance, (1 << near) - 1) << bits | place


@compiled
def _find(words: Array, table: Array, bits: int, key: Key) -> tuple[int, int]:
    """Return the position of an id in the table and the place of its word.

    The place is 0, and the position a free one, where the table does not hold the id.
    """
    low, high, hashed = key
    position, distance = _home(hashed, table), 0
    while True:
        entry = np.int64(table[position])
        if entry == 0:
            return position, 0
        if entry >> bits == _table_entry(hashed, distance, 0, bits) >> bits:
            place = entry & ((1 << bits) - 1)
            word = words[place]
            if word.low == low and word.high == high:
                return position, place
        distance += 1
        position += 1
        if position == len(table):
            position = 0


@compiled
def _remove(journal: Journal, position: int) -> None:
    """Free a position, moving the entries after it up so that no search for them is cut short."""
    words, table, bits = journal.words, journal.table, journal.state[0].place_bits
    mask = (1 << bits) - 1
    far = (1 << min(DISTANCE_BITS, 32 - bits)) - 1
    following, room = position, 0
    while True:
        following += 1
        room += 1
        if following == len(table):
            following = 0
        entry = np.int64(table[following])
        if entry == 0:
            break
        distance = entry >> bits & far
        if distance == far:
            home = _home(_hash(words[entry & mask].low, journal.secret), table)
            distance = _distance(home, following, table)
        # An entry may move up to the free position only if its own search begins there or earlier.
        if distance >= room:
            near = min(distance - room, far)
            table[position] = entry & ~(far << bits) | near << bits
            position, room = following, 0
    table[position] = 0


@compiled
def _position(table: Array, mask: int, home: int, place: int) -> int:
    """Return the position of the entry that names `place`, searching from `home`, or NONE."""
    position = home
    while table[position] & mask != place:
        if table[position] == 0:
            return NONE
        position += 1
        if position == len(table):
            position = 0
    return position


@compiled
def _remove_words(journal: Journal, begin: int, end: int, hashes: Array) -> None:
    """Remove the ids whose last transitions are at the places [begin, end)."""
    words, table, state = journal.words, journal.table, journal.state[0]
    mask = (1 << state.place_bits) - 1
    touched = np.uint64(0)
    for place in range(begin, end):
        hashed = _hash(words[place].low, journal.secret)
        hashes[place - begin] = hashed
        # For the memory's sake, as in `judge`.
        touched += table[_home(hashed, table)]
    for place in range(begin, end):
        if STATES[words[place].rest >> _CODE_SHIFT] == NOTHING:
            continue
        # An id with a later transition has an entry that names that one.
        position = _position(table, mask, _home(hashes[place - begin], table), place)
        if position != NONE:
            _remove(journal, position)
            state.ids -= 1
    hashes[AHEAD] = touched


@compiled
def _forget(journal: Journal, hashes: Array) -> None:
    """Forget the blocks whose time is over by the log clock."""
    slots, state, moved = journal.slots, journal.state[0], journal.moved
    while state.first != state.open and state.clock > slots[state.first].end + state.ttl:
        slot = slots[state.first]
        first = state.first << BLOCK_BITS
        for begin in range(first, first + BLOCK_WORDS, AHEAD):
            _remove_words(journal, begin, begin + AHEAD, hashes)
        freed, state.first = state.first, slot.after
        slot.number, slot.after = NONE, state.free
        state.free = freed
        oldest = slots[state.first].number << BLOCK_BITS
        while state.moved_begin < state.moved_end and moved[state.moved_begin].offset < oldest:
            state.moved_begin += 1


@compiled
def _open_block(journal: Journal, number: int) -> None:
    """Close the open block and open block `number` in a free slot."""
    state, slots = journal.state[0], journal.slots
    slots[state.open].end = state.clock
    if state.free == NONE:
        taken = state.fresh
        state.fresh += 1
    else:
        taken = state.free
        state.free = slots[taken].after
    slots[state.open].after = taken
    slot = slots[taken]
    slot.number, slot.after = number, NONE
    for place in range(taken << BLOCK_BITS, (taken + 1) << BLOCK_BITS):
        word = journal.words[place]
        word.low = word.high = word.rest = 0
    state.open = taken


@compiled
def _offset(journal: Journal, place: int) -> int:
    """Return the offset of a place."""
    return (journal.slots[place >> BLOCK_BITS].number << BLOCK_BITS) + (place & _IN_BLOCK)


@compiled
def _counted_at(journal: Journal, place: int) -> int:
    """Return the offset at which the swap of an entry counted, NONE where it stands as late.

    NONE too where that offset lies in a forgotten block: no window shows the swap any more.
    """
    code = journal.words[place].rest >> _CODE_SHIFT
    offset = _offset(journal, place)
    if code in (C, P):
        return offset
    if code != N:
        return NONE
    # An N leaves the swap where it was, in an older word that the table does not name any more.
    moved, state = journal.moved, journal.state[0]
    begin, end = state.moved_begin, state.moved_end
    while end - begin > 1:
        middle = (begin + end) // 2
        if moved[middle].offset <= offset:
            begin = middle
        else:
            end = middle
    counted = moved[begin].counted
    if counted < journal.slots[state.first].number << BLOCK_BITS:
        return NONE
    return counted


@compiled
def _write(journal: Journal, place: int, offset: int, hashed: int, found: tuple[int, int]) -> None:
    """Make the transition at `place` the entry of its id; `found` is what `_find` returned."""
    state, (position, before) = journal.state[0], found
    code = journal.words[place].rest >> _CODE_SHIFT
    if code in (N, LATE_N):
        moved = journal.moved[state.moved_end]
        moved.offset = offset
        moved.counted = NONE if before == 0 else _counted_at(journal, before)
        state.moved_end += 1
    distance = _distance(_home(hashed, journal.table), position, journal.table)
    journal.table[position] = _table_entry(hashed, distance, place, state.place_bits)
    if before == 0:
        state.ids += 1


@compiled
def _has_room(journal: Journal) -> bool:
    """Whether one more record fits, whatever it is."""
    state = journal.state[0]
    return (
        (state.free != NONE or state.fresh < len(journal.slots))
        and state.ids < state.most_ids
        and state.moved_end < len(journal.moved)
    )


@compiled
def _decided(rest: int, removed: bool, late: bool, check: int) -> int:
    """Return the code for a record whose id's last word ends with `rest` (0: no entry).

    The table is in docs/exactly-once.md.
    """
    state, known = STATES[rest >> _CODE_SHIFT], rest & _CHECK
    stands = state in (COUNTED, LATE)
    other = known != 0 and check not in (0, known)
    if removed:
        if state == NOTHING:
            return T
        if not stands:
            return D
        return I if other else U
    if stands:
        if not other:
            return D
        if state == COUNTED:
            return N
        return LATE_N if late else P
    if state == REMOVED_FIRST and not other:
        return V
    return L if late else C


@compiled
def _clock_after(clock: int, swap: Any, record: Any, state: Any) -> int:
    """Return the log clock after a record. Whatever the record is, it moves the clock."""
    if not state.by_event_time:
        return max(clock, record.recorded)
    # A bad record has no event time.
    if record.bad:
        return clock
    return max(clock, min(swap.timestamp, record.recorded + state.max_future))


@compiled
def _uncounted(batch: Batch, i: int) -> int:
    """Return the code of a record that is no occurrence of its id here, else 0."""
    record = batch.records[i]
    if record.bad:
        return B
    if batch.away[i]:
        return M
    if record.origin_partition < 0:
        return 0
    # A forward that is not above the highest offset of its origin was sent again after a crash. The
    # entry of its id cannot show that: a retraction may have come between.
    place = batch.origin_places[i]
    if record.origin_offset <= batch.origins[place]:
        return F
    batch.origins[place] = record.origin_offset
    return 0


@compiled
def _read_ahead(journal: Journal, markers: Array, batch: Batch) -> None:
    """Hash the ids of at most AHEAD records, and bring their parts of the table into the cache."""
    table, hashes, touched = journal.table, batch.hashes, np.uint64(0)
    for i in range(len(markers)):
        hashes[i] = _hash(markers[i, 0], journal.secret)
        # These reads do not wait for each other, so the memory answers many of them in the time of
        # one. In the decisions that follow, each would wait for the one before it.
        touched += table[_home(hashes[i], table)]
    batch.spare[AHEAD] = touched


@compiled
def judge(
    journal: Journal, remembered: KnownEntries, known: KnownEntries, batch: Batch, begin: int
) -> int:
    """Decide the records from `begin` on in log order; return where it stopped for want of room."""
    state, words = journal.state[0], journal.words
    first = begin
    for i in range(begin, len(batch.swaps)):
        if (i - begin) % AHEAD == 0:
            first = i
            _read_ahead(journal, batch.markers[i : i + AHEAD], batch)
        if not _has_room(journal):
            return i
        swap, record = batch.swaps[i], batch.records[i]
        offset = swap.offset
        if offset >> BLOCK_BITS != journal.slots[state.open].number:
            _open_block(journal, offset >> BLOCK_BITS)
        state.next_offset = offset + 1
        state.clock = _clock_after(state.clock, swap, record, state)
        _forget(journal, batch.spare)
        place = (state.open << BLOCK_BITS) + (offset & _IN_BLOCK)
        word = words[place]
        batch.counted_at[i] = NONE
        code = _uncounted(batch, i)
        if code != 0:
            word.rest = code << _CODE_SHIFT
            batch.letters[i] = LETTER[code]
            continue
        hashed = batch.hashes[i - first]
        key = (batch.markers[i, 0], batch.markers[i, 1] & _LOW_16, hashed)
        found = _find(words, journal.table, state.place_bits, key)
        before, elsewhere, rest = found[1], 0, np.uint16(0)
        if before != 0:
            rest = words[before].rest
        elif state.clock <= state.remembered_until:
            _, elsewhere = _find(remembered.words, remembered.table, remembered.place_bits, key)
            rest = remembered.words[elsewhere].rest
        if STATES[rest >> _CODE_SHIFT] == NOTHING:
            _, other = _find(known.words, known.table, known.place_bits, key)
            rest = known.words[other].rest
        late = swap.timestamp < max(state.clock - state.grace, state.floor)
        code = _decided(rest, record.removed, late, record.block_check)
        batch.letters[i] = LETTER[code]
        word.rest = code << _CODE_SHIFT
        if STATES[code] == NOTHING:
            continue
        if code == U and before != 0:
            batch.counted_at[i] = _counted_at(journal, before)
        word.low, word.high = key[0], key[1]
        word.rest = code << _CODE_SHIFT | record.block_check
        _write(journal, place, offset, hashed, found)
        if state.clock <= state.remembered_until:
            # From here on the journal decides about the id, even after it has forgotten it.
            if before != 0:
                _, elsewhere = _find(remembered.words, remembered.table, remembered.place_bits, key)
            remembered.words[elsewhere].rest = 0
    return len(batch.swaps)


@compiled
def fold_words(journal: Journal, place: int, end: int, hashes: Array, spare: Array) -> int:
    """Enter the words of the places [place, end); return where it stopped for want of room.

    `hashes` and `spare` are scratch space as in `Batch`.
    """
    words, table, state = journal.words, journal.table, journal.state[0]
    for first in range(place, end, AHEAD):
        last = min(first + AHEAD, end)
        touched = np.uint64(0)
        for i in range(first, last):
            hashes[i - first] = _hash(words[i].low, journal.secret)
            touched += table[_home(hashes[i - first], table)]
        spare[AHEAD] = touched
        for i in range(first, last):
            word = words[i]
            if STATES[word.rest >> _CODE_SHIFT] == NOTHING:
                continue
            if state.ids >= state.most_ids or state.moved_end >= len(journal.moved):
                return i
            key = (word.low, word.high, hashes[i - first])
            found = _find(words, table, state.place_bits, key)
            _write(journal, i, _offset(journal, i), hashes[i - first], found)
    return end


@compiled
def transitions(words: Array) -> int:
    """Return how many words are transitions."""
    count = 0
    for i in range(len(words)):
        count += STATES[words[i].rest >> _CODE_SHIFT] != NOTHING
    return count


@compiled
def reindex(journal: Journal, table: Array) -> None:
    """Enter all ids of the journal's table in the empty `table`."""
    words, old, bits = journal.words, journal.table, journal.state[0].place_bits
    mask = (1 << bits) - 1
    entries = np.empty(AHEAD, np.int64)
    hashes = np.empty(AHEAD, np.uint64)
    begin = 0
    while begin < len(old):
        # In two steps for the memory's sake, as in `judge`, and without a branch to be guessed.
        end, count = min(begin + AHEAD, len(old)), 0
        for i in range(begin, end):
            entries[count] = old[i]
            count += old[i] != 0
        for i in range(count):
            hashes[i] = _hash(words[entries[i] & mask].low, journal.secret)
        # Both tables are in the order of the hashes, so the new one is filled from front to back.
        for i in range(count):
            home = position = _home(hashes[i], table)
            while table[position] != 0:
                position += 1
                if position == len(table):
                    position = 0
            distance = _distance(home, position, table)
            table[position] = _table_entry(hashes[i], distance, entries[i] & mask, bits)
        begin = end


@compiled
def fold_rows(
    entries: KnownEntries,
    markers: Array,
    letters: Array,
    block_checks: Array,
    secret: Array,
) -> int:
    """Fold rows into an empty table with room for all of them; return the words used."""
    words, used = entries.words, 1
    for i in range(len(letters)):
        code = CODES[letters[i]]
        if code == 0 or STATES[code] == NOTHING:
            continue
        low, high = markers[i, 0], markers[i, 1] & _LOW_16
        hashed = _hash(low, secret)
        position, place = _find(words, entries.table, entries.place_bits, (low, high, hashed))
        if place == 0:
            place = used
            used += 1
            words[place].low, words[place].high = low, high
            distance = _distance(_home(hashed, entries.table), position, entries.table)
            entry = _table_entry(hashed, distance, place, entries.place_bits)
            entries.table[position] = entry
        words[place].rest = code << _CODE_SHIFT | block_checks[i]
    return used


@compiled
def present(
    journal: Journal,
    remembered: KnownEntries,
    markers: Array,
    places: Array,
    clocks: Array,
    found: Array,
) -> None:
    """Fill `found`: whether the ids at `places` have an entry that lasts until those clocks."""
    state = journal.state[0]
    for i in range(len(places)):
        low, high = markers[places[i], 0], markers[places[i], 1] & _LOW_16
        hashed = _hash(low, journal.secret)
        _, place = _find(journal.words, journal.table, state.place_bits, (low, high, hashed))
        if place != 0:
            slot = place >> BLOCK_BITS
            # The open block may close with the clock of now, so that is the least it will last.
            end = state.clock if slot == state.open else journal.slots[slot].end
            found[i] = clocks[places[i]] <= end + state.ttl
        elif clocks[places[i]] <= state.remembered_until:
            _, place = _find(
                remembered.words, remembered.table, remembered.place_bits, (low, high, hashed)
            )
            found[i] = place != 0 and STATES[remembered.words[place].rest >> _CODE_SHIFT] != NOTHING
        else:
            found[i] = False
