"""A minimal WebSocket client, so that one process can hold thousands (RFC 6455).

It handles frames, not their content. The service sends unfragmented text frames, pings and closes;
anything else is a fault of the service and raises.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from typing import Any

TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
_MASK = b"\0\0\0\0"  # a mask of zeros leaves the payload as it is


class Wire(asyncio.Protocol):
    """One connection. It calls `on_frame(payload)` for each text frame.

    The future `opened` gets the status of the handshake, `closed` the code of the close frame or
    None without one.
    """

    def __init__(self, port: int, token: str, on_frame: Callable[[bytes], object]) -> None:
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[int] = loop.create_future()
        self.closed: asyncio.Future[int | None] = loop.create_future()
        self.received_at = loop.time()
        self._loop = loop
        self._request = (
            f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            f"Authorization: Bearer {token}\r\n\r\n"
        ).encode()
        self._on_frame = on_frame
        self._buffer = bytearray()
        self._code: int | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Request the upgrade."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def connection_lost(self, exc: Exception | None) -> None:
        """Handle the end of the connection, orderly or not."""
        if not self.opened.done():
            self.opened.set_result(0)
        if not self.closed.done():
            self.closed.set_result(self._code)

    def data_received(self, data: bytes) -> None:
        """Take the handshake's answer, then frames."""
        self.received_at = self._loop.time()
        self._buffer += data
        if not self.opened.done():
            end = self._buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            self.opened.set_result(int(self._buffer.split(b" ", 2)[1]))
            del self._buffer[: end + 4]
        self._take_frames()

    def _take_frames(self) -> None:
        buffer, at = self._buffer, 0
        while (end := _end_of_frame(buffer, at)) is not None and end[1] <= len(buffer):
            begin, stop = end
            self._on_opcode(buffer[at], bytes(buffer[begin:stop]))
            at = stop
        del buffer[:at]

    def _on_opcode(self, first: int, payload: bytes) -> None:
        if first == 0x80 | TEXT:
            self._on_frame(payload)
        elif first == 0x80 | PING:
            self._write(PONG, payload)
        elif first == 0x80 | CLOSE:
            self._code = int.from_bytes(payload[:2], "big") if payload else None
            self._write(CLOSE, payload[:2])
        elif first != 0x80 | PONG:
            raise ValueError(f"a frame that begins with {first:#x}")

    def send(self, **request: Any) -> None:
        """Send one message."""
        self._write(TEXT, json.dumps(request).encode())

    def _write(self, opcode: int, payload: bytes) -> None:
        size = len(payload)
        length = bytes((0x80 | size,)) if size < 126 else b"\xfe" + size.to_bytes(2, "big")
        if self._transport is not None:
            self._transport.write(bytes((0x80 | opcode,)) + length + _MASK + payload)

    def stop_reading(self) -> None:
        """Stop reading for good."""
        assert self._transport is not None
        self._transport.pause_reading()

    def abort(self) -> None:
        """Cut the connection."""
        if self._transport is not None:
            self._transport.abort()


def _end_of_frame(buffer: bytearray, at: int) -> tuple[int, int] | None:
    """Return the start and end of the frame's payload; None while its head is incomplete."""
    if len(buffer) < at + 2:
        return None
    size = buffer[at + 1]
    width = {126: 2, 127: 8}.get(size, 0)
    begin = at + 2 + width
    if len(buffer) < begin:
        return None
    return begin, begin + (int.from_bytes(buffer[at + 2 : begin], "big") if width else size)


async def connect(
    port: int, token: str, on_frame: Callable[[bytes], object], receive_buffer: int = 0
) -> Wire:
    """Connect and wait for the handshake's answer; raise OSError or TimeoutError.

    `receive_buffer` is the socket's, in bytes; 0 leaves it to the system.
    """
    async with asyncio.timeout(10):
        opened = socket.socket()
        try:
            opened.setblocking(False)
            if receive_buffer:
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(opened, ("127.0.0.1", port))
        except BaseException:
            opened.close()
            raise
        _, wire = await loop.create_connection(lambda: Wire(port, token, on_frame), sock=opened)
        try:
            status = await asyncio.shield(wire.opened)
        except BaseException:
            wire.abort()
            raise
    if status != 101:
        wire.abort()
        raise ConnectionRefusedError(f"the handshake was answered {status}")
    return wire
