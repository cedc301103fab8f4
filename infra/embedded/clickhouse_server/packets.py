"""The packets of a client: its greeting and its queries.

Source of the format: the Python driver's `connection.py` and `clientinfo.py`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from clickhouse_driver.protocol import Compression

from infra.embedded.clickhouse_server.errors import ProtocolError, not_supported
from infra.embedded.clickhouse_server.wire import REVISION, SocketReader

_INITIAL_QUERY: Final = 1
_COMPLETE: Final = 2
_IMPORTANT: Final = 1
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_ESCAPED: Final = {"b": "\b", "f": "\f", "r": "\r", "n": "\n", "t": "\t", "0": "\0", "a": "\a",
                   "v": "\v"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's greeting; `database` is empty for the default one."""

    client: str
    database: str
    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Query:
    """A query; `important` names the settings that must not be ignored if they are unknown.

    `parameters` are as the engine takes them, escaped like a value of a TSV file.
    """

    id: str
    text: str
    settings: Mapping[str, str]
    important: frozenset[str]
    parameters: Mapping[str, str]


def read_hello(reader: SocketReader) -> Hello:
    """Read the greeting with its packet type; raises ProtocolError or ServerError."""
    if reader.varint() != 0:
        raise ProtocolError("the connection did not begin with a Hello")
    client = reader.text()
    reader.varint(), reader.varint()
    revision = reader.varint()
    hello = Hello(client, reader.text(), reader.text(), reader.text())
    if revision < REVISION:
        raise not_supported(
            f"clients of protocol revision {revision}", f"{REVISION} or newer is needed"
        )
    return hello


def read_addendum(reader: SocketReader) -> None:
    """Read what follows the server's greeting: a quota key, which this server ignores."""
    reader.text()


def read_query(reader: SocketReader) -> Query:
    """Read a QUERY packet after its type; raises ServerError for what the server cannot do."""
    query_id = reader.text()
    _skip_client_info(reader)
    settings, flags = _settings(reader)
    reader.text()  # the secret of a cluster's servers
    stage, compression = reader.varint(), reader.varint()
    text = reader.text()
    quoted, _ = _settings(reader)
    if stage != _COMPLETE:
        raise not_supported("distributed queries")
    if compression == Compression.ENABLED:
        raise not_supported("compression", "connect without it")
    important = frozenset(name for name, flag in flags.items() if flag & _IMPORTANT)
    parameters = {name: _unquote(value) for name, value in quoted.items()}
    return Query(query_id, text, settings, important, parameters)


def _skip_client_info(reader: SocketReader) -> None:
    if reader.uint8() != _INITIAL_QUERY:
        raise ProtocolError("the query is not a client's own")
    for _ in range(3):
        reader.text()  # initial user, query id, address
    reader.skip(8)  # start time
    reader.skip(1)  # interface
    for _ in range(3):
        reader.text()  # user of the operating system, host, client
    for _ in range(3):
        reader.varint()  # version and revision
    reader.text()  # quota key
    reader.varint()  # distributed depth
    reader.varint()  # version, its last part
    if reader.uint8():  # a trace: its id, its span, state and flags
        reader.skip(16 + 8)
        reader.text()
        reader.skip(1)
    for _ in range(3):
        reader.varint()  # parallel replicas


def _settings(reader: SocketReader) -> tuple[dict[str, str], dict[str, int]]:
    values, flags = {}, {}
    while name := reader.text():
        flags[name] = reader.varint()
        values[name] = reader.text()
    return values, flags


def _unquote(dumped: str) -> str:
    """Return a parameter's value without the quotes of its dump."""
    if len(dumped) < 2 or dumped[0] != "'" or dumped[-1] != "'":
        raise not_supported(f"the parameter value {dumped}")
    return _ESCAPE.sub(lambda found: _ESCAPED.get(found[1], found[1]), dumped[1:-1])
