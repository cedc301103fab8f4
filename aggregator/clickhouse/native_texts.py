"""Compiled passes over the texts of many rows, for ClickHouse's Native format.

Does no input or output. `native.Texts` describes how texts are given.
"""

from __future__ import annotations

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT
from aggregator.runtime.compiled import compiled


@compiled
def put_strings(text: Array, spans: Array, out: Array) -> int:
    """Write each text after its length (unsigned LEB128) into `out`; return the end position."""
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
    """Number the distinct texts in order of first occurrence; return how many there are.

    Fills `keys` with the number of each row's text, ABSENT for a null, and `firsts` with the first
    row of each number. `slots` is a hash table that holds number + 1: zeros, a power of two long,
    longer than the rows.
    """
    count = 0
    mask = len(slots) - 1  # the length is a power of two
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
    """Return the FNV-1a hash with its higher half folded into the lower, as 31 bits."""
    mixed = np.uint64(0xCBF29CE484222325)
    for place in range(len(source)):
        mixed = (mixed ^ np.uint64(source[place])) * np.uint64(0x100000001B3)
    return np.int64((mixed ^ (mixed >> np.uint64(32))) & np.uint64(0x7FFFFFFF))


@compiled
def _equal(one: Array, other: Array) -> bool:
    if len(one) != len(other):
        return False
    # No early exit, so that the compiler may vectorise the loop.
    differ = 0
    for place in range(len(one)):
        differ += one[place] != other[place]
    return differ == 0
