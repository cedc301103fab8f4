"""The journal of a partition in memory, and the index over it. The kernels change both in place.

Words lie in slots of one block each. The index is a hash table with linear probing, whose entries
name the place of the word of an id's last transition. About 12 bytes for each offset and 6 to 8 for
each id. Pure.
"""

from __future__ import annotations

import secrets
from functools import cache
from typing import Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.seen import NEVER
from aggregator.seen.words import BLOCK_BITS, BLOCK_WORDS, WORD

NONE: Final = -1
"""No slot; no offset."""

SLOT: Final = np.dtype([("number", np.int64), ("end", np.int64), ("after", np.int64)], align=True)
"""A block in memory.

`number` is NONE in a free slot, `end` the log clock when the block was closed, and `after` the slot
of the next held block, or of the next free one in a free slot.
"""

MOVED: Final = np.dtype([("offset", np.int64), ("counted", np.int64)], align=True)
"""The offset of an N or n, and the offset at which its swap counted (NONE where unknown)."""

STATE: Final = np.dtype(
    [
        ("next_offset", np.int64),
        ("clock", np.int64),
        ("floor", np.int64),
        ("ttl", np.int64),
        ("grace", np.int64),
        ("max_future", np.int64),
        ("remembered_until", np.int64),
        ("first", np.int64),
        ("open", np.int64),
        ("free", np.int64),
        ("fresh", np.int64),
        ("ids", np.int64),
        ("most_ids", np.int64),
        ("moved_begin", np.int64),
        ("moved_end", np.int64),
        ("place_bits", np.int64),
        ("by_event_time", np.int64),
    ],
    align=True,
)
"""The numbers of a journal.

`first` and `open` are the slots of the first held block and of the open one, `free` heads the list
of free slots, and slots from `fresh` on were never used. `most_ids` is what the index has room for.
`moved[moved_begin:moved_end]` is in use. The rest is as in `Seen`; `clock` is NEVER for None.
"""

_GROWTH: Final = 1.5
_LOAD: Final = 0.7
_SLOTS: Final = 4
_ENTRY_BITS: Final = 32
DISTANCE_BITS: Final = 3


class Journal(NamedTuple):
    """`words` (WORD) by place, `slots` (SLOT), `table` (uint32), `moved` (MOVED), `state` (STATE).

    The place of an offset is its slot times BLOCK_WORDS plus its place in the block. An entry of
    `table`, the index, has a place in its low `place_bits` bits. The next DISTANCE_BITS say how far
    the entry is from the position at which searches for it begin (all ones: as far or farther), and
    the rest are bits of the hash of the id. Both spare most looks at words, each of which costs a
    cache miss; where there are very many places, they get what bits are left. Entry 0 is free, so
    slot 0 stays unused. `secret` is `process_secret()`.
    """

    words: Array
    slots: Array
    table: Array
    moved: Array
    state: Array
    secret: Array


@cache
def process_secret() -> Array:
    """Return three random odd numbers (uint64) that key the hash of all tables of this process.

    Whoever can send swaps can compute their markers. Without the key nobody can choose ids that
    share a place in the index.
    """
    return np.frombuffer(secrets.token_bytes(24), np.uint64) | np.uint64(1)


def new_journal(block: int) -> Journal:
    """Return a journal whose open block is `block`."""
    slots = np.zeros(_SLOTS, SLOT)
    slots["number"], slots["after"] = NONE, NONE
    slots[1]["number"] = block
    words = np.empty(_SLOTS * BLOCK_WORDS, WORD)
    words[BLOCK_WORDS : 2 * BLOCK_WORDS] = 0
    state = np.zeros(1, STATE)
    numbers = state[0]
    numbers["first"] = numbers["open"] = 1
    numbers["free"], numbers["fresh"] = NONE, 2
    numbers["remembered_until"] = NEVER
    numbers["place_bits"] = place_bits(len(words))
    table = new_table(0)
    numbers["most_ids"] = most_ids(table)
    return Journal(words, slots, table, np.empty(64, MOVED), state, process_secret())


def place_bits(places: int) -> int:
    """Return how many bits of an index entry so many places need."""
    bits = (places - 1).bit_length()
    if bits > _ENTRY_BITS:
        raise MemoryError(f"an index cannot name {places} places")
    return bits


def new_table(ids: int) -> Array:
    """Return an empty table with room for so many ids and some more."""
    return np.zeros(int(max(ids, 512) * _GROWTH / _LOAD), np.uint32)


def most_ids(table: Array) -> int:
    """Return how many ids a table may hold: more would make its searches slow."""
    return int(len(table) * _LOAD)


def with_slots(journal: Journal, slots: int) -> Journal:
    """Return the journal with at least so many slots in all."""
    old, size = len(journal.slots), len(journal.slots)
    while size < slots:
        size *= 2
    more = np.zeros(size, SLOT)
    more["number"], more["after"] = NONE, NONE
    more[:old] = journal.slots
    # np.empty: memory that no block has used yet is not taken from the machine.
    words = np.empty(size * BLOCK_WORDS, WORD)
    used = int(journal.state[0]["fresh"]) << BLOCK_BITS
    words[:used].view(np.uint8)[:] = journal.words[:used].view(np.uint8)
    _widen(journal.table, int(journal.state[0]["place_bits"]), place_bits(len(words)))
    journal.state[0]["place_bits"] = place_bits(len(words))
    return journal._replace(words=words, slots=more)


def _widen(table: Array, old: int, new: int) -> None:
    """Give the places in the entries of a table more bits."""
    old_near, near = (min(DISTANCE_BITS, _ENTRY_BITS - bits) for bits in (old, new))
    place = table & np.uint32((1 << old) - 1)
    distance = table >> np.uint32(old) & np.uint32((1 << old_near) - 1)
    np.minimum(distance, np.uint32((1 << near) - 1), out=distance)
    # What is left of the hash are its highest bits, which stay where they are.
    if new + near < _ENTRY_BITS:
        table >>= np.uint32(new + near)
        table <<= np.uint32(new + near)
    else:
        table[:] = 0
    if new < _ENTRY_BITS:
        table |= distance << np.uint32(new)
    table |= place


def with_moved(journal: Journal, more: int) -> Journal:
    """Return the journal with room for so many more N and n."""
    numbers = journal.state[0]
    begin, end = int(numbers["moved_begin"]), int(numbers["moved_end"])
    kept = end - begin
    moved = np.empty(2 * (kept + more), MOVED)
    moved[:kept] = journal.moved[begin:end]
    numbers["moved_begin"], numbers["moved_end"] = 0, kept
    return journal._replace(moved=moved)


def memory_bytes(journal: Journal) -> int:
    """Return the bytes in use; words of slots that were never used are not counted."""
    used = int(journal.state[0]["fresh"]) * BLOCK_WORDS * WORD.itemsize
    return used + sum(array.nbytes for array in (journal.slots, journal.table, journal.moved))


class KnownEntries(NamedTuple):
    """Entries without a journal: `words` (WORD, the first unused) and a `table` as in `Journal`."""

    words: Array
    table: Array
    place_bits: int


def no_entries() -> KnownEntries:
    """Return a table that holds nothing."""
    return KnownEntries(np.zeros(1, WORD), np.zeros(1, np.uint32), 0)
