"""Helpers for tests that end processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from redis import Redis as RedisClient

from infra.embedded.redis import Redis

# Conditions often poll over HTTP; a shorter pause would keep a node busy and exceed its rate limit.
_POLL_S = 0.03


def alive(pid: int) -> bool:
    """Return whether `pid` runs; a zombie does not count."""
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
    """Wait for a condition. Raises AssertionError with its name if it stays false."""
    deadline = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {within_s} s"
        time.sleep(_POLL_S)


def wait_gone(pids: Iterable[int], within_s: float = 5) -> None:
    """Wait until none of `pids` runs."""
    left = list(pids)
    wait_until(lambda: not any(map(alive, left)), within_s, f"the end of processes {left}")


def kill_with_all_written(redis: Redis, within_s: float = 30) -> None:
    """kill -9 a Redis once its append-only file contains every acknowledged write.

    During a slow fsync Redis delays writes for up to two seconds.
    """
    with RedisClient.from_url(redis.url) as client:
        wait_until(
            lambda: client.info("persistence")["aof_buffer_length"] == 0, within_s, "a written file"
        )
    redis.kill()
