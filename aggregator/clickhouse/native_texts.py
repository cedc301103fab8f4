"""Texts of many rows in ClickHouse's Native format, by compiled passes. Pure.

Texts are given as in `native.Texts`.
"""

from __future__ import annotations

import numpy as np

from aggregator.contracts.archive_rows import ABSENT
from aggregator.contracts.arrays import Array
from aggregator.runtime.compiled import compiled


@compiled
def put_strings(text: Array, spans: Array, out: Array) -> int:
    """Write each text, its length (unsigned LEB128) before it, into `out`; where it ends."""
    at = 0
    for row in range(len(spans)):
        source = text[spans[row, 0] : spans[row, 1]]
        if spans[row, 0] == ABSENT:
            source = text[:0]
        rest = len(source)
        while rest >= 128:
            out[at] = rest & 127 | 128
            rest >>= 7
            at += 1
        out[at] = rest
        target = out[at + 1 : at + 1 + len(source)]
        for place in range(len(source)):
            target[place] = source[place]
        at += 1 + len(source)
    return at


@compiled
def number_texts(text: Array, spans: Array, slots: Array, keys: Array, firsts: Array) -> int:
    """Number the texts in the order in which they first come; how many there are.

    Fills `keys` with each row's number, ABSENT where it has no text, and `firsts` with each
    number's row. `slots` is a hash table of numbers + 1, of zeros and longer than the rows.
    """
    count = 0
    mask = len(slots) - 1
    for row in range(len(spans)):
        if spans[row, 0] == ABSENT:
            keys[row] = ABSENT
            continue
        source = text[spans[row, 0] : spans[row, 1]]
        slot = _hash(source) & mask
        while slots[slot] != 0:
            first = firsts[slots[slot] - 1]
            if _equal(source, text[spans[first, 0] : spans[first, 1]]):
                break
            slot = (slot + 1) & mask
        if slots[slot] == 0:
            firsts[count] = row
            count += 1
            slots[slot] = count
        keys[row] = slots[slot] - 1
    return count


@compiled
def _hash(source: Array) -> int:
    """FNV-1a, its higher half put into the lower."""
    mixed = np.uint64(0xCBF29CE484222325)
    for place in range(len(source)):
        mixed = (mixed ^ np.uint64(source[place])) * np.uint64(0x100000001B3)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0x7FFFFFFF))


@compiled
def _equal(one: Array, other: Array) -> bool:
    if len(one) != len(other):
        return False
    differ = 0
    for place in range(len(one)):
        differ += one[place] != other[place]
    return differ == 0
