"""Blocks in ClickHouse's Native format, split into columns without decoding the values.

The engine reads and writes blocks as of protocol revision 0; a client's blocks have a header and a
byte before each column that the engine's blocks lack. The columns' bytes are equal in both, so they
are copied. Types whose length only their aggregate function knows are refused. Source of the
format: ClickHouse's `src/DataTypes/Serializations`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from infra.embedded.clickhouse_server import wire
from infra.embedded.clickhouse_server.errors import ProtocolError, not_supported
from infra.embedded.clickhouse_server.wire import SpanReader

_DEFAULT_SERIALIZATION: Final = b"\x00"

_WIDTHS: Final = {
    **dict.fromkeys(("Int8", "UInt8", "Bool", "Enum8", "Nothing"), 1),
    **dict.fromkeys(("Int16", "UInt16", "BFloat16", "Date", "Enum16"), 2),
    **dict.fromkeys(("Int32", "UInt32", "Float32", "Date32", "DateTime", "IPv4", "Time"), 4),
    **dict.fromkeys(("Int64", "UInt64", "Float64", "DateTime64", "Time64"), 8),
    **dict.fromkeys(("Int128", "UInt128", "UUID", "IPv6"), 16),
    **dict.fromkeys(("Int256", "UInt256"), 32),
}
_ALIASES: Final = {
    "Point": "Tuple(Float64, Float64)",
    "Ring": "Array(Point)",
    "LineString": "Array(Point)",
    "Polygon": "Array(Ring)",
    "MultiLineString": "Array(LineString)",
    "MultiPolygon": "Array(Polygon)",
}
_HAS_ADDITIONAL_KEYS: Final = 1 << 9
_GLOBAL_DICTIONARY: Final = 1 << 8


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a block; `data` holds its values as they are on the wire."""

    name: str
    type: str
    data: bytes


@dataclass(frozen=True, slots=True)
class WireBlock:
    """Columns of `rows` values each."""

    rows: int
    columns: tuple[Column, ...]

    def header(self) -> WireBlock:
        """Return the same columns without rows, which a client receives first."""
        return WireBlock(0, tuple(Column(column.name, column.type, b"") for column in self.columns))

    def for_client(self) -> bytes:
        """Encode the block for a DATA packet."""
        return wire.BLOCK_INFO + self._encode(_DEFAULT_SERIALIZATION)

    def for_engine(self) -> bytes:
        """Encode the block in the engine's format Native."""
        return self._encode(b"")

    def _encode(self, before_data: bytes) -> bytes:
        parts = [wire.varints(len(self.columns), self.rows)]
        for column in self.columns:
            parts += (wire.text(column.name), wire.text(column.type), before_data, column.data)
        return b"".join(parts)


def read_from_client(reader: SpanReader) -> WireBlock:
    """Read the block of a DATA packet.

    Raises ServerError for a type that cannot be passed on, ProtocolError, EOFError.
    """
    while (field := reader.varint()) != 0:
        if field not in {1, 2}:
            raise ProtocolError(f"field {field} in a block's header")
        reader.skip(1 if field == 1 else 4)
    return _read(reader, from_client=True)


def read_from_engine(reader: SpanReader) -> WireBlock:
    """Read the next block that the engine wrote; raises ServerError, EOFError."""
    return _read(reader, from_client=False)


def _read(reader: SpanReader, *, from_client: bool) -> WireBlock:
    count, rows = reader.varint(), reader.varint()
    columns = []
    for _ in range(count):
        name, kind = reader.text(), reader.text()
        if from_client and reader.uint8():
            raise not_supported(f"the custom serialization of column {name}")
        reader.begin()
        if rows:
            values = values_of(kind)
            values.skip_prefix(reader)
            values.skip(reader, rows)
        columns.append(Column(name, kind, reader.span()))
    return WireBlock(rows, tuple(columns))


class Values(ABC):
    """How the values of a type lie in a column."""

    @abstractmethod
    def skip(self, reader: SpanReader, rows: int) -> None:
        """Skip `rows` values."""

    @abstractmethod
    def skip_prefix(self, reader: SpanReader) -> None:
        """Skip what comes once, before the values of the whole column."""


class _Plain(Values):
    """Values without a prefix."""

    def skip_prefix(self, reader: SpanReader) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Fixed(_Plain):
    width: int

    def skip(self, reader: SpanReader, rows: int) -> None:
        reader.skip(rows * self.width)


class _Text(_Plain):
    def skip(self, reader: SpanReader, rows: int) -> None:
        reader.read_strings_arrow(rows)


