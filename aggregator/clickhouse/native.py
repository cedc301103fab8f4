"""Encodes columns in ClickHouse's Native format, as they go over the wire.

Each column holds the values of all rows one after another, little endian. The driver's own writers
take a Python object per value and round decimals to 28 digits; these take arrays and are exact.
Does no input or output. Sources of the format: ClickHouse's `src/DataTypes/Serializations` and
clickhouse-driver's `columns`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import numpy as np

from aggregator.clickhouse.native_texts import number_texts, put_strings
from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT
from aggregator.runtime.errors import Fatal


class Texts(NamedTuple):
    """UTF-8 texts at `spans` [row, (begin, end)] of `text`; null where a span begins at ABSENT."""

    text: Array
    spans: Array


class Choice(NamedTuple):
    """One of the texts in `options` per row; `keys` holds their indexes."""

    options: Sequence[str]
    keys: Array


class Sparse(NamedTuple):
    """Numbers that are null where `absent` is true."""

    values: Array
    absent: Array


class Wide(NamedTuple):
    """Integers of more than 64 bits as digits of base 10^18, most significant first."""

    digits: Sequence[Array]


Column = Array | Texts | Choice | Sparse | Wide
Encode = Callable[[Any], bytes]
"""One column to its bytes."""

# The most bytes that the LEB128 length of a text takes: enough for 2^35.
_LENGTH_BYTES: Final = 5
_NUMBERS: Final[dict[str, Any]] = {
    "Int8": np.int8,
    "UInt8": np.uint8,
    "UInt16": np.uint16,
    "Bool": np.uint8,
    "UInt32": np.uint32,
    "Int64": np.int64,
    "UInt64": np.uint64,
    "Float64": np.float64,
    "DateTime64": np.int64,
}
# `SerializationLowCardinality.cpp`: the version of the keys' serialization ("shared dictionaries
# with additional keys"), and the flags beside the code of the keys' type.
_KEYS_VERSION: Final = 1
_HAS_ADDITIONAL_KEYS: Final = 1 << 9
_NEEDS_NEW_DICTIONARY: Final = 1 << 10
# (most distinct values, code of the keys' type, that type): the keys take the smallest type that
# can count the dictionary.
_KEY_SIZES: Final = ((1 << 8, 0, np.uint8), (1 << 16, 1, np.uint16), (1 << 32, 2, np.uint32))
_OPTION: Final = re.compile(r"'([^']*)' = (-?\d+)")


def encoder_of(kind: str) -> Encode:
    """Return the encoder of a column of this type.

    Times are integers in the column's unit, decimals are integers in units of their last digit.
    Raises Fatal for a type that the archive's tables do not have.
    """
    name, _, inner = kind.removesuffix(")").partition("(")
    if name in _NUMBERS:
        return _numbers(_NUMBERS[name])
    if name in _OTHERS:
        return _OTHERS[name](inner)
    raise Fatal(
        f"the archive has a column of type {kind}, which the writer does not know: add it to "
        "aggregator/clickhouse/native.py"
    )


def compile_encoders() -> None:
    """Compile the passes, or load them from numba's cache; takes seconds on the first start."""
    texts = Texts(np.zeros(1, np.uint8), np.zeros((1, 2, 2), np.int32)[:, 0])
    for kind in ("String", "LowCardinality(String)"):
        encoder_of(kind)(texts)


def _numbers(kind: Any) -> Encode:
    return lambda values: bytes(np.asarray(values, kind).tobytes())


def _strings(texts: Texts) -> bytes:
    """Encode each text after its length (`SerializationString.cpp`); a null is an empty text."""
    spans = texts.spans
    most = int((spans[:, 1] - spans[:, 0]).sum()) + _LENGTH_BYTES * len(spans)
    out = np.empty(most, np.uint8)
    return bytes(out[: put_strings(texts.text, spans, out)])


def _decimals(precision: int) -> Encode:
    # `DataTypesDecimal.h`: up to 9 digits take 32 bits, 18 take 64, 38 take 128, 76 take 256.
    if precision <= 18:
        return _numbers(np.int64 if precision > 9 else np.int32)
    return lambda numbers: _wide(numbers.digits, 4 if precision <= 38 else 8)


def _wide(digits: Sequence[Array], words: int) -> bytes:
    """Encode each value as `words` words of 32 bits, the lowest word first."""
    found = np.zeros((words, len(digits[0])), np.uint64)
    for digit in digits:
        # Horner's scheme over all rows together: value * 10^9 + half. In base 10^9 a word times the
        # base plus the carry stays below 2^64; in base 10^18 it would not.
        for half in (digit // 10**9, digit % 10**9):
            carried = half.astype(np.uint64)
            for word in found:
                carried += word * np.uint64(10**9)
                word[:] = carried & np.uint64(2**32 - 1)
                carried >>= np.uint64(32)
    return found.T.astype(np.uint32).tobytes()


def _nullable(inner: str) -> Encode:
    encode = encoder_of(inner)

    def encoded(values: Texts | Sparse) -> bytes:
        if isinstance(values, Texts):
            # `SerializationNullable.cpp`: a byte per row, 1 for null, then all values; a null has
            # a value, too, which is ignored.
            return bytes(values.spans[:, 0] == ABSENT) + encode(values)
        return bytes(values.absent) + encode(np.where(values.absent, 0, values.values))

    return encoded


def _low_cardinality(inner: str) -> Encode:
    nullable = inner.startswith("Nullable(")
    encode = encoder_of(inner.removeprefix("Nullable(").removesuffix(")"))

    def encoded(texts: Texts) -> bytes:
        keys, firsts = _numbered(texts)
        index = texts.spans[firsts]
        if nullable:
            # Key 0 of a nullable dictionary is null, whatever text it holds.
            keys += 1
            index = np.concatenate(([[ABSENT, ABSENT]], index), dtype=index.dtype)
        _, code, kind = next(size for size in _KEY_SIZES if len(index) <= size[0])
        # Version, flags with the code of the keys' type, size of the dictionary; then the
        # dictionary, the number of rows, and one key per row. A block brings its dictionary along:
        # the native protocol has no shared one.
        head = np.array(
            [_KEYS_VERSION, _HAS_ADDITIONAL_KEYS | _NEEDS_NEW_DICTIONARY | code, len(index)],
            np.int64,
        )
        return b"".join(
            (
                head.tobytes(),
                encode(Texts(texts.text, index)),
                np.int64(len(keys)).tobytes(),
                keys.astype(kind).tobytes(),
            )
        )

    return encoded


def _numbered(texts: Texts) -> tuple[Array, Array]:
    """Return (the number of each text, -1 for null; the row where each number first occurs)."""
    count = len(texts.spans)
    keys, firsts = np.empty(count, np.int64), np.empty(count, np.int64)
    slots = np.zeros(1 << (2 * count).bit_length(), np.int64)
    return keys, firsts[: number_texts(texts.text, texts.spans, slots, keys, firsts)]


def _enum(inner: str) -> Encode:
    codes = {text: int(code) for text, code in _OPTION.findall(inner)}
    return lambda choice: np.array([codes[text] for text in choice.options], np.int8)[
        choice.keys
    ].tobytes()


_OTHERS: Final[dict[str, Callable[[str], Encode]]] = {
    "String": lambda _: _strings,
    "FixedString": lambda _: np.ndarray.tobytes,
    "Decimal": lambda inner: _decimals(int(inner.split(",")[0])),
    "Enum8": _enum,
    "Nullable": _nullable,
    "LowCardinality": _low_cardinality,
}
