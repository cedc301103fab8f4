"""Ports on the loopback address: is one taken, find one that is not."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below the range that Linux and macOS take outgoing connections' ports from, so that a port that is
# free now is not lost to a client's connection before the engine binds it, or while it restarts.
_FREE_PORTS = range(18_000, 32_000)
_share = slice(None)
_handed_out: set[int] = set()


def is_free(port: int) -> bool:
    """Whether an engine could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # as the engines do: connections of an engine that just ended do not count
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def keep_to_share(index: int, count: int) -> None:
    """Give out the ports of one of `count` shares only.

    For processes that start engines at the same moment: a port that one was given, and whose engine
    does not listen yet, looks free to the others.
    """
    global _share  # noqa: PLW0603 - the ports are the machine's, and so is the process's share
    _share = slice(index, None, count)


def free_port() -> int:
    """A port that nobody listens on and that this process was not given before."""
    candidates = [port for port in _FREE_PORTS[_share] if port not in _handed_out]
    # pytest plugins seed the global generator: two runs would then collide on every port
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if is_free(port):
            _handed_out.add(port)
            return port
    raise OSError("no free port on the loopback address")


def next_free(port: int) -> int:
    """`port`, or the first above it that nobody listens on."""
    return next(p for p in range(port, 65_536) if p not in _handed_out and is_free(p))
