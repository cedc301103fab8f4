"""The words of the journal and the blocks that they are saved in.

A word records what was decided about one offset, in 12 bytes. It is a little-endian integer of 96
bits: bits 0-79 are the first 80 bits of the marker (its bytes 0 to 9 as they are), bits 80-91 the
block check, bits 92-95 the letter's place in LETTERS, counted from 1. Marker and check are 0 where
the letter changes nothing. An offset without a record is 12 zero bytes.

A saved block is `u8 format, u8[3] 0, u32 words, u64 first offset, i64 clock at its end`, all
little-endian, and the words of BLOCK_WORDS offsets: 98,328 bytes. A block that holds no record has
0 words: 24 bytes. The block that is still open is saved as sections of SECTION_WORDS words, named
`w:0` to `w:15`; a section without a record may be absent.
"""

from __future__ import annotations

import struct
from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array

BLOCK_WORDS: Final = 8192
BLOCK_BITS: Final = 13
SECTION_WORDS: Final = 512
WORD_BYTES: Final = 12

WORD: Final = np.dtype([("low", "<u8"), ("high", "<u2"), ("rest", "<u2")])
"""`low` and `high` are 80 bits of the marker; `rest` is the block check and the letter's code."""

LETTERS: Final = "CLDUVTINnPBMF"
"""The letters of `Verdict` in the order of their codes, from 1; code 0 means no record."""

C, L, D, U, V, T, I, N, LATE_N, P, B, M, F = range(1, 14)  # noqa: E741

NOTHING, COUNTED, LATE, REMOVED, REMOVED_FIRST = range(5)
"""The states of an id: no entry, stands in the windows, stands as late, X, T."""


def _states() -> Array:
    states = np.zeros(16, np.uint8)
    states[[C, N, P]] = COUNTED
    states[[L, LATE_N]] = LATE
    states[[U, V]] = REMOVED
    states[T] = REMOVED_FIRST
    return states


def _codes() -> Array:
    codes = np.zeros(256, np.uint8)
    for code, letter in enumerate(LETTERS, 1):
        codes[ord(letter)] = code
    # A retraction whose swap the archive does not hold leaves its id as a retraction does.
    codes[ord("G")] = U
    return codes


STATES: Final = _states()
"""The state in which a letter leaves its id, by code; NOTHING where the letter changes nothing."""

LETTER: Final = np.frombuffer(b"\0" + LETTERS.encode(), np.uint8)
"""The letter of a code."""

CODES: Final = _codes()
"""The code of a letter of the journal or of the archive.

The archive's letter `u` has none: the row takes an older row out of the archive's sums and leaves
the entry of its id as it was.
"""

_FORMAT: Final = 1
_HEADER: Final = struct.Struct("<B3xIQq")


def packed_block(number: int, end: int, words: Array | None) -> bytes:
    """Return a saved block; `words` is None where it holds no record."""
    count = 0 if words is None else BLOCK_WORDS
    header = _HEADER.pack(_FORMAT, count, number * BLOCK_WORDS, end)
    return header if words is None else header + words.tobytes()


def unpacked_block(number: int, block: bytes) -> tuple[int, Array]:
    """Return the clock at the end of a saved block, and its words (none in an empty block).

    Raises ValueError if the bytes are not those of block `number`.
    """
    if len(block) < _HEADER.size:
        raise ValueError(f"block {number} has {len(block)} bytes")
    form, count, first, end = _HEADER.unpack_from(block)
    size = _HEADER.size + count * WORD_BYTES
    right = (_FORMAT, number * BLOCK_WORDS, size)
    if (form, first, len(block)) != right or count not in {0, BLOCK_WORDS}:
        raise ValueError(
            f"block {number} has format {form}, first offset {first}, {count} words and "
            f"{len(block)} bytes"
        )
    return end, np.frombuffer(block, WORD, offset=_HEADER.size)


def section_name(place: int) -> bytes:
    """Return the name of a tail section, 0 to 15."""
    return b"w:%d" % place


def section_place(name: bytes) -> int:
    """Return the place of a tail section in its block. Raises ValueError for another name."""
    place = int(name.removeprefix(b"w:"))
    if name != section_name(place) or place >= BLOCK_WORDS // SECTION_WORDS:
        raise ValueError(f"{name!r} is no tail section")
    return place
