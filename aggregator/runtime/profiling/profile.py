"""A profile as values: stacks, and what was measured at each.

This module knows no file format and takes no samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class StackFrame(NamedTuple):
    """A line of code in a stack; `first_line` is the first line of its function."""

    function: str
    file: str
    line: int
    first_line: int = 0


class ValueKind(NamedTuple):
    """The name and the unit of one value of every sample."""

    name: str
    unit: str


# The innermost frame comes first, as in pprof.
Stack = tuple[StackFrame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What was measured, per thread and stack.

    `samples` maps a thread's name ("" for none) and a stack to one value for each of `kinds`.
    `period` is the amount of `period_kind` between two samples.
    """

    kinds: tuple[ValueKind, ...]
    samples: Mapping[tuple[str, Stack], tuple[int, ...]]
    began_ns: int
    took_ns: int
    period_kind: ValueKind
    period: int
