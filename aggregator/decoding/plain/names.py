"""Remembers accepted names: maps the bytes of (chain, token, symbol) to the index of the name.

Checking a name by the rules costs more than the rest of an event, and names repeat. A compiled pass
finds accepted names by their bytes; the rules decide on names that it does not find. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT, TokenName
from aggregator.decoding.plain.scan import CHAIN, SYMBOL, TOKEN
from aggregator.runtime.compiled import compiled

UNKNOWN: Final = -1
_MOST_NAMES: Final = 131_072
"""About 40 MB; fewer tokens trade on a busy day of all chains."""
_WORDS_A_NAME: Final = 32
_LONGEST_WORDS: Final = 192
_PARTS: Final = np.array([CHAIN, TOKEN, SYMBOL])


class Table(NamedTuple):
    """An open-addressing hash table with linear probing; a key is a run of 8-byte `words`.

    `slots` holds the index of a key + 1, or 0 where free. A key begins at `begins`, is `lengths`
    bytes long (padded with zeros to full words) and maps to the name `numbers`. `used` is (keys,
    words). `scratch` holds the key that is looked up. The arrays have their full size from the
    start, because the system does not allocate pages that are never written.
    """

    slots: Array
    begins: Array
    lengths: Array
    numbers: Array
    words: Array
    used: Array
    scratch: Array


class Names:
    """The table, and the names by index. Forgets everything when it is full."""

    def __init__(self, most: int = _MOST_NAMES) -> None:
        self._most = most
        self._forget()

    def _forget(self) -> None:
        self.accepted: list[TokenName] = []
        self._indexes: dict[TokenName, int] = {}
        # A power of two, so that a mask replaces the division, and at most half full, so that
        # probe sequences stay short.
        slots = 1024
        while slots < 2 * self._most:
            slots *= 2
        self._table = Table(
            slots=np.zeros(slots, np.int32),
            begins=np.zeros(self._most, np.int64),
            lengths=np.zeros(self._most, np.int32),
            numbers=np.zeros(self._most, np.int32),
            words=np.zeros(self._most * _WORDS_A_NAME, np.uint64),
            used=np.zeros(2, np.int64),
            scratch=np.zeros(_LONGEST_WORDS, np.uint64),
        )

    def find(self, data: Array, spans: Array, plain: Array, numbers: Array) -> None:
        """Fill `numbers` with indexes into `accepted`, UNKNOWN where the name is not there."""
        # Forget between batches only: the indexes of a batch must stay valid until it is decoded,
        # and every event of this one may bring a new name. A new list replaces `accepted`, so
        # batches that hold the old one keep their names.
        if len(self.accepted) + len(plain) > self._most:
            self._forget()
        find(self._table, self._table.scratch.view(np.uint8), data, spans, plain, numbers)

    def index_of(self, name: TokenName) -> int:
        """Return the index of an accepted name; adds the name where it is new."""
        index = self._indexes.setdefault(name, len(self.accepted))
        if index == len(self.accepted):
            self.accepted.append(name)
        return index

    def remember(self, data: Array, spans: Array, number: int) -> None:
        """Let `find` return `number` for events with the bytes of this plain event's name."""
        remember(self._table, self._table.scratch.view(np.uint8), data, spans, number)


@compiled
def find(
    table: Table, scratch: Array, data: Array, spans: Array, plain: Array, numbers: Array
) -> None:
    """See `Names.find`; `scratch` is a byte view of `table.scratch`."""
    for i in range(len(plain)):
        numbers[i] = UNKNOWN
        if plain[i]:
            length = _key(scratch, data, spans[i])
            key = table.slots[_slot(table, length)] - 1
            if key != UNKNOWN:
                numbers[i] = table.numbers[key]


@compiled
def remember(table: Table, scratch: Array, data: Array, spans: Array, number: int) -> None:
    """See `Names.remember`; does nothing where the table is full."""
    length = _key(scratch, data, spans)
    slot = _slot(table, length)
    key, begin, words = table.used[0], table.used[1], (length + 7) >> 3
    if table.slots[slot] != 0 or key == len(table.begins) or begin + words > len(table.words):
        return
    table.slots[slot] = key + 1
    table.begins[key], table.lengths[key], table.numbers[key] = begin, length, number
    for place in range(words):
        table.words[begin + place] = table.scratch[place]
    table.used[0], table.used[1] = key + 1, begin + words


@compiled
def _key(scratch: Array, data: Array, spans: Array) -> int:
    """Write the key of an event into `scratch`, padded with zeros; return its length in bytes.

    Every part ends with a zero byte, which no plain text contains, so ("a", "bc") and ("ab", "c")
    differ. An absent symbol adds no byte, so it differs from every symbol that is present.
    """
    length = 0
    for field in _PARTS:
        begin, end = spans[field, 0], spans[field, 1]
        if begin != ABSENT:
            for at in range(begin, end):
                scratch[length] = data[at]
                length += 1
            scratch[length] = 0
            length += 1
    for place in range(length, (length + 7) & ~7):
        scratch[place] = 0
    return length


@compiled
def _slot(table: Table, length: int) -> int:
    """Return the slot of the key in `scratch`, or the free slot where it belongs."""
    words = (length + 7) >> 3
    # A multiplicative hash, 8 bytes a step. The multiplier is 2^64 divided by the golden ratio; the
    # shift brings the well mixed upper bits down to the mask. Keys are compared in full, so
    # collisions cost time only.
    mixed = np.uint64(length)
    for place in range(words):
        mixed = (mixed ^ table.scratch[place]) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= mixed >> np.uint64(32)
    mask = len(table.slots) - 1
    slot = np.int64(mixed & np.uint64(mask))
    while table.slots[slot] != 0 and not _same(table, table.slots[slot] - 1, length):
        slot = (slot + 1) & mask
    return slot


@compiled
def _same(table: Table, key: int, length: int) -> bool:
    if table.lengths[key] != length:
        return False
    begin = table.begins[key]
    for place in range((length + 7) >> 3):
        if table.words[begin + place] != table.scratch[place]:
            return False
    return True
