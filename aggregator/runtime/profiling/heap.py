"""A heap profile: memory that was allocated during the profile and is still held, by line.

`tracemalloc` sees the allocations of Python's allocators, numpy arrays included, from the moment
that it starts. It makes each allocation two to four times as expensive, so it runs only for the
time of the profile.
"""

from __future__ import annotations

import time
import tracemalloc
from collections import defaultdict
from pathlib import Path
from typing import Final

from aggregator.runtime.profiling.profile import Profile, Stack, StackFrame, ValueKind

_DEPTH: Final = 24
_KINDS: Final = (ValueKind("inuse_objects", "count"), ValueKind("inuse_space", "bytes"))


def held(seconds: float) -> Profile:
    """Trace allocations for `seconds` and return those still held. Blocks the calling thread."""
    began_ns, began = time.time_ns(), time.monotonic_ns()
    traced_before = tracemalloc.is_tracing()
    if not traced_before:
        tracemalloc.start(_DEPTH)
    try:
        time.sleep(seconds)
        snapshot = tracemalloc.take_snapshot()
    finally:
        if not traced_before:
            tracemalloc.stop()
    samples: defaultdict[tuple[str, Stack], list[int]] = defaultdict(lambda: [0, 0])
    for trace in snapshot.traces:
        # tracemalloc puts the innermost line last, pprof first.
        stack = tuple(
            StackFrame(f"{Path(line.filename).name}:{line.lineno}", line.filename, line.lineno)
            for line in reversed(trace.traceback)
            if line.filename != __file__
        )
        values = samples["", stack]
        values[0] += 1
        values[1] += trace.size
    return Profile(
        kinds=_KINDS,
        samples={key: tuple(values) for key, values in samples.items()},
        began_ns=began_ns,
        took_ns=time.monotonic_ns() - began,
        period_kind=_KINDS[1],
        period=1,
    )
