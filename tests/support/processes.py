"""Is a process still there, and what does it leave? For tests that end processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from redis import Redis as RedisClient

from infra.embedded.redis import Redis

# Often asked over HTTP: at shorter times it would keep a node busy, and pass its rate limit.
_POLL_S = 0.03


def alive(pid: int) -> bool:
    """Whether `pid` runs; one that ended and waits to be reaped by its parent does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not stat.parents[1].exists()  # no /proc at all: believe the signal


def wait_until(holds: Callable[[], bool], within_s: float, what: str) -> None:
    """Wait for a condition; AssertionError names it where it does not come true in time."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(_POLL_S)


def wait_gone(pids: Iterable[int], within_s: float = 5) -> None:
    """Wait until none of `pids` runs."""
    left = list(pids)
    wait_until(lambda: not any(map(alive, left)), within_s, f"the end of processes {left}")


def kill_with_all_written(redis: Redis, within_s: float = 30) -> None:
    """kill -9 a Redis when its file holds all that it answered.

    Behind a slow fsync Redis holds writes back for up to two seconds.
    """
    with RedisClient.from_url(redis.url) as client:
        wait_until(
            lambda: client.info("persistence")["aof_buffer_length"] == 0, within_s, "a written file"
        )
    redis.kill()
