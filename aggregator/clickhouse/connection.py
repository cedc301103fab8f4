"""One connection to ClickHouse over the native protocol, with time limits and named errors.

Every module of the archive talks to the server through this one, so the meaning of a failure is
decided in one place: retry after `Unavailable`, do not retry after `Refused`. `Unreadable` is
retried as well, but only an operator can fix its cause. Knows how to reach ClickHouse, not what is
stored there.
"""

from __future__ import annotations

import logging
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from clickhouse_driver import Client
from clickhouse_driver.block import BlockInfo, ColumnOrientedBlock
from clickhouse_driver.defines import DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
from clickhouse_driver.errors import Error as DriverError
from clickhouse_driver.errors import ErrorCodes, ServerException
from clickhouse_driver.protocol import ClientPacketTypes
from clickhouse_driver.varint import write_varint
from clickhouse_driver.writer import write_binary_str

from aggregator.runtime import metrics
from aggregator.runtime.errors import Fatal, Retry

_CONNECT_S: Final = 3.0
_CLIENT_NAME: Final = "swaps"
# The driver would log each failed try; the error that is raised says the same.
logging.getLogger("clickhouse_driver").setLevel(logging.CRITICAL)

# What a healthy server may answer to a good query. Any other exception of the server is a fault of
# the query, the schema or the settings, and would come again.
_TRANSIENT: Final = frozenset(
    {
        ErrorCodes.CANNOT_WRITE_TO_FILE_DESCRIPTOR,
        ErrorCodes.TIMEOUT_EXCEEDED,
        ErrorCodes.CANNOT_ALLOCATE_MEMORY,
        ErrorCodes.TOO_MANY_SIMULTANEOUS_QUERIES,
        ErrorCodes.SOCKET_TIMEOUT,
        ErrorCodes.NETWORK_ERROR,
        ErrorCodes.NO_ZOOKEEPER,
        ErrorCodes.ABORTED,
        ErrorCodes.MEMORY_LIMIT_EXCEEDED,
        ErrorCodes.TABLE_IS_READ_ONLY,
        ErrorCodes.NOT_ENOUGH_SPACE,
        ErrorCodes.TOO_MANY_PARTS,
        ErrorCodes.UNFINISHED,
        ErrorCodes.QUERY_WAS_CANCELLED,
        499,  # S3_ERROR
        745,  # SERVER_OVERLOADED
        ErrorCodes.KEEPER_EXCEPTION,
    }
)
# What a server answers if it cannot read its own files. If it names no part, the query may be at
# fault.
_UNREADABLE: Final = frozenset(
    {
        ErrorCodes.ATTEMPT_TO_READ_AFTER_EOF,
        ErrorCodes.CANNOT_READ_ALL_DATA,
        ErrorCodes.CHECKSUM_DOESNT_MATCH,
        ErrorCodes.CANNOT_OPEN_FILE,
        ErrorCodes.FILE_DOESNT_EXIST,
        ErrorCodes.BAD_SIZE_OF_FILE_IN_DATA_PART,
        ErrorCodes.CORRUPTED_DATA,
        ErrorCodes.CANNOT_DECOMPRESS,
    }
)
# <partition>_<first block>_<last block>_<level>
_PART: Final = re.compile(r"\b\d{6,8}_\d+_\d+_\d+\b")
REPAIR_GUIDE: Final = '"A part that cannot be read" in docs/operations.md'


