"""Listens, and gives each client a thread; an orderly stop ends the clients' queries."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
from typing import Final

from infra.embedded.clickhouse_server.connection import ClientConnection, ServerAccount, Shared
from infra.embedded.clickhouse_server.errors import server_error
from infra.embedded.clickhouse_server.session import ChdbEngine
from infra.embedded.clickhouse_server.wire import PacketWriter

_PART_WITHIN_S: Final = 2


class Server:
    """The native protocol on one port."""

    def __init__(
        self, engine: ChdbEngine, account: ServerAccount, host: str, port: int, max_connections: int
    ) -> None:
        self._engine = engine
        self._account = account
        self._max_connections = max_connections
        self._shared = Shared()
        self._numbers = itertools.count(1)
        self._clients: dict[str, tuple[socket.socket, threading.Thread]] = {}
        self._lock = threading.Lock()
        self._listener = socket.create_server((host, port), backlog=128)

    def serve(self) -> None:
        """Accept clients until `stop`."""
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tag = f"client-{next(self._numbers)}"
            thread = threading.Thread(
                target=self._serve_one, args=(connection, tag), name=tag, daemon=True
            )
            with self._lock:
                self._clients[tag] = (connection, thread)
            thread.start()

    def _serve_one(self, connection: socket.socket, tag: str) -> None:
        try:
            with connection:
                if len(self._clients) > self._max_connections:
                    full = server_error(202, f"Too many connections: {self._max_connections}")
                    PacketWriter(connection).exception(full)
                else:
                    ClientConnection(
                        connection, self._engine, self._account, self._shared, tag
                    ).serve()
                _part(connection)
        except (OSError, EOFError):
            pass  # the client is gone
        finally:
            with self._lock:
                del self._clients[tag]

    def stop(self, within_s: float) -> None:
        """Accept no more clients, end what runs, and wait for the threads."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            clients = list(self._clients.items())
        for _, (connection, _) in clients:
            # its query notices that the client is gone
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for _, (_, thread) in clients:
            thread.join(within_s)


def _part(connection: socket.socket) -> None:
    """Let the client read the last packet: closing with unread bytes would discard it."""
    connection.shutdown(socket.SHUT_WR)
    connection.settimeout(_PART_WITHIN_S)
    while connection.recv(1 << 16):
        pass
