"""Writes many JSON rows of one layout: a compiled loop fills the gaps of a template from columns.

msgspec writes the template, and every text and float that goes into a gap; this module puts the
pieces together and writes integers and sums. Knows nothing of what the rows mean. Pure.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.runtime.compiled import compiled
from aggregator.windows.columns import LIMBS, NONE

_GAP: Final = 0
_TEXT, _FLOAT, _PRICE, _COUNT, _TIME, _FLAG, _USD, _TOP_USD, _AMOUNT = range(1, 10)
_USD_DIGITS: Final = 6
_TOKEN_DIGITS: Final = 18
# A sum as text: 9 characters a digit, more for a last digit above 10^9, sign, point and quotes.
_LONGEST: Final = 9 * LIMBS + 16
# What positional notation may add to a number with an exponent: the smallest float is 5e-324.
_LONGEST_EXPONENT: Final = 340
_ZERO: Final = ord("0")
_QUOTE: Final = ord('"')
_BACKSLASH: Final = ord("\\")
_COMMA: Final = ord(",")
_OPEN, _CLOSE = ord("["), ord("]")
_POINT: Final = ord(".")
_MINUS: Final = ord("-")
_EXPONENT: Final = ord("e")
_N: Final = ord("n")
_NULL, _TRUE, _FALSE = (np.frombuffer(word, np.uint8) for word in (b"null", b"true", b"false"))


def _gap(kind: int) -> Any:
    # No text of JSON holds these bytes: they would be escaped.
    return msgspec.Raw(bytes([_GAP, kind]))


TEXT: Final = _gap(_TEXT)
"""The next text, or null."""
FLOAT: Final = _gap(_FLOAT)
"""The next float as a JSON number, or null for NaN."""
PRICE: Final = _gap(_PRICE)
"""The next float in the form of `decimal_text`, or null for NaN."""
COUNT: Final = _gap(_COUNT)
"""An integer."""
TIME: Final = _gap(_TIME)
"""An integer, or null for NONE."""
FLAG: Final = _gap(_FLAG)
"""true where an integer is above 0, else false."""
USD: Final = _gap(_USD)
"""A sum in micro-USD in the form of `usd_text`: two integers, see `carry`."""
TOP_USD: Final = _gap(_TOP_USD)
"""The same, or null where the first integer is NONE."""
AMOUNT: Final = _gap(_AMOUNT)
"""A sum in units of 10^-18 token in the form of `token_text`: LIMBS integers, see `carry`."""


class Template:
    """A row as JSON with gaps, in the order in which the columns fill them."""

    def __init__(self, row: object) -> None:
        pieces = msgspec.json.encode(row).split(bytes([_GAP]))
        texts = [pieces[0], *(piece[1:] for piece in pieces[1:])]
        self._text = np.frombuffer(b"".join(texts), np.uint8)
        self._ends = np.cumsum([len(text) for text in texts])
        self._kinds = np.array([piece[0] for piece in pieces[1:]], np.int64)

    def rows(self, ints: Array, texts: list[Any], floats: list[list[float]]) -> list[bytes]:
        """Return one JSON text for each row of `ints` (int64); the others hold as many rows."""
        words, numbers = msgspec.json.encode(texts), msgspec.json.encode(floats)
        # The loop does not check for the end of `out`, so this is an upper bound: texts take what
        # they take in their array, floats less than three times that, every other gap _LONGEST.
        room = len(words) + 3 * len(numbers) + _LONGEST_EXPONENT * numbers.count(b"e")
        room += len(ints) * (len(self._text) + _LONGEST * len(self._kinds))
        out, ends = np.empty(room, np.uint8), np.zeros(len(ints) + 1, np.int64)
        fill(
            self._text,
            self._ends,
            self._kinds,
            ints,
            np.frombuffer(words, np.uint8),
            np.frombuffer(numbers, np.uint8),
            out,
            ends[1:],
        )
        filled = out[: ends[-1]].tobytes()
        return [filled[start:end] for start, end in pairwise(ends.tolist())]


@compiled
def carry(digits: Array) -> None:
    """Bring every digit of base 10^9 but the last into 0 … 10^9-1; the last takes the sign."""
    # Floor division rounds down, so a negative digit borrows from the next.
    for d in range(len(digits) - 1):
        over = digits[d] // 1_000_000_000
        digits[d] -= over * 1_000_000_000
        digits[d + 1] += over


@compiled
def _copy(text: Array, start: int, end: int, out: Array, at: int) -> int:
    """Copy text[start:end] to `out` at `at`; return where it ends there."""
    # Unsigned places never count from the end, which lets the compiler copy in blocks.
    for k in range(end - start):
        out[np.uint64(at + k)] = text[np.uint64(start + k)]
    return at + end - start


@compiled
def _next(text: Array, start: int) -> tuple[int, int]:
    """Return where the next text, number or null of a JSON array of arrays begins and ends."""
    while text[start] == _COMMA or text[start] == _OPEN or text[start] == _CLOSE:
        start += 1
    end = start + 1
    if text[start] == _QUOTE:
        # A backslash takes the next byte with it, so an escaped quote ends nothing.
        while text[end] != _QUOTE:
            end += 2 if text[end] == _BACKSLASH else 1
        return start, end + 1
    while text[end] != _COMMA and text[end] != _CLOSE:
        end += 1
    return start, end


@compiled
def _price(text: Array, start: int, end: int, out: Array, at: int) -> int:
    """Write a JSON number in positional notation, quoted; null stays null."""
    if text[start] == _N:
        after_null: int = _copy(text, start, end, out, at)
        return after_null
    out[at] = _QUOTE
    at += 1
    power = end
    while power > start and text[power] != _EXPONENT:
        power -= 1
    if power > start:
        at = _positional(text, start, power, end, out, at)
    elif text[end - 2] == _POINT and text[end - 1] == _ZERO:
        # msgspec writes whole floats as `150.0`; `decimal_text` has no trailing zero.
        at = _copy(text, start, end - 2, out, at)
    else:
        at = _copy(text, start, end, out, at)
    out[at] = _QUOTE
    return at + 1


@compiled
def _positional(text: Array, start: int, power: int, end: int, out: Array, at: int) -> int:
    """Write the number text[start:power] times ten to the power of text[power + 1:end]."""
    if text[start] == _MINUS:
        out[at] = _MINUS
        at, start = at + 1, start + 1
    exponent, negative = 0, False
    for k in range(power + 1, end):
        if text[k] == _MINUS:
            negative = True
        elif _ZERO <= text[k] <= _ZERO + 9:
            exponent = 10 * exponent + text[k] - _ZERO
    # Scientific notation has one digit before the point, so this many come before it here.
    left = 1 - exponent if negative else 1 + exponent
    if left <= 0:
        out[at], out[at + 1] = _ZERO, _POINT
        at += 2
        for _ in range(-left):
            out[at] = _ZERO
            at += 1
    written = 0
    for k in range(start, power):
        if text[k] != _POINT:
            if written == left and written > 0:
                out[at] = _POINT
                at += 1
            out[at] = text[k]
            at, written = at + 1, written + 1
    for _ in range(left - written):
        out[at] = _ZERO
        at += 1
    return at


@compiled
def _int(value: int, out: Array, at: int) -> int:
    """Write an integer; return where it ends."""
    if value < 0:
        out[at] = _MINUS
        at, value = at + 1, -value
    digits, rest = 1, value // 10
    while rest:
        digits, rest = digits + 1, rest // 10
    for k in range(at + digits - 1, at - 1, -1):
        out[k] = _ZERO + value % 10
        value //= 10
    return at + digits


@compiled
def _decimal(limbs: Array, places: int, trimmed: bool, out: Array, at: int) -> int:
    """Write the number that the carried digits form, with `places` decimals after the point.

    `trimmed` leaves out trailing zeros, and the point where nothing follows it.
    """
    top = len(limbs) - 1
    out[at] = _QUOTE
    at += 1
    negative = limbs[top] < 0
    if negative:
        out[at] = _MINUS
        at += 1
    # The number is written right-aligned, further on in `out`, and then moved to its place: its
    # length is known only when it has been written.
    right = at + _LONGEST
    first, borrow = right, 0
    for d in range(top + 1):
        value = limbs[d]
        # Only the last digit has the sign, the others are 0 … 10^9-1. So a negative number is
        # negated digit by digit, each borrowing from the next.
        if negative:
            value = -value - borrow
            borrow = 0
            if d < top and value < 0:
                value, borrow = value + 1_000_000_000, 1
        for _ in range(9):
            first -= 1
            out[first] = _ZERO + value % 10
            value //= 10
        # The last digit may exceed 10^9; every other one is 0 by now.
        while value:
            first -= 1
            out[first] = _ZERO + value % 10
            value //= 10
    while first < right - places - 1 and out[first] == _ZERO:
        first += 1
    end = right
    while trimmed and end > right - places and out[end - 1] == _ZERO:
        end -= 1
    at = _copy(out, first, right - places, out, at)
    if end > right - places:
        # The point shifts the target by one, which is still before every digit left to move.
        out[at] = _POINT
        at = _copy(out, right - places, end, out, at + 1)
    out[at] = _QUOTE
    return at + 1


@compiled
def fill(
    template: Array,
    pieces: Array,
    kinds: Array,
    ints: Array,
    texts: Array,
    floats: Array,
    out: Array,
    ends: Array,
) -> None:
    """Write the rows to `out` and where each ends to `ends`; gap g is at template[pieces[g]].

    Texts and floats are read from two running positions, since their sizes differ.
    """
    at = word = number = 0
    for i in range(len(ints)):
        k = start = 0
        for g in range(len(kinds)):
            at = _copy(template, start, pieces[g], out, at)
            start, kind = pieces[g], kinds[g]
            if kind == _TEXT:
                begin, word = _next(texts, word)
                at = _copy(texts, begin, word, out, at)
            elif kind == _FLOAT:
                begin, number = _next(floats, number)
                at = _copy(floats, begin, number, out, at)
            elif kind == _PRICE:
                begin, number = _next(floats, number)
                at = _price(floats, begin, number, out, at)
            elif kind == _FLAG:
                flag = _TRUE if ints[i, k] > 0 else _FALSE
                at, k = _copy(flag, 0, len(flag), out, at), k + 1
            elif kind == _COUNT or (kind == _TIME and ints[i, k] != NONE):
                at, k = _int(ints[i, k], out, at), k + 1
            elif kind == _USD or (kind == _TOP_USD and ints[i, k] != NONE):
                at, k = _decimal(ints[i, k : k + 2], _USD_DIGITS, False, out, at), k + 2
            elif kind == _AMOUNT:
                limbs = ints[i, k : k + LIMBS]
                at, k = _decimal(limbs, _TOKEN_DIGITS, True, out, at), k + LIMBS
            else:
                at = _copy(_NULL, 0, len(_NULL), out, at)
                k += 2 if kind == _TOP_USD else 1
        at = _copy(template, start, pieces[len(kinds)], out, at)
        ends[i] = at
