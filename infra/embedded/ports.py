"""Free ports on the loopback address."""

from __future__ import annotations

import random
import socket

HOST = "127.0.0.1"
# Below the ephemeral range of Linux and macOS, so that an outgoing connection cannot take a free
# port before the engine binds it, or while the engine restarts.
_FREE_PORTS = range(18_000, 32_000)
_share = slice(None)
_handed_out: set[int] = set()


def is_free(port: int) -> bool:
    """Return whether an engine could listen on `port` now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Engines set SO_REUSEADDR too, so TIME_WAIT connections of an ended engine do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def keep_to_share(index: int, count: int) -> None:
    """Restrict this process to one of `count` shares of the ports.

    For processes that start engines concurrently: a port that one process has chosen looks free to
    the others until its engine listens.
    """
    global _share  # noqa: PLW0603 - the ports are the machine's, and so is the process's share
    _share = slice(index, None, count)


def free_port() -> int:
    """Return a free port that this process was not given before."""
    candidates = [port for port in _FREE_PORTS[_share] if port not in _handed_out]
    # A generator of its own, because pytest plugins seed the global one and two runs would collide.
    random.SystemRandom().shuffle(candidates)
    for port in candidates:
        if is_free(port):
            _handed_out.add(port)
            return port
    raise OSError("no free port on the loopback address")


def next_free(port: int) -> int:
    """Return `port`, or the first free one above it."""
    return next(p for p in range(port, 65_536) if p not in _handed_out and is_free(p))
