"""Unit tests cannot reach the network, and asyncio still works."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
@pytest.mark.parametrize("call", ["connect", "connect_ex", "bind"])
def test_an_internet_socket_fails_the_test(family: socket.AddressFamily, call: str) -> None:
    with (
        socket.socket(family) as refused,
        pytest.raises(pytest.fail.Exception, match=f"socket.{call}"),
        contextlib.suppress(Exception),
    ):
        getattr(refused, call)(("localhost", 0))


async def test_the_event_loop_and_local_pairs_work() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.setblocking(False)
        right.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_sendall(left, b"ping")
        assert await loop.sock_recv(right, 16) == b"ping"
