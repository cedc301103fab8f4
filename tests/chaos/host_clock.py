"""Runs a Python program on a host whose clock a test sets.

    python -m tests.chaos.host_clock FILE PROGRAM ARGUMENT...

FILE holds 8 bytes, a little-endian int64: by how many ms `time.time` and `time.time_ns` are ahead.
The program sees a change at its next reading. The monotonic clock goes on, and `datetime.now`,
which stamps the log lines, shows the true time.
"""

from __future__ import annotations

import mmap
import os
import runpy
import struct
import sys
import time
from pathlib import Path

_OFFSET = struct.Struct("<q")


def set_clock(file: Path, ahead_ms: int) -> None:
    """Set the clock of the programs that run with `file`; makes the file if it is not there."""
    descriptor = os.open(file, os.O_CREAT | os.O_WRONLY, 0o644)
    try:
        os.pwrite(descriptor, _OFFSET.pack(ahead_ms), 0)
    finally:
        os.close(descriptor)


def _follow(file: Path) -> None:
    with file.open("rb") as opened:
        offset = mmap.mmap(opened.fileno(), _OFFSET.size, access=mmap.ACCESS_READ)
    true_ns = time.time_ns

    def time_ns() -> int:
        return true_ns() + _OFFSET.unpack_from(offset)[0] * 1_000_000

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


if __name__ == "__main__":
    _follow(Path(sys.argv[1]))
    del sys.argv[:2]
    runpy.run_path(sys.argv[0], run_name="__main__")
