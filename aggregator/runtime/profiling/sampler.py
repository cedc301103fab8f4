"""A sampling profiler: the Python stacks of every thread of this process, RATE_HZ times a second.

Each thread has two times: wall time (the samples in which it was seen) and the CPU time that it
used since the previous sample. A sample needs the GIL, so a long call into C appears at the line
that made it, and compiled loops (numba) appear at the line that calls them.

No maintained package does this in process and writes pprof: pypprof was abandoned in 2019,
google-cloud-profiler sends its profiles to Google, pyinstrument, yappi and memray write other
formats, and py-spy needs a second process with rights over this one.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from types import CodeType, FrameType
from typing import Final

from aggregator.runtime.profiling.profile import Profile, Stack, StackFrame, ValueKind

RATE_HZ: Final = 100
_DEEPEST: Final = 256
_KINDS: Final = (
    ValueKind("samples", "count"),
    ValueKind("wall", "nanoseconds"),
    ValueKind("cpu", "nanoseconds"),
)

_Lines = tuple[tuple[CodeType, int], ...]


def sample(seconds: float, rate_hz: int = RATE_HZ) -> Profile:
    """Sample every thread except the caller's, which blocks for `seconds`."""
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


def _frame(code: CodeType, line: int) -> StackFrame:
    return StackFrame(code.co_qualname, code.co_filename, line, code.co_firstlineno)


class _CpuClocks:
    """The CPU time that each thread used since its previous reading; 0 where there is no clock.

    Linux has a CPU clock for each thread; the clock's number is made from the thread's id
    (`CPUCLOCK_PERTHREAD` of the kernel's posix-timers). `time.pthread_getcpuclockid` needs a live
    pthread, and another thread may have ended meanwhile.
    """

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def used_ns(self, native_id: int | None) -> int:
        """Return the nanoseconds used since the previous reading of this thread, 0 at the first."""
        if native_id is None or sys.platform != "linux":
            return 0
        try:
            now = time.clock_gettime_ns((~native_id << 3) | 6)
        except OSError:
            return 0
        used = now - self._seen.get(native_id, now)
        self._seen[native_id] = now
        return used