@dataclass(frozen=True, slots=True)
class _Nullable(Values):
    of: Values

    def skip_prefix(self, reader: SpanReader) -> None:
        self.of.skip_prefix(reader)

    def skip(self, reader: SpanReader, rows: int) -> None:
        reader.skip(rows)  # a byte per row, 1 for null; a null has a value, too
        self.of.skip(reader, rows)


@dataclass(frozen=True, slots=True)
class _Array(Values):
    of: Values

    def skip_prefix(self, reader: SpanReader) -> None:
        self.of.skip_prefix(reader)

    def skip(self, reader: SpanReader, rows: int) -> None:
        # The end offset of each array; the last one is the number of inner values.
        reader.skip((rows - 1) * 8)
        inner = reader.uint64()
        if inner:
            self.of.skip(reader, inner)


@dataclass(frozen=True, slots=True)
class _Tuple(Values):
    of: tuple[Values, ...]

    def skip_prefix(self, reader: SpanReader) -> None:
        for values in self.of:
            values.skip_prefix(reader)

    def skip(self, reader: SpanReader, rows: int) -> None:
        for values in self.of:
            values.skip(reader, rows)
        if not self.of:
            reader.skip(rows)  # an empty tuple takes a byte per row


@dataclass(frozen=True, slots=True)
class _LowCardinality(Values):
    of: Values

    def skip_prefix(self, reader: SpanReader) -> None:
        reader.skip(8)  # the version of the keys' serialization

    def skip(self, reader: SpanReader, rows: int) -> None:  # noqa: ARG002 # the column has its own count
        flags = reader.uint64()
        if flags & _GLOBAL_DICTIONARY:
            raise not_supported("a LowCardinality column with a dictionary of its own stream")
        if flags & _HAS_ADDITIONAL_KEYS:
            self.of.skip(reader, reader.uint64())
        indexes = reader.uint64()
        # The lowest byte is the type of the keys: 1, 2, 4 or 8 bytes.
        reader.skip(indexes << (flags & 0xFF))


@lru_cache(maxsize=4096)
def values_of(kind: str) -> Values:
    """Return how to skip values of the type `kind`; raises ServerError if that is unknown."""
    name, arguments = _split(_ALIASES.get(kind, kind))
    if name in _WIDTHS or name.startswith("Interval"):
        return _Fixed(_WIDTHS.get(name, 8))
    if name in _MAKERS:
        return _MAKERS[name](arguments)
    raise not_supported(
        f"columns of type {kind}", "select a value of it (finalizeAggregation, toString, ...)"
    )


def _low_cardinality(kind: str) -> Values:
    """Use the type without Nullable: the dictionary holds NULL as a plain value."""
    name, arguments = _split(kind)
    return _LowCardinality(values_of(arguments[0] if name == "Nullable" else kind))


def _elements(arguments: list[str]) -> Values:
    return _Tuple(tuple(values_of(_element(argument)) for argument in arguments))


_MAKERS: Final[dict[str, Callable[[list[str]], Values]]] = {
    "String": lambda _: _Text(),
    "FixedString": lambda of: _Fixed(int(of[0])),
    "Decimal": lambda of: _Fixed(_decimal_width(int(of[0]))),
    "Nullable": lambda of: _Nullable(values_of(of[0])),
    "LowCardinality": lambda of: _low_cardinality(of[0]),
    "Array": lambda of: _Array(values_of(of[0])),
    "Tuple": _elements,
    "Map": lambda of: _Array(_elements(of)),
    "Nested": lambda of: _Array(_elements(of)),
    "SimpleAggregateFunction": lambda of: values_of(of[1]),
}


def _decimal_width(precision: int) -> int:
    return next(width for width, most in ((4, 9), (8, 18), (16, 38), (32, 76)) if precision <= most)


def _element(argument: str) -> str:
    """Return the type of a tuple's element, which may follow a name."""
    if argument.startswith("`"):
        return argument[argument.rindex("` ") + 2 :]
    name, space, kind = argument.partition(" ")
    return kind if space and "(" not in name else argument


def _split(kind: str) -> tuple[str, list[str]]:
    """Split a type: Map(String, Array(UInt8)) -> Map, [String, Array(UInt8)]."""
    name, parenthesis, rest = kind.partition("(")
    if not parenthesis:
        return name, []
    arguments, depth, quote, begin = [], 0, "", 0
    inner = rest[: rest.rindex(")")]
    for place, character in enumerate(inner):
        if quote:
            if character == quote and inner[place - 1] != "\\":
                quote = ""
        elif character in "'`":
            quote = character
        elif character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "," and depth == 0:
            arguments.append(inner[begin:place].strip())
            begin = place + 1
    arguments.append(inner[begin:].strip())
    return name, [argument for argument in arguments if argument]
