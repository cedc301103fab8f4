"""The bytes of a connection: readers that keep the bytes they skip, and outgoing packets.

Sources of the format: the Python driver's `connection.py`, of which this is the other end, and
ClickHouse's `src/Core/Protocol.h`.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from typing import Final

from clickhouse_driver.bufferedreader import BufferedReader
from clickhouse_driver.protocol import ServerPacketTypes
from clickhouse_driver.varint import make_varint, read_varint

from infra.embedded.clickhouse_server.errors import ProtocolError, ServerError

# the newest revision whose packets this server handles in full; query parameters need 54459
REVISION: Final = 54460
# before a block: field 1, is_overflows = 0; field 2, bucket_num = -1; end of fields
BLOCK_INFO: Final = b"\x01\x00\x02\xff\xff\xff\xff\x00"
_BUFFER_BYTES: Final = 1 << 20
_MAX_TEXT_BYTES: Final = 16 << 20


class SpanReader(BufferedReader):  # type: ignore[misc] # the driver's codecs are compiled
    """The driver's reader of varints and strings, which can also return the raw bytes.

    `begin` marks a position; `span` returns the bytes from there to the current one. Raises
    EOFError at the end.
    """

    buffer: bytearray
    position: int
    current_buffer_size: int

    def __init__(self, size: int = _BUFFER_BYTES) -> None:
        super().__init__(size)
        self._mark = 0
        self._passed: list[bytes] | None = None

    def _refill(self) -> int:
        raise NotImplementedError

    def read_into_buffer(self) -> None:
        """Refill the buffer; the codecs call this when all of it is read."""
        if self._passed is not None:
            self._passed.append(bytes(self.buffer[self._mark : self.current_buffer_size]))
            self._mark = 0
        self.current_buffer_size = self._refill()
        if self.current_buffer_size == 0:
            raise EOFError("the other side ended the connection")

    def begin(self) -> None:
        """Start to keep bytes."""
        self._passed = []
        self._mark = self.position

    def span(self) -> bytes:
        """Return the bytes since `begin`, and stop keeping them."""
        assert self._passed is not None
        self._passed.append(bytes(self.buffer[self._mark : self.position]))
        passed, self._passed = self._passed, None
        return b"".join(passed)

    def skip(self, count: int) -> None:
        """Skip `count` bytes."""
        while count > 0:
            if self.position == self.current_buffer_size:
                self.read_into_buffer()
                self.position = 0
            step = min(count, self.current_buffer_size - self.position)
            self.position += step
            count -= step

    def varint(self) -> int:
        """Read an unsigned LEB128 number."""
        number: int = read_varint(self)
        return number

    def uint8(self) -> int:
        """Read one byte."""
        number: int = self.read_one()
        return number

    def uint64(self) -> int:
        """Read eight bytes, little endian."""
        return int.from_bytes(self.read(8), "little")

    def text(self) -> str:
        """Read a length and that many bytes of UTF-8."""
        length = self.varint()
        if length > _MAX_TEXT_BYTES:
            raise ProtocolError(f"a text of {length} bytes")
        return bytes(self.read(length)).decode(errors="replace")


class SocketReader(SpanReader):
    """Reads from a connection."""

    def __init__(self, connection: socket.socket) -> None:
        super().__init__()
        self._connection = connection

    def _refill(self) -> int:
        return self._connection.recv_into(self.buffer)


class MemoryReader(SpanReader):
    """Reads from bytes in memory."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self.buffer = bytearray(data)
        self.current_buffer_size = len(data)

    def _refill(self) -> int:
        return 0

    @property
    def at_end(self) -> bool:
        """Whether everything was read."""
        return bool(self.position == self.current_buffer_size)


def text(value: str) -> bytes:
    """Encode a length and the bytes of UTF-8."""
    data = value.encode()
    return bytes(make_varint(len(data))) + data


def varints(*values: int) -> bytes:
    """Encode numbers as unsigned LEB128."""
    return b"".join(make_varint(value) for value in values)


def _no_profile_events() -> bytes:
    columns = {
        "host_name": "String",
        "current_time": "DateTime",
        "thread_id": "UInt64",
        "type": "Enum8('increment' = 1, 'gauge' = 2)",
        "name": "String",
        "value": "Int64",
    }
    described = (text(name) + text(kind) + b"\0" for name, kind in columns.items())
    return b"".join((BLOCK_INFO, varints(len(columns), 0), *described))


_NO_PROFILE_EVENTS: Final = _no_profile_events()


class PacketWriter:
    """Sends whole packets to one client; the engine's threads may send progress in between."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()

    def _send(self, packet_type: int, *parts: bytes) -> None:
        with self._lock:
            self._connection.sendall(b"".join((make_varint(packet_type), *parts)))

    def hello(self, name: str, version: tuple[int, int, int], timezone: str) -> None:
        """Send the server's greeting."""
        major, minor, patch = version
        self._send(
            ServerPacketTypes.HELLO,
            text("ClickHouse"),
            varints(major, minor, REVISION),
            text(timezone),
            text(name),
            varints(patch),
        )

    def pong(self) -> None:
        """Answer a ping."""
        self._send(ServerPacketTypes.PONG)

    def data(self, block: bytes) -> None:
        """Send a block as encoded by `WireBlock.for_client`."""
        self._send(ServerPacketTypes.DATA, text(""), block)

    def exception(self, error: ServerError) -> None:
        """Send an exception without a stack trace."""
        self._send(
            ServerPacketTypes.EXCEPTION,
            struct.pack("<i", error.code),
            text("DB::Exception"),
            text(error.message),
            text(""),
            b"\0",
        )

    def progress(self, values: Mapping[str, int]) -> None:
        """Send what was done since the last such packet, by the engine's names."""
        names = ("read_rows", "read_bytes", "total_rows_to_read", "written_rows", "written_bytes")
        # in the protocol the nanoseconds come last
        numbers = [values.get(name, 0) for name in (*names, "elapsed_ns")]
        self._send(ServerPacketTypes.PROGRESS, varints(*numbers))

    def profile_info(self, rows: int, blocks: int, size: int) -> None:
        """Send the rows, blocks and bytes sent; whether a LIMIT cut them off is unknown."""
        self._send(
            ServerPacketTypes.PROFILE_INFO, varints(rows, blocks, size), b"\0", varints(0), b"\0"
        )

    def no_profile_events(self) -> None:
        """Answer a block of an insert: the columns of profile events, without an event."""
        self._send(ServerPacketTypes.PROFILE_EVENTS, text(""), _NO_PROFILE_EVENTS)

    def end_of_stream(self) -> None:
        """Send the end of the query."""
        self._send(ServerPacketTypes.END_OF_STREAM)
