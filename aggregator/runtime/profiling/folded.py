"""A profile as folded lines (`outer;inner 12`).

Source: https://www.brendangregg.com/flamegraphs.html. speedscope, flamegraph.pl and others draw
flame graphs from these lines.
"""

from __future__ import annotations

from collections import Counter

from aggregator.runtime.profiling.profile import Profile, StackFrame


def encode(profile: Profile, kind: str) -> str:
    """Return one line per stack, the outermost frame first, with its value of the kind `kind`."""
    place = [each.name for each in profile.kinds].index(kind)
    lines: Counter[str] = Counter()
    for (thread, stack), values in profile.samples.items():
        if values[place]:
            path = [thread or "process", *(_name(frame) for frame in reversed(stack))]
            lines[";".join(each.replace(";", ",") for each in path)] += values[place]
    return "".join(f"{path} {value}\n" for path, value in sorted(lines.items()))


def _name(frame: StackFrame) -> str:
    return f"{frame.function} ({frame.file.rpartition('/')[2]})"
