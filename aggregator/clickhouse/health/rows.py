"""The rows of the health page, the checks that return them, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, Protocol

from aggregator.clickhouse.connection import REPAIR_GUIDE

_UNITS: Final = ("B", "kB", "MB", "GB", "TB", "PB")
_MINUTE, _HOUR, _DAY = 60, 3_600, 86_400


class HealthVerdict(StrEnum):
    """What an operator should do about a row."""

    OK = "ok"
    WATCH = "watch"
    ACT = "act"


@dataclass(frozen=True, slots=True)
class Row:
    """A finding: its current value, the verdict, and what to do if it is not well.

    `share` is how full something is, 0 to 1, if that is what the row is about.
    """

    what: str
    value: str
    verdict: HealthVerdict
    advice: str = ""
    share: float | None = None


class HealthQuery(Protocol):
    """Runs a query with parameters and returns its rows."""

    def __call__(self, query: str, **params: Any) -> list[tuple[Any, ...]]: ...


class Check(Protocol):
    """Queries one aspect and judges it; the first sentence of its docstring is its title."""

    __name__: str

    def __call__(self, ask: HealthQuery, /) -> Sequence[Row]: ...


def ok(what: str, value: str, share: float | None = None) -> Row:
    """Return a row that is well."""
    return Row(what, value, HealthVerdict.OK, "", share)


def watch(what: str, value: str, advice: str, share: float | None = None) -> Row:
    """Return a row to keep an eye on."""
    return Row(what, value, HealthVerdict.WATCH, advice, share)


def act(what: str, value: str, advice: str, share: float | None = None) -> Row:
    """Return a row that needs an operator now."""
    return Row(what, value, HealthVerdict.ACT, advice, share)


def unreadable(part: str, how: str) -> Row:
    """Return the row of a part of the archive that ClickHouse cannot read."""
    advice = f"Rows are hidden, and the archiver may wait: {REPAIR_GUIDE} brings them back."
    return act(f"Part {part}", f"cannot be read: {how}", advice)


def judged(
    what: str,
    value: str,
    measure: float,
    limits: tuple[float, float],
    advice: str,
    *,
    share: float | None = None,
) -> Row:
    """Return a row that is to be watched from the first limit on and acted upon from the second."""
    if measure >= limits[1]:
        return act(what, value, advice, share)
    if measure >= limits[0]:
        return watch(what, value, advice, share)
    return ok(what, value, share)


def size(count: float) -> str:
    """Format bytes for a person, e.g. 1.2 GB (powers of 1000)."""
    unit = 0
    while count >= 999.5 and unit < len(_UNITS) - 1:
        count /= 1000
        unit += 1
    return f"{count:.0f} {_UNITS[unit]}" if unit == 0 else f"{count:.3g} {_UNITS[unit]}"


def span(seconds: float) -> str:
    """Format a length of time for a person, in its two largest units."""
    whole = int(seconds)
    if whole < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < _HOUR:
        return f"{whole // _MINUTE} min {whole % _MINUTE} s"
    if whole < _DAY:
        return f"{whole // _HOUR} h {whole % _HOUR // _MINUTE} min"
    return f"{whole // _DAY} d {whole % _DAY // _HOUR} h"


def counted(number: int, one: str, many: str = "") -> str:
    """Format a number with its word, e.g. 1 part, 2,000 parts."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def has_table(ask: HealthQuery, name: str) -> bool:
    """Return whether this server keeps a log in system.`name`."""
    query = "SELECT 1 FROM system.tables WHERE database = 'system' AND name = %(name)s"
    return bool(ask(query, name=name))