class Unavailable(Retry):
    """ClickHouse cannot be reached or cannot do this now; `code` is the server's, 0 without one.

    The outcome of the call is unknown.
    """

    def __init__(self, text: str, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class Unreadable(Unavailable):
    """ClickHouse cannot read `part`, a part of the archive, until an operator fixes it."""

    def __init__(self, text: str, code: int, part: str) -> None:
        super().__init__(text, code)
        self.part = part


class Refused(Fatal):
    """ClickHouse refuses this query and would refuse it again; `code` is the server's."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code = code


class ClickHouseClient:
    """One connection, opened by the first call and reopened by the first call after a failure.

    For one thread at a time. Raises Unavailable and Refused. `receive_s` limits how long the server
    may be silent within a call; the setting `max_execution_time` limits the time of a query.
    """

    def __init__(
        self,
        url: str,
        *,
        connect_s: float = _CONNECT_S,
        receive_s: float = 30.0,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        parts = urlsplit(url)
        options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self.address = f"{parts.hostname}:{parts.port or 9000}"
        self.database = unquote(parts.path.strip("/")) or "default"
        self._client = Client(
            parts.hostname,
            port=parts.port or 9000,
            database=self.database,
            user=unquote(parts.username or "default"),
            password=unquote(parts.password or ""),
            secure=options.get("secure", "").lower() in {"1", "true"},
            compression=options.get("compression", False),
            client_name=_CLIENT_NAME,
            connect_timeout=connect_s,
            send_receive_timeout=receive_s,
            sync_request_timeout=receive_s,
            tcp_keepalive=(10, 5, 3),
            disable_reconnect=True,
            settings=dict(settings or {}),
        )

    @property
    def connected(self) -> bool:
        """Whether the connection was open when it was last used."""
        return bool(self._client.connection.connected)

    def connect(self) -> None:
        """Open the connection if needed, and check that the server answers."""
        self.execute("SELECT 1")

    def execute(
        self,
        query: str,
        params: Mapping[str, Any] | None = None,
        *,
        columnar: bool = False,
        with_column_types: bool = False,
        settings: Mapping[str, Any] | None = None,
        query_id: str | None = None,
    ) -> Any:
        """Return the rows of a query (its columns if `columnar`); `%(name)s` marks a parameter."""
        with self._named("asking"):
            return self._client.execute(
                query,
                params,
                columnar=columnar,
                with_column_types=with_column_types,
                settings=dict(settings or {}),
                query_id=query_id,
            )

    def columns_of(self, table: str, names: Sequence[str]) -> list[tuple[str, str]]:
        """Return (name, type) of these columns of a table, in this order.

        Raises Refused if one is missing.
        """
        found = {name: kind for name, kind, *_ in self.execute(f"DESCRIBE TABLE {table}")}
        missing = [name for name in names if name not in found]
        if missing:
            raise Refused(
                f"{table} has no column {', '.join(missing)}", ErrorCodes.NO_SUCH_COLUMN_IN_TABLE
            )
        return [(name, found[name]) for name in names]

    def insert(
        self,
        table: str,
        columns: Sequence[tuple[str, str, bytes]],
        rows: int,
        settings: Mapping[str, Any],
    ) -> None:
        """Insert (name, type, encoded values) as one block over the open connection.

        Never opens a connection: an insert under an intent must not reach the server after a silent
        pause.
        """
        if not self.connected:
            raise Unavailable(f"clickhouse at {self.address}: not connected")
        names = ", ".join(f"`{name}`" for name, _, _ in columns)
        query = f"INSERT INTO {table} ({names}) VALUES"
        client = self._client
        with self._named("inserting"), client.disconnect_on_error(query, dict(settings)):
            client.connection.send_query(query)
            client.connection.send_external_tables(None)
            client.receive_sample_block()
            _send_block(client.connection, columns, rows)
            client.receive_profile_events()
            client.connection.send_data(ColumnOrientedBlock())
            client.receive_profile_events()
            client.receive_end_of_insert_query()

    def abort(self) -> None:
        """End a call that is under way on another thread; it raises Unavailable there.

        `close` is not for this: the driver's state would be reset by both threads.
        """
        used: socket.socket | None = self._client.connection.socket
        if used is not None:
            with suppress(OSError):
                used.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the connection."""
        self._client.disconnect()

    @contextmanager
    def _named(self, doing: str) -> Iterator[None]:
        try:
            yield
        except ServerException as error:
            text = f"clickhouse at {self.address}: {doing}: {_short(error.message)}"
            if part := unreadable_part(error.code or 0, error.message):
                metrics.ARCHIVE_UNREADABLE.inc()
                named = (
                    f"clickhouse at {self.address}: part {part} cannot be read, see {REPAIR_GUIDE}"
                )
                text = f"{named}: {_short(error.message)}"
                raise Unreadable(text, error.code or 0, part) from error
            if error.code in _TRANSIENT:
                raise Unavailable(text, error.code) from error
            raise Refused(text, error.code or 0) from error
        except (DriverError, OSError, EOFError) as error:
            # The connection may be in the middle of a packet, so it cannot be used again.
            self._client.disconnect()
            text = _short(str(error) or type(error).__name__)
            raise Unavailable(f"clickhouse at {self.address}: {doing}: {text}") from error


def unreadable_part(code: int, message: str) -> str:
    """Return the part that a server's error names as unreadable; "" for any other error."""
    found = _PART.search(message) if code in _UNREADABLE else None
    return found[0] if found else ""


def _send_block(connection: Any, columns: Sequence[tuple[str, str, bytes]], rows: int) -> None:
    """Send a DATA packet as `Connection.send_data` and `BlockOutputStream.write` build it."""
    write_varint(ClientPacketTypes.DATA, connection.fout)
    write_binary_str("", connection.fout)
    out = connection.block_out.fout
    BlockInfo().write(out)
    write_varint(len(columns), out)
    write_varint(rows, out)
    # From this revision on, a byte before each column says whether its serialization is custom.
    custom = connection.server_info.used_revision >= DBMS_MIN_REVISION_WITH_CUSTOM_SERIALIZATION
    for name, kind, data in columns:
        write_binary_str(name, out)
        write_binary_str(kind, out)
        out.write(b"\0" + data if custom else data)
    connection.block_out.finalize()


def _short(message: str) -> str:
    """Return the first line of the server's text, without the stack trace."""
    return message.partition("Stack trace:")[0].strip()[:500]
