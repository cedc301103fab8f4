"""The timeline of a game as one self-contained SVG: faults at the top, their effects below."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from html import escape
from itertools import groupby
from operator import itemgetter
from typing import Final

from tests.gameday.game import Played

_WIDTH, _LEFT, _RIGHT, _TOP = 1500, 130, 25, 175
_PLOT: Final = _WIDTH - _LEFT - _RIGHT
_HEIGHT: Final = 560
_GREEN, _RED, _AMBER, _BLUE, _INK = "#2e9e55", "#d43d3d", "#e2a12b", "#3b7dd8", "#7a828c"
_STYLE: Final = (
    "<style>text{font:12px system-ui,sans-serif;fill:#7a828c}.t{font-size:13px;font-weight:600}"
    ".f{font-size:11.5px}</style>"
)
Scale = Callable[[float], float]


def timeline(played: Played) -> str:
    """Time runs to the right. A fault's bar is red while it lasts, amber until recovery."""
    span = max(1, played.ended - played.begun)

    def x(at: float) -> float:
        return _LEFT + min(1.0, max(0.0, (at - played.begun) / span)) * _PLOT

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="Timeline of the game day">{_STYLE}',
        *_faults(played, x),
        *_ready(played, x),
        *_fresh(played, x),
        *_archive(played, x),
        *_axis(played, x),
        "</svg>",
    ]
    return "\n".join(parts)


def _faults(played: Played, x: Scale) -> list[str]:
    parts = [_label("faults", _TOP + 12)]
    for recovery in played.recoveries:
        strike = recovery.strike
        begin, repaired = x(strike.at), x(strike.repaired_at)
        end = x(strike.at + recovery.total_s * 1000)
        parts += [
            _rect(begin, _TOP, max(3.0, max(end, repaired) - begin), 16, _AMBER),
            _rect(begin, _TOP, max(3.0, repaired - begin), 16, _RED),
            f'<line x1="{begin:.1f}" x2="{begin:.1f}" y1="{_TOP - 4}" y2="{_HEIGHT - 50}" '
            f'stroke="{_INK}" stroke-opacity=".25"/>',
            f'<text class="f" transform="translate({begin + 5:.1f} {_TOP - 8}) rotate(-52)">'
            f"{strike.number} {escape(strike.kind.replace('_', ' '))}</text>",
        ]
    return parts


def _ready(played: Played, x: Scale) -> list[str]:
    parts = []
    nodes = sorted({node for look in played.looks for node in look.ready})
    for row, node in enumerate(nodes):
        y = _TOP + 34 + row * 26
        parts.append(_label(f"{node} ready", y + 13))
        looks = [(look.at, look.ready[node]) for look in played.looks]
        parts += _band(looks, played, x, y)
    return parts


def _band(looks: list[tuple[int, bool]], played: Played, x: Scale, y: float) -> Iterable[str]:
    """One rectangle for each run of looks of the same colour."""
    looks = [look for look in looks if look[0] <= played.ended]
    start = 0
    for number in range(1, len(looks) + 1):
        if number < len(looks) and looks[number][1] == looks[start][1]:
            continue
        until = looks[number][0] if number < len(looks) else played.ended
        left = x(looks[start][0])
        good = looks[start][1]
        width = x(until) - left if good else max(1.5, x(until) - left)
        yield _rect(left, y, width, 18, _GREEN if good else _RED)
        start = number


def _fresh(played: Played, x: Scale) -> list[str]:
    most = played.game.sockets
    points = [(line["at"], line["fresh"]) for line in played.crowd if line["at"] <= played.ended]
    return _graph("clients fresh", f"{most:,}", points, most, _TOP + 100, x, _GREEN)


def _archive(played: Played, x: Scale) -> list[str]:
    points = [
        (look.at, (look.archive_ms or 0) / 1000) for look in played.looks if look.at <= played.ended
    ]
    most = max(10.0, max((value for _, value in points), default=0.0))
    return _graph("archive lag", f"{most:.0f} s", points, most, _TOP + 220, x, _BLUE)


def _graph(
    name: str,
    top: str,
    points: list[tuple[int, float]],
    most: float,
    y: float,
    x: Scale,
    colour: str,
) -> list[str]:
    height = 90.0
    base = y + height
    points = _extremes(points, x)
    line = " ".join(f"{x(at):.1f},{base - value / most * height:.1f}" for at, value in points)
    area = f"{x(points[0][0]):.1f},{base} {line} {x(points[-1][0]):.1f},{base}" if points else ""
    return [
        _label(name, y + 12),
        f'<text x="{_LEFT - 6}" y="{y + 28}" text-anchor="end">{top}</text>',
        f'<text x="{_LEFT - 6}" y="{base}" text-anchor="end">0</text>',
        f'<line x1="{_LEFT}" x2="{_LEFT + _PLOT}" y1="{base}" y2="{base}" stroke="{_INK}"/>',
        f'<polygon points="{area}" fill="{colour}" fill-opacity=".3"/>',
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.3"/>',
    ]


def _extremes(points: list[tuple[int, float]], x: Scale) -> list[tuple[int, float]]:
    """Keep the lowest and the highest of the points that share a pixel."""
    kept: list[tuple[int, float]] = []
    for _, same in groupby(points, key=lambda point: int(x(point[0]))):
        ordered = sorted(same, key=itemgetter(1))
        ends = ordered[:1] if ordered[0][1] == ordered[-1][1] else [ordered[0], ordered[-1]]
        kept += sorted(ends)
    return kept


def _axis(played: Played, x: Scale) -> list[str]:
    y = _HEIGHT - 48
    minutes = (played.ended - played.begun) / 60_000
    step = next((s for s in (0.25, 0.5, 1, 2, 5, 10) if minutes / s <= 20), 30)
    parts = []
    for number in range(int(minutes / step) + 1):
        at = x(played.begun + number * step * 60_000)
        parts.append(
            f'<text x="{at:.1f}" y="{y + 14}" text-anchor="middle">{number * step:g}</text>'
        )
    parts += [
        f'<text x="{_LEFT - 6}" y="{y + 14}" text-anchor="end">minutes</text>',
        _rect(_LEFT, y + 26, 12, 12, _RED),
        f'<text x="{_LEFT + 18}" y="{y + 36}">a fault lasts; a node is not ready</text>',
        _rect(_LEFT + 260, y + 26, 12, 12, _AMBER),
        f'<text x="{_LEFT + 278}" y="{y + 36}">removed, not yet recovered for all users</text>',
        _rect(_LEFT + 530, y + 26, 12, 12, _GREEN),
        f'<text x="{_LEFT + 548}" y="{y + 36}">ready; clients with numbers under 3 s old</text>',
    ]
    return parts


def _label(text: str, y: float) -> str:
    return f'<text class="t" x="{_LEFT - 6}" y="{y}" text-anchor="end">{escape(text)}</text>'


def _rect(x: float, y: float, width: float, height: float, colour: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="2" '
        f'fill="{colour}"/>'
    )
