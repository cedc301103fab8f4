"""What was allocated while somebody looked, and is held still: by the lines that allocated it.

`tracemalloc` sees what Python's allocators gave, numpy's arrays among it, from the moment that it
is on; it makes every allocation two to four times as dear, so it is on only for as long as asked.
"""

from __future__ import annotations

import time
import tracemalloc
from collections import defaultdict
from typing import Final

from aggregator.runtime.profiling.profile import Frame, Kind, Profile, Stack

_DEPTH: Final = 24
_KINDS: Final = (Kind("inuse_objects", "count"), Kind("inuse_space", "bytes"))


def held(seconds: float) -> Profile:
    """Trace for so long, and tell what is held of it. Blocks the caller, not the process."""
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
        # tracemalloc has the innermost line last.
        stack = tuple(
            Frame(f"{line.filename.rpartition('/')[2]}:{line.lineno}", line.filename, line.lineno)
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
