"""A memory of the names that were accepted: (chain, token, symbol) as they come, to their number.

The rules of a name cost more than all else of an event, and names repeat. What was accepted once is
found again by its bytes, compiled; what is not found is for `decode` to judge. Pure.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import TokenName
from aggregator.decoding.plain.scan import ABSENT, CHAIN, SYMBOL, TOKEN
from aggregator.runtime.compiled import compiled

UNKNOWN: Final = -1
_MOST_NAMES: Final = 131_072
"""Some 40 MB; a busy day of every chain has fewer tokens."""
_WORDS_A_NAME: Final = 32
_LONGEST_WORDS: Final = 192
_PARTS: Final = np.array([CHAIN, TOKEN, SYMBOL])


class Table(NamedTuple):
    """An open-addressing hash table of keys, each some whole words of `words`.

    `slots` hold a key's place + 1, 0 where free; the key is `lengths` bytes long (in words of 8,
    zeros behind), begins at `begins` and stands for the name `numbers`. `used` is (keys, words).
    Pages that are never written are never made, so the arrays have their full size from the start.
    """

    slots: Array
    begins: Array
    lengths: Array
    numbers: Array
    words: Array
    used: Array
    scratch: Array


class Names:
    """The table, and the names by number. Forgets everything when it is full."""

    def __init__(self, most: int = _MOST_NAMES) -> None:
        self._most = most
        self._forget()

    def _forget(self) -> None:
        self.accepted: list[TokenName] = []
        self._numbers: dict[TokenName, int] = {}
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
        """Fill `numbers` with places in `accepted`, UNKNOWN where a plain event's are not."""
        if len(self.accepted) + len(plain) > self._most:
            self._forget()
        find(self._table, self._table.scratch.view(np.uint8), data, spans, plain, numbers)

    def number(self, name: TokenName) -> int:
        """The number of names that were accepted."""
        number = self._numbers.setdefault(name, len(self.accepted))
        if number == len(self.accepted):
            self.accepted.append(name)
        return number

    def remember(self, data: Array, spans: Array, number: int) -> None:
        """The names of this plain event, as they come, are to be found as `number`."""
        remember(self._table, self._table.scratch.view(np.uint8), data, spans, number)


@compiled
def find(
    table: Table, scratch: Array, data: Array, spans: Array, plain: Array, numbers: Array
) -> None:
    """See `Names.find`; `scratch` are the bytes of the table's."""
    for i in range(len(plain)):
        numbers[i] = UNKNOWN
        if plain[i]:
            length = _key(scratch, data, spans[i])
            key = table.slots[_slot(table, length)] - 1
            if key != UNKNOWN:
                numbers[i] = table.numbers[key]


@compiled
def remember(table: Table, scratch: Array, data: Array, spans: Array, number: int) -> None:
    """See `Names.remember`; a full table does not take it in."""
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
    """Write the names into `scratch`, zeros behind; the length in bytes.

    A name ends with a byte that no plain text holds; an absent symbol has not even that.
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
    """Where the key in the scratch stands, or the free slot where it would."""
    words = (length + 7) >> 3
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
