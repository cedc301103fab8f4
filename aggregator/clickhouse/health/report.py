"""The state of the archive's ClickHouse, as rows with a verdict and what to do about it.

Reads system tables only, over its own connection with short limits. Knows nothing of how the rows
are shown.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aggregator.clickhouse.connection import ClickHouseClient, Refused, Unavailable, Unreadable
from aggregator.clickhouse.health import background as health_background
from aggregator.clickhouse.health import storage as health_storage
from aggregator.clickhouse.health import writing as health_writing
from aggregator.clickhouse.health.rows import Check, HealthVerdict, Row, unreadable, watch
from aggregator.runtime.errors import SwapsError

__all__ = ["HealthVerdict", "Report", "Row", "Section", "report"]

# Connecting and one missing answer together stay within the 3 s that an operator waits.
_CONNECT_S: Final = 1.4
_RECEIVE_S: Final = 1.4
_LIMITS: Final = {"readonly": 2, "max_execution_time": 1, "max_memory_usage": 500_000_000}


@dataclass(frozen=True, slots=True)
class Section:
    """A titled group of rows."""

    title: str
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """All findings; `down` says why there are none, None if the server answers.

    `attention` holds the rows that are not well, the worst first.
    """

    address: str
    down: str | None
    sections: tuple[Section, ...]

    @property
    def attention(self) -> list[Row]:
        """The rows to look at first: those that need action, then those to watch."""
        rows = [row for section in self.sections for row in section.rows]
        return [row for row in rows if row.verdict is HealthVerdict.ACT] + [
            row for row in rows if row.verdict is HealthVerdict.WATCH
        ]

    @property
    def verdict(self) -> HealthVerdict:
        """The worst verdict of all rows."""
        if self.down is not None:
            return HealthVerdict.ACT
        return self.attention[0].verdict if self.attention else HealthVerdict.OK


_SECTIONS: Final[tuple[tuple[str, tuple[Check, ...]], ...]] = (
    ("Writing", health_writing.CHECKS),
    ("Disks", health_storage.DISK_CHECKS),
    ("Tables", health_storage.TABLE_CHECKS),
    ("Merges and moves", health_background.WORK_CHECKS),
    ("Queries", health_background.QUERY_CHECKS),
    ("Server", health_background.SERVER_CHECKS),
)


def report(url: str) -> Report:
    """Query the server; returns within 3 s if it is down.

    Raises nothing: a failure becomes a row.
    """
    if not url:
        return Report("", "CLICKHOUSE_URL is empty: this deployment keeps no archive", ())
    clickhouse = ClickHouseClient(url, connect_s=_CONNECT_S, receive_s=_RECEIVE_S, settings=_LIMITS)
    try:
        clickhouse.connect()
        sections = tuple(
            Section(title, tuple(row for check in checks for row in _rows(check, clickhouse)))
            for title, checks in _SECTIONS
        )
        return Report(clickhouse.address, None, sections)
    except (SwapsError, OSError) as error:
        return Report(clickhouse.address, str(error), ())
    finally:
        clickhouse.close()


def _rows(check: Check, clickhouse: ClickHouseClient) -> Sequence[Row]:
    def ask(query: str, **params: Any) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = clickhouse.execute(query, params)
        return rows

    try:
        return check(ask)
    except Unreadable as error:
        return [unreadable(error.part, str(error))]
    except (Refused, Unavailable) as error:
        if not error.code:
            raise
        what = (check.__doc__ or check.__name__).partition(".")[0]
        return [watch(what, "cannot be read", str(error))]
