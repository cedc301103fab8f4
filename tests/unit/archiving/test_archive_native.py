"""clickhouse-driver's own readers read back what the archive's column encoders write."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import numpy as np
import pytest
from clickhouse_driver.bufferedreader import BufferedReader
from clickhouse_driver.columns.service import read_column
from clickhouse_driver.connection import ServerInfo
from clickhouse_driver.context import Context
from numpy.typing import NDArray

from aggregator.clickhouse.native import Choice, Column, Sparse, Texts, Wide, encoder_of
from aggregator.contracts.swaps import ABSENT
from aggregator.runtime.errors import Fatal


class Bytes(BufferedReader):
    """Encoded bytes as a reader of the driver."""

    def __init__(self, data: bytes) -> None:
        self._data = BytesIO(data)
        super().__init__(65_536)

    def read_into_buffer(self) -> None:
        piece = self._data.read(65_536)
        if not piece:
            raise EOFError
        self.buffer = bytearray(piece)
        self.current_buffer_size = len(piece)


def read_back(kind: str, data: bytes, rows: int) -> list[Any]:
    context = Context()
    context.server_info = ServerInfo("", 26, 9, 0, 54440, "UTC", "", 54440)
    context.client_settings = {
        "strings_as_bytes": False,
        "strings_encoding": "utf-8",
        "use_numpy": False,
        "opentelemetry_traceparent": None,
        "opentelemetry_tracestate": "",
        "quota_key": "",
        "input_format_null_as_default": False,
        "namedtuple_as_json": True,
        "server_side_params": False,
    }
    context.settings = {}
    return list(read_column(context, kind, rows, Bytes(data)))


LONG = "x" * 200
MANY = [f"v{n % 300}" for n in range(1_000)]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("String", ["", "a", "0xäö", LONG]),
        ("LowCardinality(String)", ["b", "a", "b", ""]),
        ("LowCardinality(String)", MANY),
        ("LowCardinality(Nullable(String))", [None, "a", None, "b", "a", ""]),
        ("LowCardinality(Nullable(String))", [None, None]),
        ("LowCardinality(Nullable(String))", [None, *MANY]),
        ("Nullable(String)", [None, "a", "", LONG]),
        ("Nullable(String)", ["a", "b"]),
        ("Nullable(UInt64)", [None, 0, 2**64 - 1]),
        ("Nullable(Float64)", [None, 1.5, 1e-300]),
        ("Int8", [-1, 0, 1]),
        ("Bool", [True, False]),
        ("UInt32", [0, 2**32 - 1]),
        ("UInt64", [0, 2**64 - 1]),
        ("Enum8('buy' = 1, 'sell' = 2)", ["sell", "buy"]),
    ],
)
def test_encoded_values_are_read_back(kind: str, values: list[Any]) -> None:
    assert read_back(kind, encoder_of(kind)(column(kind, values)), len(values)) == values


def column(kind: str, values: list[Any]) -> Column:
    """Return the values in the form that the encoder of this type takes."""
    if "String" in kind:
        return texts(values)
    if kind.startswith("Enum8"):
        return Choice(values, np.arange(len(values)))
    if kind.startswith("Nullable"):
        absent = [value is None for value in values]
        return Sparse(numbers(kind, [value or 0 for value in values]), np.array(absent))
    return numbers(kind, values)


def numbers(kind: str, values: list[Any]) -> NDArray[Any]:
    return np.array(values, np.uint64 if "UInt64" in kind else None)


def texts(values: list[str | None]) -> Texts:
    """Return texts as they lie in a batch, with other bytes before them."""
    text, spans = bytearray(b"..."), np.full((len(values), 2), ABSENT, np.int32)
    for place, value in enumerate(values):
        if value is not None:
            begin = len(text)
            text += value.encode()
            spans[place] = begin, len(text)
    return Texts(np.frombuffer(text, np.uint8), spans)


def digits(number: int) -> tuple[int, int, int]:
    """Return the digits of base 10^18."""
    upper, low = divmod(number, 10**18)
    return *divmod(upper, 10**18), low


def test_decimals_are_exact_in_units_of_their_last_digit() -> None:
    attos = [1, 10**48 - 1, 123456789012345678901234567890123456789012345678, 0, 10**36, 2**64]
    wide = Wide(np.array([digits(number) for number in attos]).T)
    raw = encoder_of("Decimal(76, 18)")(wide)
    read = read_back("Decimal(76, 18)", raw, len(attos))
    assert [int(value.scaleb(18)) for value in read[:1]] == attos[:1]
    assert [int.from_bytes(raw[n : n + 32], "little") for n in range(0, len(raw), 32)] == attos
    kind = "Nullable(Decimal(18, 6))"
    micros = encoder_of(kind)(column(kind, [None, 10_500_000]))
    assert [
        None if v is None else str(v) for v in read_back("Nullable(Decimal(18, 6))", micros, 2)
    ] == [
        None,
        "10.5",
    ]


def test_times_are_ms_and_fixed_strings_bytes() -> None:
    raw = encoder_of("DateTime64(3, 'UTC')")(np.array([1_650_412_853_123]))
    (read,) = read_back("DateTime64(3, 'UTC')", raw, 1)
    assert round(read.timestamp() * 1000) == 1_650_412_853_123
    fixed = np.array([b"abcd", b"\0\xff12"], "V4")
    assert encoder_of("FixedString(4)")(fixed) == b"abcd\0\xff12"


def test_an_unknown_type_is_named() -> None:
    with pytest.raises(Fatal, match=r"Map\(String, String\)"):
        encoder_of("Map(String, String)")
