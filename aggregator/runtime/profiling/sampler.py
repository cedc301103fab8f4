"""Samples the Python stacks of every thread of this process, some times a second.

Of each thread both times are kept: wall time (the samples it was seen in) and the processor time
that it used since the sample before. A sample needs the GIL, so a long call into C is seen at the
line that made it, and compiled loops (numba) stand under the line that calls them.

No package in keeping does this in process and writes pprof: pypprof was left in 2019,
google-cloud-profiler sends its profiles to Google, pyinstrument, yappi and memray write formats of
their own, and py-spy needs a second process with rights over this one.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from types import CodeType, FrameType
from typing import Final

from aggregator.runtime.profiling.profile import Frame, Kind, Profile, Stack

RATE_HZ: Final = 100
_DEEPEST: Final = 256
_KINDS: Final = (Kind("samples", "count"), Kind("wall", "nanoseconds"), Kind("cpu", "nanoseconds"))

_Lines = tuple[tuple[CodeType, int], ...]


def sample(seconds: float, rate_hz: int = RATE_HZ) -> Profile:
    """Sample every thread but the caller's, which is blocked for that long."""
    period_ns = 1_000_000_000 // rate_hz
    own = threading.get_ident()
    clocks = _CpuClocks()
    found: defaultdict[tuple[int, _Lines], list[int]] = defaultdict(lambda: [0, 0, 0])
    names: dict[int, str] = {}
    began_ns, began = time.time_ns(), time.monotonic_ns()
    before = due = began
    while (now := time.monotonic_ns()) - began < seconds * 1e9:
        threads = {thread.ident: thread for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            thread = threads.get(ident)
            if ident == own or thread is None:
                continue
            names[ident] = thread.name
            values = found[ident, _lines(frame)]
            values[0] += 1
            values[1] += now - before
            values[2] += clocks.used_ns(thread.native_id)
        before = now
        due = max(due + period_ns, now)
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
    samples: defaultdict[tuple[str, Stack], list[int]] = defaultdict(lambda: [0, 0, 0])
    for (ident, lines), values in found.items():
        summed = samples[names[ident], tuple(_frame(*line) for line in lines)]
        for place, value in enumerate(values):
            summed[place] += value
    return Profile(
        kinds=_KINDS,
        samples={key: tuple(values) for key, values in samples.items()},
        began_ns=began_ns,
        took_ns=time.monotonic_ns() - began,
        period_kind=_KINDS[1],
        period=period_ns,
    )


def _lines(frame: FrameType | None) -> _Lines:
    lines: list[tuple[CodeType, int]] = []
    while frame is not None and len(lines) < _DEEPEST:
        lines.append((frame.f_code, frame.f_lineno or frame.f_code.co_firstlineno))
        frame = frame.f_back
    return tuple(lines)


def _frame(code: CodeType, line: int) -> Frame:
    return Frame(code.co_qualname, code.co_filename, line, code.co_firstlineno)


class _CpuClocks:
    """Processor time that threads used between two questions; 0 where the system cannot tell.

    Linux has a clock for each thread, its number made of the thread's id (`CPUCLOCK_PERTHREAD` of
    the kernel's posix-timers). Python's own way to it asks for a live pthread, which another
    thread's may no longer be.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def used_ns(self, native_id: int | None) -> int:
        """Nanoseconds since the last question about this thread, 0 at the first."""
        if native_id is None or sys.platform != "linux":
            return 0
        try:
            now = time.clock_gettime_ns((~native_id << 3) | 6)
        except OSError:
            return 0
        used = now - self._seen.get(native_id, now)
        self._seen[native_id] = now
        return used
