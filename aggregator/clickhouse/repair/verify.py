"""Compares the three tables of the archive over one UTC day, token by token.

The truth is what raw_swaps holds, each row once and by its sign; daily_token_agg and candles_1m
must give the same sums and prices. The signs of each swap must add up to 0 or 1. Only reads.
ClickHouse computes the sums, an hour of the day at a time for the candles, which are kept by the
minute.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec

from aggregator.clickhouse.connection import ClickHouseClient

_SETTINGS: Final = {
    "readonly": 2,
    "max_execution_time": 1_800,
    "max_bytes_before_external_group_by": 1_000_000_000,
}
_SUMS: Final = ("trades", "volume_usd", "buy_volume_usd", "volume_token")
_PRICES: Final = ("open_usd", "high_usd", "low_usd", "close_usd")
_COUNTS: Final = ("buys", "unpriced", "late", "retracted")
HOURS: Final = 24

# Rows with equal keys are one row that was inserted twice; FINAL returns it once.
_RAW: Final = """
    sum(toInt64(sign)) AS trades,
    toString(sum(toDecimal128(ifNull(amount_usd, 0), 6) * sign)) AS volume_usd,
    toString(sumIf(toDecimal128(ifNull(amount_usd, 0), 6) * sign, side = 'buy')) AS buy_volume_usd,
    toString(sumIf(amount * sign, isNotNull(amount_usd))) AS volume_token,
    argMinIf(price_usd, (timestamp, `partition`, `offset`), sign > 0) AS open_usd,
    maxIf(price_usd, sign > 0) AS high_usd,
    minIf(price_usd, sign > 0) AS low_usd,
    argMaxIf(price_usd, (timestamp, `partition`, `offset`), sign > 0) AS close_usd"""

_KEPT: Final = """
    sum(t.trades) AS trades,
    toString(sum(t.volume_usd)) AS volume_usd,
    toString(sum(t.buy_volume_usd)) AS buy_volume_usd,
    toString(sum(t.volume_token)) AS volume_token,
    if(isNull(max(t.high_usd)), NULL, argMinMerge(t.open_usd)) AS open_usd,
    max(t.high_usd) AS high_usd,
    min(t.low_usd) AS low_usd,
    if(isNull(max(t.high_usd)), NULL, argMaxMerge(t.close_usd)) AS close_usd"""

_RAW_COUNTS: Final = """,
    sumIf(toInt64(sign), side = 'buy') AS buys,
    sumIf(toInt64(sign), isNull(amount_usd)) AS unpriced,
    toInt64(countIf(verdict = 'L')) AS late,
    toInt64(countIf(sign < 0)) AS retracted"""

_KEPT_COUNTS: Final = """,
    sum(t.buys) AS buys, sum(t.unpriced) AS unpriced, sum(t.late) AS late,
    sum(t.retracted) AS retracted"""

_OF_RAW: Final = """FROM raw_swaps FINAL
    WHERE sign != 0 AND timestamp >= fromUnixTimestamp64Milli(%(since)s, 'UTC')
    AND timestamp < fromUnixTimestamp64Milli(%(until)s, 'UTC')"""

# A row of sign -1 has the time of the row that it negates, so any span of time must add up.
_TWICE: Final = f"""
    SELECT chain, token, count()
    FROM (
        SELECT chain, token, cityHash64(tx_hash, log_index) AS id, sum(toInt64(sign)) AS stands
        {_OF_RAW}
        GROUP BY chain, token, id HAVING stands < 0 OR stands > 1
    )
    GROUP BY chain, token ORDER BY chain, token
