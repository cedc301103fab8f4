"""Hashes identity, block and trader of plain events, and lower-cases their addresses, compiled.

The results equal those of `marker_of`, `block_check` and `trader_key` on the decoded fields.
BLAKE2b is RFC 7693. It is written out here because hashlib would have to be called from
Python for every event. Pure.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import BLOCK_CHECKS, FNV_OFFSET, FNV_PRIME
from aggregator.contracts.swaps import ABSENT
from aggregator.decoding.plain.scan import (
    BLOCK_HASH,
    CHAIN,
    LOG_INDEX,
    SYMBOL,
    TOKEN,
    TRADER,
    TX_HASH,
)
from aggregator.runtime.compiled import compiled

_BLOCK_BYTES: Final = 128
_BLOCK_WORDS: Final = 16
# Room for the longest identity: a chain of 32 bytes, a tx_hash of 128, a log_index of 18, a token
# of 256, and three colons. A trader has at most 256.
_MOST_BLOCKS: Final = 4
_LONGEST_HASH: Final = 128
_MARKER_BYTES: Final = 16
_KEY_BYTES: Final = 8
_PREFIX: Final = 2
_ADDRESS_LENGTH: Final = 42
_MAYBE_ADDRESSES: Final = np.array([TOKEN, *range(SYMBOL, TRADER + 1)])
_FNV_OFFSET: Final = np.uint64(FNV_OFFSET)
_FNV_PRIME: Final = np.uint64(FNV_PRIME)
_COLON: Final = ord(":")
# Bytes, and differences of bytes below: a loop over wider numbers is several times slower.
_ZERO: Final = np.uint8(ord("0"))
_UPPER_A: Final = np.uint8(ord("A"))
_LOWER_A: Final = np.uint8(ord("a"))
_LOWER_X: Final = np.uint8(ord("x"))
_DIGITS: Final = np.uint8(10)
_HEX_LETTERS: Final = np.uint8(6)
_LETTERS: Final = np.uint8(26)
_TO_LOWER: Final = np.uint8(32)
_TO_LOWER_BIT: Final = np.uint8(5)

# The initial vector and the message schedule of RFC 7693, sections 2.6 and 2.7.
_START: Final = np.array(
    [
        0x6A09E667F3BCC908,
        0xBB67AE8584CAA73B,
        0x3C6EF372FE94F82B,
        0xA54FF53A5F1D36F1,
        0x510E527FADE682D1,
        0x9B05688C2B3E6C1F,
        0x1F83D9ABFB41BD6B,
        0x5BE0CD19137E2179,
    ],
    np.uint64,
)
_ORDER: Final = np.array(
    [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
        [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
        [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
        [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
        [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
        [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
        [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
        [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
        [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
        [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
    ],
    np.uint8,
)


def identify(
    data: Array, spans: Array, plain: Array, markers: Array, traders: Array, checks: Array
) -> None:
    """Fill `markers` (two uint64 per event), `traders` (uint64) and `checks` of plain events.

    The latter are 0 where there is no trader and no block hash. Lower-cases the hashes and
    addresses of the plain events in place. Clears `plain` where the transaction hash does not
    consist of letters and digits.
    """
    words = np.zeros(_MOST_BLOCKS * _BLOCK_WORDS, np.uint64)
    fill_identities(data, spans, plain, words, words.view(np.uint8), markers, traders, checks)


@compiled
def fill_identities(
    data: Array,
    spans: Array,
    plain: Array,
    words: Array,
    text: Array,
    markers: Array,
    traders: Array,
    checks: Array,
) -> None:
    """See `identify`; `text` is a byte view of `words`, which hold the message to hash."""
    for i in range(len(plain)):
        if not plain[i]:
            continue
        # Letters and digits contain neither white space nor ":", which the rules refuse in a hash.
        if not _letters_and_digits(data, spans[i, TX_HASH, 0], spans[i, TX_HASH, 1]):
            plain[i] = False
            continue
        _lower_texts(data, spans[i])
        length = _put(data, spans[i, CHAIN, 0], spans[i, CHAIN, 1], text, 0)
        # The digits of the log_index as they are: a plain whole number has no leading zeros, so
        # they are the text that `marker_of` formats.
        for field in (TX_HASH, LOG_INDEX, TOKEN):
            text[length] = _COLON
            length = _put(data, spans[i, field, 0], spans[i, field, 1], text, length + 1)
        markers[i, 0], markers[i, 1] = _blake2b(words, text, length, _MARKER_BYTES)
        traders[i] = checks[i] = 0
        begin, end = spans[i, TRADER, 0], spans[i, TRADER, 1]
        if begin != ABSENT:
            key, _ = _blake2b(words, text, _put(data, begin, end, text, 0), _KEY_BYTES)
            # 0 means no trader, so `trader_key` maps a hash of 0 to 1.
            traders[i] = max(key, np.uint64(1))
        begin, end = spans[i, BLOCK_HASH, 0], spans[i, BLOCK_HASH, 1]
        if begin != ABSENT:
            checks[i] = _block_check(data, begin, end)


@compiled
def _lower_texts(data: Array, spans: Array) -> None:
    """Lower-case the hashes and addresses of one event in place."""
    for field in _MAYBE_ADDRESSES:
        begin, end = spans[field, 0], spans[field, 1]
        if begin != ABSENT and _is_address(data, begin, end):
            _lower(data, begin, end)
    for field in (TX_HASH, BLOCK_HASH):
        begin, end = spans[field, 0], spans[field, 1]
        if begin != ABSENT and _begins_0x(data, begin, end):
            _lower(data, begin, end)


@compiled
def _block_check(data: Array, begin: int, end: int) -> int:
    mixed = _FNV_OFFSET
    for at in range(begin, end):
        mixed = (mixed ^ np.uint64(data[at])) * _FNV_PRIME
    return np.uint64(1) + (mixed ^ mixed >> np.uint64(32)) % np.uint64(BLOCK_CHECKS)


@compiled
def _letters_and_digits(data: Array, begin: int, end: int) -> bool:
    return 0 < end - begin <= _LONGEST_HASH and _digits_or(data[begin:end], _LETTERS)


@compiled
def _begins_0x(data: Array, begin: int, end: int) -> bool:
    return (
        end - begin >= _PREFIX
        and data[begin] == _ZERO
        and np.uint8(data[begin + 1] | _TO_LOWER) == _LOWER_X
    )


@compiled
def _is_address(data: Array, begin: int, end: int) -> bool:
    """Return whether the text is 0x and 40 hexadecimal digits."""
    if end - begin != _ADDRESS_LENGTH or not _begins_0x(data, begin, end):
        return False
    return _digits_or(data[begin + _PREFIX : begin + _ADDRESS_LENGTH], _HEX_LETTERS)


@compiled
def _digits_or(text: Array, letters: int) -> bool:
    """Return whether the text consists of digits and the first `letters` ASCII letters.

    All bytes are tested without a branch, so that the loop can be vectorised.
    """
    odd = np.uint8(0)
    for byte in text:
        letter = np.uint8(np.uint8(byte | _TO_LOWER) - _LOWER_A) < letters
        odd |= np.uint8(not letter) & np.uint8(np.uint8(byte - _ZERO) >= _DIGITS)
    return odd == 0


@compiled
def _put(data: Array, begin: int, end: int, text: Array, at: int) -> int:
    """Copy [begin, end) to `text` at `at`; return the end of the copy."""
    source = data[begin:end]
    target = text[at : at + end - begin]
    for place in range(len(source)):
        target[place] = source[place]
    return at + end - begin


@compiled
def _lower(data: Array, begin: int, end: int) -> None:
    """Lower-case the ASCII letters of [begin, end) in place, without a branch."""
    text = data[begin:end]
    for place in range(len(text)):
        upper = np.uint8(np.uint8(text[place] - _UPPER_A) < _LETTERS)
        text[place] |= upper << _TO_LOWER_BIT


@compiled
def _blake2b(words: Array, text: Array, length: int, digest_bytes: int) -> tuple[int, int]:
    """Return the first two words of the BLAKE2b hash of `length` bytes of `text`.

    `words` are the same bytes as little-endian words. The state is in local variables, which the
    compiler keeps in registers; an array would be written to memory every round.
    """
    # An empty message has one block, too.
    blocks = max(1, (length + _BLOCK_BYTES - 1) // _BLOCK_BYTES)
    for place in range(length, blocks * _BLOCK_BYTES):
        text[place] = 0
    h0, h1, h2, h3 = _START[0], _START[1], _START[2], _START[3]
    h4, h5, h6, h7 = _START[4], _START[5], _START[6], _START[7]
    # The parameter block: no key, fan-out and depth 1, and the length of the digest. A shorter
    # digest is thus another hash, not a prefix.
    h0 ^= np.uint64(0x01010000 ^ digest_bytes)
    for block in range(blocks):
        m = words[block * _BLOCK_WORDS : (block + 1) * _BLOCK_WORDS]
        last = block == blocks - 1
        # RFC 7693, section 3.2: the state takes in the count of message bytes so far, and the final
        # block inverts a word.
        count = np.uint64(length if last else (block + 1) * _BLOCK_BYTES)
        v0, v1, v2, v3, v4, v5, v6, v7 = h0, h1, h2, h3, h4, h5, h6, h7
        v8, v9, v10, v11 = _START[0], _START[1], _START[2], _START[3]
        v12, v13, v14, v15 = _START[4] ^ count, _START[5], _START[6], _START[7]
        if last:
            v14 = ~v14
        for turn in range(12):
            s = _ORDER[turn % 10]
            v0, v4, v8, v12 = _mix(v0, v4, v8, v12, m[s[0]], m[s[1]])
            v1, v5, v9, v13 = _mix(v1, v5, v9, v13, m[s[2]], m[s[3]])
            v2, v6, v10, v14 = _mix(v2, v6, v10, v14, m[s[4]], m[s[5]])
            v3, v7, v11, v15 = _mix(v3, v7, v11, v15, m[s[6]], m[s[7]])
            v0, v5, v10, v15 = _mix(v0, v5, v10, v15, m[s[8]], m[s[9]])
            v1, v6, v11, v12 = _mix(v1, v6, v11, v12, m[s[10]], m[s[11]])
            v2, v7, v8, v13 = _mix(v2, v7, v8, v13, m[s[12]], m[s[13]])
            v3, v4, v9, v14 = _mix(v3, v4, v9, v14, m[s[14]], m[s[15]])
        h0, h1, h2, h3 = h0 ^ v0 ^ v8, h1 ^ v1 ^ v9, h2 ^ v2 ^ v10, h3 ^ v3 ^ v11
        h4, h5, h6, h7 = h4 ^ v4 ^ v12, h5 ^ v5 ^ v13, h6 ^ v6 ^ v14, h7 ^ v7 ^ v15
    return h0, h1


@compiled
def _mix(a: int, b: int, c: int, d: int, x: int, y: int) -> tuple[int, int, int, int]:
    a = a + b + x
    d = _rotate(d ^ a, np.uint64(32))
    c = c + d
    b = _rotate(b ^ c, np.uint64(24))
    a = a + b + y
    d = _rotate(d ^ a, np.uint64(16))
    c = c + d
    b = _rotate(b ^ c, np.uint64(63))
    return a, b, c, d


@compiled
def _rotate(word: int, bits: int) -> int:
    return (word >> bits) | (word << (np.uint64(64) - bits))
