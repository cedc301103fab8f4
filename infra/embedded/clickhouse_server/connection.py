"""One client's connection: reads packets, lets the session do what they ask, answers.

The only module that knows the order of packets.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from clickhouse_driver.protocol import ClientPacketTypes

from infra.embedded.clickhouse_server import blocks, packets, sql
from infra.embedded.clickhouse_server.blocks import WireBlock
from infra.embedded.clickhouse_server.errors import (
    QUERY_WAS_CANCELLED,
    ProtocolError,
    ServerError,
    not_supported,
    server_error,
)
from infra.embedded.clickhouse_server.session import ChdbEngine, ClientSession
from infra.embedded.clickhouse_server.watch import Watch
from infra.embedded.clickhouse_server.wire import PacketWriter, SocketReader

_PROGRESS_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class ServerAccount:
    """The user that may connect."""

    user: str
    password: str

    def check(self, hello: packets.Hello) -> None:
        """Raise ServerError if the greeting does not match this account."""
        if (hello.user, hello.password) != (self.user, self.password):
            raise server_error(
                516,
                f"{hello.user}: Authentication failed: password is incorrect, "
                "or there is no user with such name",
            )


class RunningQueries:
    """The ids that clients gave to the queries that run now."""

    def __init__(self) -> None:
        self._ids: set[str] = set()
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self, query_id: str) -> Iterator[None]:
        """Reserve a query id within the block; an empty id is not reserved."""
        with self._lock:
            if query_id in self._ids:
                raise server_error(216, f"Query with id = {query_id} is already running")
            if query_id:
                self._ids.add(query_id)
        try:
            yield
        finally:
            with self._lock:
                self._ids.discard(query_id)


class Shared:
    """What the connections of one server share."""

    def __init__(self) -> None:
        self.watch = Watch()
        self.queries = RunningQueries()


class ClientConnection:
    """Serves one client until it leaves; `serve` runs for the whole life of its thread."""

    def __init__(
        self,
        connection: socket.socket,
        engine: ChdbEngine,
        account: ServerAccount,
        shared: Shared,
        tag: str,
    ) -> None:
        """`tag` names the client among all that are connected."""
        self._socket = connection
        self._engine = engine
        self._account = account
        self._watch = shared.watch
        self._queries = shared.queries
        self._tag = tag
        self._reader = SocketReader(connection)
        self._writer = PacketWriter(connection)
        self._progress = _ProgressReport(self._writer)

    def serve(self) -> None:
        """Answer the client until it leaves or breaks the protocol.

        Raises OSError or EOFError if it leaves in the middle of a packet.
        """
        try:
            session = self._greet()
        except ServerError as error:
            self._writer.exception(error)
            return
        except ProtocolError as error:
            print(f"{self._tag}: {error}", flush=True)
            return
        try:
            session.on_progress(self._progress.add)
            while self._answer(session):
                pass
        except ProtocolError as error:
            print(f"{self._tag}: {error}", flush=True)
        finally:
            session.close()

    def _greet(self) -> ClientSession:
        hello = packets.read_hello(self._reader)
        self._account.check(hello)
        session = self._engine.session(self._tag)
        try:
            if hello.database:
                session.use(hello.database)
            self._writer.hello("embedded", self._engine.version, self._engine.timezone)
            packets.read_addendum(self._reader)
        except BaseException:
            session.close()
            raise
        return session

    def _answer(self, session: ClientSession) -> bool:
        """Read and answer one packet; return False if the connection cannot continue."""
        try:
            kind = self._reader.varint()
        except EOFError:
            return False
        if kind == ClientPacketTypes.PING:
            self._writer.pong()
        elif kind == ClientPacketTypes.QUERY:
            try:
                query = packets.read_query(self._reader)
                self._expect_no_tables()
            except ServerError as error:
                # the rest of the refused packet was not read, so the connection is out of step
                self._writer.exception(error)
                return False
            return self._run(session, query)
        elif kind != ClientPacketTypes.CANCEL:  # a CANCEL may arrive after its query ended
            name = ClientPacketTypes.to_str(kind)
            self._writer.exception(server_error(99, f"Unexpected packet {name} from client"))
            return False
        return True

    def _expect_no_tables(self) -> None:
        """Read the end of the external tables, which the driver sends with each query."""
        if self._next_block() is not None:
            raise not_supported("external tables")

    def _next_block(self) -> WireBlock | None:
        """Read the block of a DATA packet; return None for the empty one that ends them."""
        kind = self._reader.varint()
        if kind == ClientPacketTypes.CANCEL:
            raise server_error(QUERY_WAS_CANCELLED, "Query was cancelled by the client")
        if kind != ClientPacketTypes.DATA:
            raise ProtocolError(f"packet {kind} where data should be")
        self._reader.text()  # a table's name
        block = blocks.read_from_client(self._reader)
        return block if block.columns else None

    def _run(self, session: ClientSession, query: packets.Query) -> bool:
        try:
            with self._queries.running(query.id):
                statement = sql.parse(query.text)
                session.name_query(query.id)
                if isinstance(statement, sql.SqlCommand) and statement.word == "SET":
                    session.restore()
                else:
                    session.apply(query.settings, query.important)
                if isinstance(statement, sql.Insert):
                    return self._insert(session, statement)
                self._read(session, statement, query.parameters)
        except ServerError as error:
            self._writer.exception(error)
        return True

    def _read(
        self,
        session: ClientSession,
        statement: sql.Select | sql.SqlCommand,
        parameters: Mapping[str, str],
    ) -> None:
        found = (
            session.select(statement, parameters)
            if isinstance(statement, sql.Select)
            else session.command(statement, parameters)
        )
        rows = sent = size = 0
        with (
            self._watch.readable(self._socket, session.kill),
            self._progress.live(),
            contextlib.closing(found),
        ):
            try:
                for block in found:
                    if not sent and block.rows:
                        self._writer.data(block.header().for_client())
                    data = block.for_client()
                    self._writer.data(data)
                    rows, sent, size = rows + block.rows, sent + 1, size + len(data)
            except ServerError as error:
                if error.code != QUERY_WAS_CANCELLED or not self._cancelled():
                    raise
        if sent:
            self._writer.profile_info(rows, sent, size)
        self._writer.end_of_stream()

    def _cancelled(self) -> bool:
        """Return whether a CANCEL waits to be read: its sender expects an end, not an exception."""
        try:
            waiting = self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        return waiting == bytes([ClientPacketTypes.CANCEL])

    def _insert(self, session: ClientSession, statement: sql.Insert) -> bool:
        sample = session.sample(statement)
        inserter = session.insert(statement)
        try:
            self._writer.data(sample.for_client())
            while (block := self._next_block()) is not None:
                inserter.append(block)
                self._writer.no_profile_events()
        except BaseException as error:
            inserter.cancel()
            if isinstance(error, ServerError):
                # the client may be in the middle of a block: only a new connection is in step
                self._writer.exception(error)
                return False
            raise
        rows, size = inserter.finish()
        self._writer.no_profile_events()
        self._writer.progress({"written_rows": rows, "written_bytes": size})
        self._writer.end_of_stream()
        return True


class _ProgressReport:
    """Turns the engine's sums into what was done since the last PROGRESS packet.

    Threads of the engine call `add`, which sends a packet from time to time, so the client of a
    long query sees progress.
    """

    def __init__(self, writer: PacketWriter) -> None:
        self._writer = writer
        self._lock = threading.Lock()
        self._live = False
        self._sums: dict[str, int] = {}
        self._sent: dict[str, int] = {}
        self._sent_at = 0.0

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """Allow packets within the block; at its end, send what was not sent yet."""
        with self._lock:
            self._live, self._sums, self._sent = True, {}, {}
            self._sent_at = time.monotonic()
        try:
            yield
            with self._lock:
                self._send()
        finally:
            with self._lock:
                self._live = False

    def add(self, sums: Mapping[str, int]) -> None:
        """Note the progress of the query."""
        with self._lock:
            if not self._live:
                return
            for name, value in sums.items():
                self._sums[name] = max(value, self._sums.get(name, 0))
            if time.monotonic() - self._sent_at > _PROGRESS_EVERY_S:
                with contextlib.suppress(OSError):  # the watch notices that the client is gone
                    self._send()

    def _send(self) -> None:
        new = {name: value - self._sent.get(name, 0) for name, value in self._sums.items()}
        self._sent = dict(self._sums)
        self._sent_at = time.monotonic()
        if any(new.values()):
            self._writer.progress(new)