"""  # noqa: S608

_RAW_DAY: Final = f"""SELECT chain, token, toString(%(day)s) AS at, {_RAW}{_RAW_COUNTS}
    {_OF_RAW}"""

_KEPT_DAY: Final = f"""SELECT chain, token, toString(day) AS at, {_KEPT}{_KEPT_COUNTS}
    FROM daily_token_agg AS t WHERE day = %(day)s"""  # noqa: S608

_RAW_MINUTES: Final = f"""
    SELECT chain, token, toString(toStartOfMinute(toDateTime(timestamp, 'UTC'))) AS at, {_RAW}
    {_OF_RAW}"""

_KEPT_MINUTES: Final = f"""SELECT chain, token, toString(minute) AS at, {_KEPT}
    FROM candles_1m AS t WHERE minute >= fromUnixTimestamp64Milli(%(since)s, 'UTC')
    AND minute < fromUnixTimestamp64Milli(%(until)s, 'UTC')"""  # noqa: S608


class Difference(msgspec.Struct, frozen=True):
    """A number that differs from raw_swaps; `at` is the day, or the minute of a candle (UTC).

    `expected` comes from raw_swaps, `found` from `table`; null stands for a row or a price that
    does not exist.
    """

    table: str
    chain: str
    token: str
    at: str
    field: str
    expected: str | None
    found: str | None


class Compared(msgspec.Struct, frozen=True):
    """The result for one day; `differences` holds the first `shown` of them."""

    day: str
    rows: int
    token_days: int
    candles: int
    different: int
    differences: list[Difference]


def verify_day(
    clickhouse: ClickHouseClient,
    day: dt.date,
    *,
    shown: int,
    progress: Callable[[int, int], None],
) -> Compared:
    """Compare one UTC day; call `progress` with the steps done and the steps in all.

    Raises Unavailable and Refused. A day that is being written to may differ for a moment.
    """
    begin = int(dt.datetime.combine(day, dt.time(), dt.UTC).timestamp()) * 1000
    steps = HOURS + 1
    differences: list[Difference] = []
    different = candles = 0
    params = {"day": day, "since": begin, "until": begin + HOURS * 3_600_000}
    daily = list(_daily(clickhouse, params))
    progress(1, steps)
    token_days = len(daily)
    found = [difference for row in daily for difference in _of_row("daily_token_agg", row)]
    different += len(found)
    differences += found[:shown]
    for hour in range(HOURS):
        since = begin + hour * 3_600_000
        found = _twice(clickhouse, since)
        different += len(found)
        differences += found[: shown - len(differences)]
        for row in _minutes(clickhouse, {"since": since, "until": since + 3_600_000}):
            candles += 1
            found = _of_row("candles_1m", row)
            different += len(found)
            differences += found[: shown - len(differences)]
        progress(hour + 2, steps)
    ((rows,),) = clickhouse.execute(
        f"SELECT count() {_OF_RAW}",
        params,
        settings=_SETTINGS,
    )
    return Compared(day.isoformat(), rows, token_days, candles, different, differences)


def _twice(clickhouse: ClickHouseClient, since: int) -> list[Difference]:
    """Return the tokens with swaps of this hour that count more than once, or less than never."""
    params = {"since": since, "until": since + 3_600_000}
    at = dt.datetime.fromtimestamp(since / 1000, dt.UTC).strftime("%Y-%m-%d %H:%M:%S")
    return [
        Difference("raw_swaps", chain, token, at, "swaps_not_counted_once", "0", str(count))
        for chain, token, count in clickhouse.execute(_TWICE, params, settings=_SETTINGS)
    ]


def _daily(clickhouse: ClickHouseClient, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    fields = (*_SUMS, *_PRICES, *_COUNTS)
    return _joined(clickhouse, _RAW_DAY, _KEPT_DAY, fields, params)


def _minutes(clickhouse: ClickHouseClient, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    return _joined(clickhouse, _RAW_MINUTES, _KEPT_MINUTES, (*_SUMS, *_PRICES), params)


def _joined(
    clickhouse: ClickHouseClient,
    raw: str,
    kept: str,
    fields: Sequence[str],
    params: Mapping[str, Any],
) -> Iterator[dict[str, Any]]:
    """Yield each (chain, token, at) of either side with {field: (expected, found)}.

    The values of a side without a row are None.
    """
    names = ", ".join(fields)
    query = f"""
        SELECT chain, token, at, groupArray((side, {names}))
        FROM (
            SELECT 'raw' AS side, chain, token, at, {names}
            FROM ({raw} GROUP BY chain, token, at)
            UNION ALL
            SELECT 'kept', chain, token, at, {names} FROM ({kept} GROUP BY chain, token, at)
        )
        GROUP BY chain, token, at ORDER BY chain, token, at
    """  # noqa: S608 - the texts of this file
    for chain, token, at, sides in clickhouse.execute(query, params, settings=_SETTINGS):
        values = {side[0]: side[1:] for side in sides}
        nothing = (None,) * len(fields)
        expected, found = values.get("raw", nothing), values.get("kept", nothing)
        pairs = dict(zip(fields, zip(expected, found, strict=True), strict=True))
        yield {"chain": chain, "token": token, "at": at, "pairs": pairs}


def _of_row(table: str, row: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(
            table, row["chain"], row["token"], row["at"], field, _text(expected), _text(found)
        )
        for field, (expected, found) in row["pairs"].items()
        if expected != found
    ]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
