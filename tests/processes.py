"""Is a process still there? For tests that nothing is left running."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path


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
        time.sleep(0.01)


def wait_gone(pids: Iterable[int], within_s: float = 5) -> None:
    """Wait until none of `pids` runs."""
    left = list(pids)
    wait_until(lambda: not any(map(alive, left)), within_s, f"the end of processes {left}")
