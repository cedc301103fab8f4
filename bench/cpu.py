"""CPU time of processes between two instants, sampled from /proc (Linux)."""

from __future__ import annotations

import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Self

_EVERY_S = 0.05
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class CpuMeter:
    """Samples user + system time of each named process while the block runs."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._samples: dict[str, list[tuple[float, float]]] = {name: [] for name in pids}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cpu-meter")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            last = self._done.is_set()
            for name, pid in self._pids.items():
                if (used := cpu_seconds(pid)) is not None:
                    self._samples[name].append((time.time(), used))
            if last:
                return
            self._done.wait(_EVERY_S)

    def between(self, first: float, last: float) -> dict[str, float]:
        """Return the CPU seconds of each process between two instants (epoch seconds) of the block.

        Interpolates linearly between samples. Raises ValueError for an instant outside them.
        """
        return {
            name: _at(samples, last) - _at(samples, first)
            for name, samples in self._samples.items()
        }


def cpu_seconds(pid: int) -> float | None:
    """Return user + system time of a process and its ended children; None if it no longer exists.

    Reads fields 14 to 17 of /proc/pid/stat, see proc(5).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may contain spaces and ")".
    fields = stat.rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / _TICKS_PER_S


def _at(samples: list[tuple[float, float]], instant: float) -> float:
    for (before, low), (after, high) in pairwise(samples):
        if before <= instant <= after:
            return low + (high - low) * (instant - before) / max(after - before, 1e-9)
    raise ValueError("the CPU time of that instant was not sampled")
