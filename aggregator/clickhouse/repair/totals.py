"""Rebuilds the candles and totals of one UTC day from raw_swaps, each row counted once.

Replaces the rows of the day with what its views would have made of raw_swaps; the views' own
queries define that. Run one rebuild at a time, while nothing is archived.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Iterator
from typing import Final

from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.tables import CANDLES_1M, DAILY_TOKEN_AGG, RAW_SWAPS
from aggregator.runtime.errors import Fatal

_LIMITS: Final = {"max_execution_time": 1_800}
_FROM: Final = re.compile(rf"\bFROM\s+(?:\S+\.)?`?{RAW_SWAPS}`?(?=\s)")
# An hour at a time: all minutes of a day together would need too much memory.
_HOURS: Final = 24
_RANGE: Final = (
    "timestamp >= fromUnixTimestamp64Milli(%(since)s, 'UTC') "
    "AND timestamp < fromUnixTimestamp64Milli(%(until)s, 'UTC')"
)


class StillArchiving(Fatal):
    """Rows of the day arrived meanwhile and may count twice: stop the archivers, run it again."""


def rebuild_day(clickhouse: ClickHouseClient, day: dt.date) -> int:
    """Rebuild a day's rows of candles_1m and daily_token_agg; return the rows of raw_swaps.

    May be run again after any failure. Raises StillArchiving, Unavailable and Refused.
    """
    before = _count(clickhouse, day)
    name = day.isoformat()
    clickhouse.execute(f"ALTER TABLE {CANDLES_1M} DROP PARTITION %(day)s", {"day": name})
    clickhouse.execute(
        f"ALTER TABLE {DAILY_TOKEN_AGG} DELETE WHERE day = toDate(%(day)s)",
        {"day": name},
        settings=_LIMITS | {"mutations_sync": 1},
    )
    _fill(clickhouse, DAILY_TOKEN_AGG, _spans(day, 1))
    _fill(clickhouse, CANDLES_1M, _spans(day, _HOURS))
    after = _count(clickhouse, day)
    if after != before:
        raise StillArchiving(
            f"{name}: raw_swaps grew from {before:,} to {after:,} rows meanwhile, which may count "
            "twice; stop the archivers and run this again"
        )
    return after


def _spans(day: dt.date, slices: int) -> Iterator[dict[str, int]]:
    begin = dt.datetime.combine(day, dt.time(), dt.UTC)
    for number in range(slices):
        since, until = (
            int((begin + dt.timedelta(days=each / slices)).timestamp() * 1000)
            for each in (number, number + 1)
        )
        yield {"since": since, "until": until}


def _fill(clickhouse: ClickHouseClient, table: str, spans: Iterator[dict[str, int]]) -> None:
    rows = clickhouse.execute(
        "SELECT as_select FROM system.tables "
        "WHERE database = currentDatabase() AND name = %(view)s",
        {"view": f"{table}_view"},
    )
    of_the_day = f"FROM (SELECT * FROM {RAW_SWAPS} FINAL WHERE {_RANGE}) AS {RAW_SWAPS}"  # noqa: S608
    select, found = _FROM.subn(of_the_day, rows[0][0] if rows else "")
    if found != 1:
        raise Fatal(f"{table}_view is not there, or does not read {RAW_SWAPS}: ensure_topology")
    for span in spans:
        # After a failure the same rows are inserted again; ClickHouse must not drop them as a
        # repeated block.
        settings = _LIMITS | {"insert_deduplicate": 0}
        clickhouse.execute(f"INSERT INTO {table} {select}", span, settings=settings)


def _count(clickhouse: ClickHouseClient, day: dt.date) -> int:
    (span,) = _spans(day, 1)
    ((count,),) = clickhouse.execute(f"SELECT count() FROM {RAW_SWAPS} WHERE {_RANGE}", span)  # noqa: S608
    return int(count)
