"""A profile for a person: a flame graph as one SVG, and the same as folded lines.

The picture has no script and no style sheet, so it shows under the strictest content policy; what
a box is stands in its tooltip. Folded lines (`outer;inner 12`) are what Brendan Gregg's
flamegraph.pl, speedscope and others read.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from typing import Final

from aggregator.runtime.profiling.profile import Frame, Profile

WIDTH: Final = 1600
_ROW: Final = 18
_LETTER: Final = 7.0
_THINNEST: Final = 0.4


def folded(profile: Profile, kind: str) -> str:
    """A line a stack, the outermost frame first, with its value of the kind."""
    lines: Counter[str] = Counter()
    for path, value in _paths(profile, kind):
        lines[";".join(each.replace(";", ",") for each in path)] += value
    return "".join(f"{path} {value}\n" for path, value in sorted(lines.items()))


def svg(profile: Profile, kind: str) -> str:
    """The flame graph of one kind of value, the outermost frames at the top."""
    [unit] = [each.unit for each in profile.kinds if each.name == kind]
    root = _Box("all")
    for path, value in _paths(profile, kind):
        root.add(path, value)
    picture = _Picture(WIDTH / max(1, root.value), root.value, unit)
    picture.draw(root, 0.0, 0)
    height = (picture.deepest + 3) * _ROW
    title = f"{kind} over {profile.took_ns / 1e9:.1f} s"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="monospace" font-size="11">'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>'
        f'<text x="4" y="{_ROW}">{escape(title)}</text>{"".join(picture.boxes)}</svg>\n'
    )


def _paths(profile: Profile, kind: str) -> list[tuple[list[str], int]]:
    place = [each.name for each in profile.kinds].index(kind)
    return [
        ([thread or "process", *(_name(frame) for frame in reversed(stack))], values[place])
        for (thread, stack), values in profile.samples.items()
        if values[place]
    ]


def _name(frame: Frame) -> str:
    return f"{frame.function} ({frame.file.rpartition('/')[2]})"


@dataclass(slots=True)
class _Box:
    name: str
    value: int = 0
    inner: dict[str, _Box] = field(default_factory=dict)

    def add(self, path: list[str], value: int) -> None:
        box = self
        box.value += value
        for name in path:
            box = box.inner.setdefault(name, _Box(name))
            box.value += value


@dataclass(slots=True)
class _Picture:
    """`scale` is the width of one of the `total`, whose unit is `unit`."""

    scale: float
    total: int
    unit: str
    boxes: list[str] = field(default_factory=list)
    deepest: int = 0

    def draw(self, box: _Box, x: float, depth: int) -> None:
        """Write the box and those in it."""
        width = box.value * self.scale
        if width < _THINNEST:
            return
        self.deepest = max(self.deepest, depth)
        share = 100 * box.value / max(1, self.total)
        shown = box.name[: int(width / _LETTER)] if width > 3 * _LETTER else ""
        y = (depth + 1) * _ROW + _ROW // 2
        hue = zlib.crc32(box.name.encode()) % 55
        self.boxes.append(
            f"<g><title>{escape(box.name)}: {_amount(box.value, self.unit)}, {share:.1f} %</title>"
            f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.3):.1f}" height="{_ROW - 1}" '
            f'rx="2" fill="hsl({hue},85%,68%)"/>'
            f'<text x="{x + 3:.1f}" y="{y + 13}">{escape(shown)}</text></g>'
        )
        for each in sorted(box.inner.values(), key=lambda inner: inner.name):
            self.draw(each, x, depth + 1)
            x += each.value * self.scale


def _amount(value: int, unit: str) -> str:
    if unit == "nanoseconds":
        return f"{value / 1e9:.3f} s"
    if unit == "bytes":
        return f"{value / 1024:.1f} KiB"
    return str(value)
