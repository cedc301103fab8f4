"""Finds the fields of plain JSON objects in one compiled pass over the bytes of a batch.

An event is plain where it is written as programs usually write it: one flat object, no escapes, no
exponents, no repeated key, and only ASCII outside the symbol. A plain event is valid JSON, and its
fields have the right types. `numbers`, `names` and `identities` check the values; wherever one of
them is not certain of the result, the event is left to `rules`. Pure.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import TEXTS
from aggregator.runtime.compiled import compiled

# The texts come first, in the order of TEXTS: the spans of a batch's texts are a slice.
FIELDS: Final = (
    *TEXTS,
    "log_index",
    "timestamp",
    "side",
    "amount",
    "amount_usd",
    "price_usd",
    "removed",
    "block_number",
    "leg",
    "reserve_token",
    "reserve_quote",
)
CHAIN: Final = FIELDS.index("chain")
TOKEN: Final = FIELDS.index("token")
TX_HASH: Final = FIELDS.index("tx_hash")
BLOCK_HASH: Final = FIELDS.index("block_hash")
SYMBOL: Final = FIELDS.index("symbol")
TRADER: Final = FIELDS.index("trader")
LOG_INDEX: Final = FIELDS.index("log_index")
TIMESTAMP: Final = FIELDS.index("timestamp")
SIDE: Final = FIELDS.index("side")
AMOUNT: Final = FIELDS.index("amount")
AMOUNT_USD: Final = FIELDS.index("amount_usd")
PRICE_USD: Final = FIELDS.index("price_usd")
REMOVED: Final = FIELDS.index("removed")
BLOCK_NUMBER: Final = FIELDS.index("block_number")
LEG: Final = FIELDS.index("leg")
RESERVE_TOKEN: Final = FIELDS.index("reserve_token")
RESERVE_QUOTE: Final = FIELDS.index("reserve_quote")
FIRST_LABEL: Final = BLOCK_HASH
"""From here to TRADER, the fields are labels: a blank one is absent."""

_REQUIRED: Final = sum(
    1 << each for each in (CHAIN, TOKEN, TX_HASH, LOG_INDEX, TIMESTAMP, SIDE, AMOUNT)
)
_UNKNOWN: Final = -1
_LONGEST_TEXT: Final = 256

# Kinds of values, as bits; a field accepts a set of kinds.
_NOT_PLAIN: Final = 0
_TEXT: Final = 1
_WHOLE: Final = 2
_FRACTION: Final = 4
_FLAG: Final = 8
_NULL: Final = 16
_ANY: Final = 31
_DECIMAL: Final = _TEXT | _WHOLE | _FRACTION
_ACCEPTED: Final = np.array(
    [_TEXT] * 3  # chain, token, tx_hash
    + [_TEXT | _NULL] * (TRADER + 1 - FIRST_LABEL)
    + [_WHOLE, _WHOLE | _TEXT, _TEXT, _DECIMAL]  # log_index, timestamp, side, amount
    + [_DECIMAL | _NULL, _DECIMAL | _NULL, _FLAG]  # amount_usd, price_usd, removed
    + [_WHOLE | _NULL, _WHOLE | _NULL]  # block_number, leg
    + [_DECIMAL | _NULL] * 2  # reserve_token, reserve_quote
)

# No two keys share both their length and the third letter from their end, so these select the only
# candidate for a key, and one comparison decides.
_LETTERS: Final = 32
_TELLING: Final = 3
_LONGEST_KEY: Final = max(map(len, FIELDS))
_FIELD_AT: Final = np.full((_LONGEST_KEY + 1, _LETTERS), _UNKNOWN, np.int64)
_KEYS: Final = np.zeros((len(FIELDS), _LONGEST_KEY), np.uint8)
for _place, _name in enumerate(FIELDS):
    _FIELD_AT[len(_name), ord(_name[-_TELLING]) % _LETTERS] = _place
    _KEYS[_place, : len(_name)] = list(_name.encode())

_SPACE: Final = ord(" ")
_QUOTE: Final = ord('"')
_COMMA: Final = ord(",")
_POINT: Final = ord(".")
_ZERO: Final = ord("0")
_COLON: Final = ord(":")
_FIRST_PRINTABLE: Final = np.uint8(ord(" "))
_BACKSLASH: Final = np.uint8(ord("\\"))
_OPEN: Final = ord("{")
_CLOSE: Final = ord("}")
_DELETE: Final = np.uint8(127)
_ASCII_END: Final = 128
_N: Final = ord("n")
_T: Final = ord("t")
_F: Final = ord("f")
_TRUE: Final = np.frombuffer(b"true", np.uint8)
_FALSE: Final = np.frombuffer(b"false", np.uint8)
_NULL_WORD: Final = np.frombuffer(b"null", np.uint8)


@compiled
def scan(data: Array, ends: Array, spans: Array, plain: Array) -> None:
    """Fill `spans` [event, field, (begin, end)] and `plain` [event].

    `data` holds the events one after another and `ends` the end of each. The caller initialises
    `spans` with ABSENT, which stays where a field is absent, null, or a blank label. The span of a
    text excludes its quotes.
    """
    begin = 0
    for i in range(len(ends)):
        plain[i] = _scan_object(data, begin, ends[i], spans[i])
        begin = ends[i]


@compiled
def _scan_object(data: Array, at: int, end: int, spans: Array) -> bool:
    # Without control characters and backslashes, every quote begins or ends a text, and a text is
    # its own value: nothing below has to handle escapes.
    strange, high = _survey(data, at, end)
    if strange:
        return False
    seen = 0  # A bit for each field.
    at = _skip_spaces(data, at, end)
    if at == end or data[at] != _OPEN:
        return False
    while True:
        at = _skip_spaces(data, at + 1, end)
        if at >= end or data[at] != _QUOTE:
            return False
        key = at + 1
        at = _closing_quote(data, key, end)
        field = _field(data, key, at)
        # Bytes above ASCII may be invalid UTF-8, which only the rules check. In a symbol they are
        # checked once, when the rules accept the name; anywhere else the event is not plain.
        ascii_key = not high or not _has_high(data, key, at)
        at = _skip_spaces(data, at + 1, end)
        if at >= end or data[at] != _COLON or not ascii_key:
            return False
        at = _skip_spaces(data, at + 1, end)
        begin, stop, kind = _value(data, at, end)
        if high and kind == _TEXT and field != SYMBOL and _has_high(data, begin, stop):
            return False
        if field == _UNKNOWN:
            # An unknown field is ignored, but a nested value needs a real JSON parser.
            if kind == _NOT_PLAIN:
                return False
        elif (
            # A repeated key and a long text are left to the rules, which cut a label by characters.
            not kind & _ACCEPTED[field]
            or seen >> field & 1
            or (kind == _TEXT and stop - begin > _LONGEST_TEXT)
        ):
            return False
        else:
            seen |= 1 << field
            # `rules` turns a blank label into None.
            blank = FIRST_LABEL <= field <= TRADER and _skip_spaces(data, begin, stop) == stop
            if kind != _NULL and not blank:
                spans[field, 0], spans[field, 1] = begin, stop
        at = _skip_spaces(data, stop + 1 if kind == _TEXT else stop, end)
        if at >= end:
            return False
        if data[at] == _CLOSE:
            break
        if data[at] != _COMMA:
            return False
    return seen & _REQUIRED == _REQUIRED and _skip_spaces(data, at + 1, end) == end


@compiled
def _survey(data: Array, begin: int, end: int) -> tuple[bool, bool]:
    """Return whether there are control characters or escapes, and whether there is non-ASCII.

    The loop has no branches and compares bytes with bytes, so that it can be vectorised.
    """
    strange = np.uint8(0)
    high = np.uint8(0)
    for byte in data[begin:end]:
        strange |= (
            np.uint8(byte < _FIRST_PRINTABLE)
            | np.uint8(byte == _BACKSLASH)
            | np.uint8(byte == _DELETE)
        )
        high |= byte
    return strange != 0, high >= _ASCII_END


@compiled
def _has_high(data: Array, begin: int, end: int) -> bool:
    for at in range(begin, end):
        if data[at] >= _ASCII_END:
            return True
    return False


@compiled
def _skip_spaces(data: Array, at: int, end: int) -> int:
    while at < end and data[at] == _SPACE:
        at += 1
    return at


@compiled
def _closing_quote(data: Array, at: int, end: int) -> int:
    while at < end and data[at] != _QUOTE:
        at += 1
    return at


@compiled
def _field(data: Array, begin: int, end: int) -> int:
    length = end - begin
    if not _TELLING <= length <= _LONGEST_KEY:
        return _UNKNOWN
    field = _FIELD_AT[length, data[end - _TELLING] % _LETTERS]
    if field == _UNKNOWN:
        return _UNKNOWN
    for place in range(length):
        if data[begin + place] != _KEYS[field, place]:
            return _UNKNOWN
    return field


@compiled
def _value(data: Array, at: int, end: int) -> tuple[int, int, int]:
    """Return (begin, end, kind) of the value at `at`."""
    if at >= end:
        return at, at, _NOT_PLAIN
    first = data[at]
    if first == _QUOTE:
        stop = _closing_quote(data, at + 1, end)
        return at + 1, stop, _TEXT if stop < end else _NOT_PLAIN
    if first == _T:
        return _literal(data, at, end, _TRUE, _FLAG)
    if first == _F:
        return _literal(data, at, end, _FALSE, _FLAG)
    if first == _N:
        return _literal(data, at, end, _NULL_WORD, _NULL)
    return _number(data, at, end)


@compiled
def _literal(data: Array, at: int, end: int, word: Array, kind: int) -> tuple[int, int, int]:
    stop = at + len(word)
    if stop > end:
        return at, at, _NOT_PLAIN
    for place in range(len(word)):
        if data[at + place] != word[place]:
            return at, at, _NOT_PLAIN
    return at, stop, kind


@compiled
def _number(data: Array, begin: int, end: int) -> tuple[int, int, int]:
    """Match digits, or digits with a point in between; no sign, exponent or leading zero.

    A sign does not match. An exponent follows the match, where the caller expects a comma or the
    end of the object, so the event is not plain either.
    """
    at = _skip_digits(data, begin, end)
    if at == begin or (data[begin] == _ZERO and at > begin + 1):
        return begin, begin, _NOT_PLAIN
    if at == end or data[at] != _POINT:
        return begin, at, _WHOLE
    stop = _skip_digits(data, at + 1, end)
    return begin, stop, _FRACTION if stop > at + 1 else _NOT_PLAIN


@compiled
def _skip_digits(data: Array, at: int, end: int) -> int:
    while at < end and np.uint8(data[at] - _ZERO) <= 9:
        at += 1
    return at
