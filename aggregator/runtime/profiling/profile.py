"""A profile as values: stacks, and what was measured at each. Knows no format, takes no sample."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Frame(NamedTuple):
    """A line of code in a stack; `first_line` is where its function begins."""

    function: str
    file: str
    line: int
    first_line: int = 0


class Kind(NamedTuple):
    """What one value of every sample counts, in which unit."""

    name: str
    unit: str


# The innermost frame first, as pprof has it.
Stack = tuple[Frame, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """`samples` has a value of each of `kinds` for a thread's name ("" for none) and stack.

    `period` is how much of `period_kind` stands between two samples.
    """

    kinds: tuple[Kind, ...]
    samples: Mapping[tuple[str, Stack], tuple[int, ...]]
    began_ns: int
    took_ns: int
    period_kind: Kind
    period: int
