"""One client's session in the engine: database, settings, statements, and how a query is ended.

A session belongs to one thread, except `kill` and the progress callback.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Mapping
from typing import Any, Final

from chdb import _chdb

from infra.embedded.clickhouse_server import blocks
from infra.embedded.clickhouse_server.blocks import Column, WireBlock
from infra.embedded.clickhouse_server.errors import ServerError, from_engine, server_error
from infra.embedded.clickhouse_server.inserter import Inserter
from infra.embedded.clickhouse_server.refused import check_setting
from infra.embedded.clickhouse_server.sql import Insert, Select, SqlCommand
from infra.embedded.clickhouse_server.tokens import literal
from infra.embedded.clickhouse_server.wire import MemoryReader

Progress = Mapping[str, int]
_RUNNING_BY: Final = "log_comment"
# the kinds of default whose columns an INSERT without a column list fills
_INSERTED: Final = {"", "DEFAULT"}
# settings whose defaults in the engine suit a person at a prompt, not a server
_AS_A_SERVER: Final = "implicit_select = 0, print_pretty_type_names = 0"
_UNKNOWN_SETTING: Final = 115
_NOT_STREAMED: Final = "Streaming query is not supported"


class ChdbEngine:
    """The engine on its directory; only one process may hold it."""

    def __init__(self, place: str) -> None:
        """`place` is the directory, optionally followed by `?config-file=...`."""
        self._place = place
        self._control = _connect(place)
        self._control_lock = threading.Lock()
        version, self.timezone = self._ask("SELECT version(), timezone()").split("\t")
        major, minor, patch = (int(number) for number in version.split(".")[:3])
        self.version = (major, minor, patch)

    def session(self, tag: str) -> ClientSession:
        """Open a session; `tag` names it among all that run."""
        return ClientSession(self, _connect(self._place), tag)

    def kill(self, mark: str) -> bool:
        """End what runs with this mark; return False if nothing does at this moment.

        The thread of the session gets QUERY_WAS_CANCELLED.
        """
        running_by = f"Settings['{_RUNNING_BY}']"
        return bool(self._ask(f"KILL QUERY WHERE {running_by} = {literal(mark)} ASYNC"))

    def _ask(self, query: str) -> str:
        with self._control_lock:
            return str(self._control.query(query, "TabSeparated").bytes().decode().strip())

    def close(self) -> None:
        """Release the directory."""
        self._control.close()


class ClientSession:
    """Runs one client's statements one at a time; each raises ServerError as ClickHouse would."""

    def __init__(self, engine: ChdbEngine, connection: Any, tag: str) -> None:
        self._engine = engine
        self._connection = connection
        self._tag = self._mark = tag
        self._applied: dict[str, str] = {}
        self._beneath: dict[str, str | None] = {}
        self._query(f"SET {_RUNNING_BY} = {literal(tag)}, {_AS_A_SERVER}")

    def close(self) -> None:
        """Close the session; its running statement ends."""
        self._connection.close()

    def kill(self) -> bool:
        """End the running statement, from another thread; return False if none runs."""
        return self._engine.kill(self._mark)

    def name_query(self, query_id: str) -> None:
        """Make the engine's logs show the client's id of the next query beside the client."""
        mark = f"{self._tag} {query_id}" if query_id else self._tag
        if mark != self._mark:
            self._query(f"SET {_RUNNING_BY} = {literal(mark)}")
            self._mark = mark

    def on_progress(self, report: Callable[[Progress], None]) -> None:
        """Set the callback that an engine thread calls with the sums since a query began."""
        self._connection.set_progress_callback(report)

    def use(self, database: str) -> None:
        """Set the database of unqualified names."""
        self._query(f"USE {_quoted(database)}")

    def apply(self, settings: Mapping[str, str], important: frozenset[str]) -> None:
        """Make `settings`, and those of no earlier query, hold for the next statements.

        An unknown setting is ignored, as in ClickHouse, unless it is among `important`.
        """
        if settings == self._applied:
            return
        for name, value in settings.items():
            check_setting(name, value)
        changed = dict(settings)
        if settings.keys() == self._beneath.keys():
            # Consecutive inserts differ in their token only: set just what changed.
            changed = {
                name: value for name, value in settings.items() if self._applied[name] != value
            }
        else:
            self.restore()
        for name, value in changed.items():
            try:
                before = self._beneath[name] if name in self._beneath else self._value(name)
                self._query(f"SET {_quoted(name)} = {literal(value)}")
            except ServerError as error:
                if error.code == _UNKNOWN_SETTING and name not in important:
                    continue
                self.restore()
                raise
            self._beneath[name] = before
        self._applied = dict(settings)

    def restore(self) -> None:
        """Undo `apply`: the session's own SET statements hold again."""
        self._applied = {}
        while self._beneath:
            name, before = self._beneath.popitem()
            value = "DEFAULT" if before is None else literal(before)
            self._query(f"SET {_quoted(name)} = {value}")

    def _value(self, name: str) -> str | None:
        """Return what the session's SET statements made of a setting, None if nothing."""
        query = "SELECT value FROM system.settings WHERE changed AND name = {name:String}"
        found = list(self._blocks(self._query(query, {"name": name})))
        return MemoryReader(found[0].columns[0].data).text() if found else None

    def select(self, statement: Select, parameters: Mapping[str, str]) -> Generator[WireBlock]:
        """Yield the rows block by block as they come; at least one block, for the columns' names.

        Close the iterator to end the query early.
        """
        try:
            stream = self._connection.send_query(
                statement.statement, "Native", params=dict(parameters)
            )
        except RuntimeError as error:
            if _NOT_STREAMED in str(error):
                yield from self.command(SqlCommand(statement.statement, ""), parameters)
                return
            raise from_engine(error) from None
        empty, done = True, False
        try:
            while True:
                try:
                    chunk = self._connection.streaming_fetch_result(stream)
                except RuntimeError as error:
                    done = True
                    raise from_engine(error) from None
                if chunk is None or not chunk.size():
                    done = True
                    break
                for block in self._blocks(chunk):
                    empty = False
                    yield block
        finally:
            if not done:
                self._connection.streaming_cancel_query(stream)
        if empty:
            yield self._header(f"DESCRIBE TABLE ({statement.statement}\n)", parameters)

    def command(self, statement: SqlCommand, parameters: Mapping[str, str]) -> Generator[WireBlock]:
        """Run a statement whose answer, if any, is small."""
        yield from self._blocks(self._query(statement.statement, parameters))

    def sample(self, statement: Insert) -> WireBlock:
        """Return the columns that the rows of an insert must have, without rows."""
        described = self._described(f"DESCRIBE TABLE {statement.table}")
        if statement.columns is None:
            wanted = [name for name, (_, default) in described.items() if default in _INSERTED]
        else:
            wanted = list(statement.columns)
        for name in wanted:
            if name not in described:
                raise server_error(16, f"No such column {name} in table {statement.table}")
            blocks.values_of(described[name][0])
        return WireBlock(0, tuple(Column(name, described[name][0], b"") for name in wanted))

    def insert(self, statement: Insert) -> Inserter:
        """Begin an insert; the session can do nothing else until it ends."""
        return Inserter(self._connection, statement)

    def _query(self, query: str, parameters: Mapping[str, str] | None = None) -> Any:
        try:
            return self._connection.query(query, "Native", params=dict(parameters or {}))
        except RuntimeError as error:
            raise from_engine(error) from None

    def _blocks(self, result: Any) -> Generator[WireBlock]:
        data = result.bytes() if result.size() else b""
        reader = MemoryReader(data)
        while not reader.at_end:
            yield blocks.read_from_engine(reader)

    def _header(self, describe: str, parameters: Mapping[str, str]) -> WireBlock:
        described = self._described(describe, parameters)
        return WireBlock(0, tuple(Column(name, kind, b"") for name, (kind, _) in described.items()))

    def _described(
        self, describe: str, parameters: Mapping[str, str] | None = None
    ) -> dict[str, tuple[str, str]]:
        """Return the type and the kind of default of each column."""
        columns: dict[str, tuple[str, str]] = {}
        for block in self._blocks(self._query(describe, parameters)):
            readers = [MemoryReader(column.data) for column in block.columns[:3]]
            for _ in range(block.rows):
                name, kind, default = (reader.text() for reader in readers)
                columns[name] = (kind, default)
        return columns


def _connect(place: str) -> Any:
    try:
        return _chdb.connect(place)  # type: ignore[attr-defined] # compiled: its stub lacks it
    except RuntimeError as error:
        raise from_engine(error) from None


def _quoted(name: str) -> str:
    return "`" + name.replace("\\", "\\\\").replace("`", "\\`") + "`"
