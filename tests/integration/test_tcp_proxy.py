"""The proxies of these tests: a stopped one leaves no socket to the next test."""

from __future__ import annotations

import asyncio
import gc
import socket

import pytest

from tests.support.slow_wire import SlowWire

# More than the loop needs to accept a connection, to open the other one and to join them.
TURNS = 12


def ended(connection: socket.socket) -> bool:
    """Wait for the other end to close; raise TimeoutError if it stays open."""
    connection.settimeout(5)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize("turns", range(TURNS))
def test_a_proxy_that_stops_while_it_connects_closes_both_sockets(turns: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as target, socket.socket() as client:
        client.setblocking(False)
        target.settimeout(0.05)

        async def play() -> None:
            wire = SlowWire(*target.getsockname())
            await wire.start()
            loop = asyncio.get_running_loop()
            await loop.sock_connect(client, ("127.0.0.1", wire.port))
            for _ in range(turns):
                await asyncio.sleep(0)
            await wire.stop()

        loop = asyncio.new_event_loop()
        loop.run_until_complete(play())
        loop.close()
        assert ended(client)
        try:
            far, _ = target.accept()
        except TimeoutError:
            assert turns < TURNS - 1, "the proxy never connected"
        else:
            with far:
                assert ended(far)
    gc.collect()  # What is open now fails this test.


async def test_bytes_arrive_late_in_order_and_without_delay_after_it() -> None:
    echoed = asyncio.Event()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()
        await writer.wait_closed()
        echoed.set()

    loop = asyncio.get_running_loop()
    async with (
        asyncio.timeout(20),
        await asyncio.start_server(echo, "127.0.0.1", 0) as server,
        SlowWire(*server.sockets[0].getsockname()) as wire,
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", wire.port)
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        wire.delay_s = 0.3
        begun = loop.time()
        for letter in (b"b", b"c", b"d"):
            writer.write(letter)
        assert await reader.readexactly(3) == b"bcd"
        assert loop.time() - begun >= 0.3
        wire.delay_s = 1_000
        writer.write(b"e")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(1), 0.1)
        wire.delay_s = 0
        assert await reader.readexactly(1) == b"e"
        writer.close()
        await writer.wait_closed()
        await echoed.wait()
