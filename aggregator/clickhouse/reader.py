"""Reads a token's history from the archive: trades, candles, days.

Makes blocking calls for any number of threads over a pool of connections. Every query has a limit
of time, rows and memory, and takes whatever a client sent as parameters only. Knows nothing of
HTTP.
"""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Context, Decimal
from functools import lru_cache
from typing import Any, Final, NamedTuple

from aggregator.clickhouse.connection import ClickHouseClient, Unavailable
from aggregator.contracts.history import ArchivedCandle, ArchivedTrade, Day
from aggregator.contracts.stats import decimal_text, token_text, usd_text, vwap_text
from aggregator.contracts.units import DAY_MS

QUERY_S: Final = 5
_LIMITS: Final = {
    "readonly": 2,
    "max_execution_time": QUERY_S,
    "max_memory_usage": 1_000_000_000,
    "max_rows_to_read": 200_000_000,
    "max_result_rows": 100_000,
    # Queries are small and several run concurrently: compiling one takes longer than it saves.
    "max_threads": 2,
    "compile_expressions": 0,
    "compile_aggregate_expressions": 0,
}
# The network may take a little longer than the server's own limit.
_RECEIVE_S: Final = QUERY_S + 2
_EXACT: Final = Context(prec=80)
_EPOCH: Final = dt.date(1970, 1, 1)

_OF_TOKEN = "chain = %(chain)s AND token = %(token)s"  # noqa: S105 - a condition

_DAYS_WITH_TRADES: Final = f"""
SELECT
    day, if(%(side)s = '', sum(trades), if(%(side)s = 'buy', sum(buys), sum(trades) - sum(buys))),
    sum(retracted)
FROM daily_token_agg
WHERE {_OF_TOKEN} AND day >= %(first)s AND day <= %(last)s
GROUP BY day HAVING sum(trades) > 0 ORDER BY day DESC
"""  # noqa: S608 - the conditions of this file, no value

_RANGE = f"""{_OF_TOKEN}
    AND timestamp >= fromUnixTimestamp64Milli(%(since)s, 'UTC')
    AND timestamp < fromUnixTimestamp64Milli(%(until)s, 'UTC')"""

# In the reverse order of the sort key, so that ClickHouse reads only as much as the page needs.
# FINAL, LIMIT BY or a search for retractions in this query would make it read the whole range.
_ADDITIONS: Final = f"""
SELECT
    toUnixTimestamp64Milli(timestamp), tx_hash, log_index, hex(marker), side, amount,
    CAST(amount_usd, 'Nullable(Decimal(38, 6))'),
    price_usd, trader, venue, pool, quote, block_number, partition, offset
FROM raw_swaps
WHERE {_RANGE}
    AND sign > 0
    AND (%(side)s = '' OR toString(side) = %(side)s)
    AND (timestamp, tx_hash, log_index, marker)
        < (fromUnixTimestamp64Milli(%(ms)s, 'UTC'), %(tx_hash)s, %(log_index)s,
           toFixedString(unhex(%(marker)s), 16))
ORDER BY timestamp DESC, tx_hash DESC, log_index DESC, marker DESC
LIMIT %(limit)s
"""  # noqa: S608

# A row of sign -1 has the time of the row that it negates. A swap that was removed may be included
# again, at the same time too, so count both; a row that was inserted twice counts once.
_RETRACTED: Final = f"""
SELECT
    toUnixTimestamp64Milli(timestamp) AS ms, tx_hash, log_index,
    uniqExactIf((`partition`, `offset`), sign > 0) AS added,
    uniqExactIf((`partition`, `offset`), sign < 0) AS taken
FROM raw_swaps
WHERE {_RANGE} AND sign != 0
GROUP BY ms, tx_hash, log_index HAVING taken > 0 AND taken >= added
"""  # noqa: S608

# Aggregate whole minutes first, so that a minute whose trades were all retracted sets no price.
_CANDLES: Final = f"""
SELECT
    intDiv(toUnixTimestamp(minute), %(seconds)s) * %(seconds)s AS begins,
    sum(net), sum(volume), sum(buy_volume), sum(tokens),
    argMinMerge(opened), max(high), min(low), argMaxMerge(closed)
FROM
(
    SELECT
        minute, sum(trades) AS net, sum(volume_usd) AS volume, sum(buy_volume_usd) AS buy_volume,
        sum(volume_token) AS tokens, argMinMergeState(open_usd) AS opened, max(high_usd) AS high,
        min(low_usd) AS low, argMaxMergeState(close_usd) AS closed
    FROM candles_1m
    WHERE {_OF_TOKEN} AND minute >= toDateTime(%(since)s, 'UTC')
        AND minute < toDateTime(%(until)s, 'UTC')
    GROUP BY minute HAVING net > 0
)
GROUP BY begins ORDER BY begins
"""  # noqa: S608

_DAYS: Final = f"""
SELECT
    day, sum(trades) AS net, sum(buys), uniqCombinedMerge(14)(traders), sum(unpriced), sum(late),
    sum(retracted), sum(volume_usd), sum(buy_volume_usd), sum(volume_token),
    argMinMerge(open_usd), max(high_usd), min(low_usd), argMaxMerge(close_usd)
FROM daily_token_agg
WHERE {_OF_TOKEN} AND day >= %(first)s AND day < %(last)s
GROUP BY day HAVING net > 0 ORDER BY day
"""  # noqa: S608

_KNOWN: Final = f"SELECT 1 FROM daily_token_agg WHERE {_OF_TOKEN} LIMIT 1"  # noqa: S608


class TradePosition(NamedTuple):
    """The sort position of a trade: ms, then tx_hash, log_index and marker (hex)."""

    ms: int
    tx_hash: str
    log_index: int
    marker: str


class Offset(NamedTuple):
    """The log position of a swap: each swap is archived under one offset."""

    partition: int
    offset: int


class TradePage(NamedTuple):
    """Trades, newest first; `next` is the position of the last one if there may be more.

    `positions` and `offsets` belong to the trades. `seen` holds the offsets of all additions that
    were looked at, including those that were retracted.
    """

    trades: list[ArchivedTrade]
    next: TradePosition | None
    positions: list[TradePosition]
    offsets: list[Offset]
    seen: frozenset[Offset]


class _Day(NamedTuple):
    """A token's day: its start (ms), its trades (of a side), its retractions."""

    start: int
    trades: int
    retracted: int


class HistoryReader:
    """The archive in one ClickHouse, for any number of threads.

    Raises Unavailable if ClickHouse cannot be reached or cannot answer within the limits now,
    Refused if it refuses the query itself (tables are missing).
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._idle: list[ClickHouseClient] = []
        self._lock = threading.Lock()

    def close(self) -> None:
        """Close the connections that are not in use."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def knows(self, chain: str, token: str) -> bool:
        """Return whether the archive has ever had a swap of the token."""
        return bool(self._ask(_KNOWN, {"chain": chain, "token": token}))

    def trades(
        self,
        chain: str,
        token: str,
        *,
        since: int,
        until: int,
        side: str | None,
        limit: int,
        after: TradePosition | None,
    ) -> TradePage:
        """Return at most `limit` trades of [since, until) (ms), newest first, that follow `after`.

        The days to read are chosen by their number of trades, so that no day is read for nothing:
        one without a trade of the token, or one that lies on S3.
        """
        start = after or TradePosition(until, "", 0, "00" * 16)
        until = min(until, start.ms + 1)
        token_side = {"chain": chain, "token": token, "side": side or ""}
        days = self._days_with_trades(token_side, since, until)
        found: list[Any] = []
        seen: set[Offset] = set()
        least = 1
        while days and len(found) <= limit:
            count = _days_for(days, limit + 1 - len(found), until, least)
            taken, days = days[:count], days[count:]
            span = {
                **token_side,
                "since": max(since, taken[-1].start),
                "until": min(until, taken[0].start + DAY_MS),
            }
            retracted = any(day.retracted for day in taken)
            found += self._live(span, start, limit + 1 - len(found), retracted, seen)
            # The totals of a day outlive its swaps. Read more days with each query, so that many
            # such days do not take a query each.
            least *= 2
        page = found[:limit]
        positions = [TradePosition(*row[:4]) for row in page]
        return TradePage(
            [_trade(chain, row) for row in page],
            positions[-1] if len(found) > limit else None,
            positions,
            [Offset(*row[-2:]) for row in page],
            frozenset(seen),
        )

    def _live(
        self,
        span: Mapping[str, Any],
        start: TradePosition,
        wanted: int,
        retracted: bool,
        seen: set[Offset],
    ) -> list[Any]:
        """Return at most `wanted` rows of a span of time after `start` that were not retracted.

        `retracted` says whether some may have been. Adds the offsets of all rows that it reads to
        `seen`.
        """
        live: list[Any] = []
        while len(live) < wanted:
            asked = {**span, "until": min(span["until"], start.ms + 1), **start._asdict()}
            rows = self._ask(_ADDITIONS, {**asked, "limit": wanted})
            if rows:
                seen.update(Offset(*row[-2:]) for row in rows)
                gone = self._retracted(span, rows) if retracted else set()
                # A row that was inserted twice and is not merged yet counts once, and so does a
                # swap that was removed and included again: as its newest row.
                once: dict[tuple[Any, ...], Any] = {}
                for row in rows:
                    if row[:3] not in gone and once.get(row[:3], row)[-1] <= row[-1]:
                        once[row[:3]] = row
                live += once.values()
                start = TradePosition(*rows[-1][:4])
            if len(rows) < wanted:
                break
        return live[:wanted]

    def _retracted(self, span: Mapping[str, Any], rows: Sequence[Any]) -> set[tuple[Any, ...]]:
        """Return (ms, tx_hash, log_index) of those rows, given newest first, that are retracted."""
        span = {**span, "since": rows[-1][0], "until": rows[0][0] + 1}
        return {tuple(row[:3]) for row in self._ask(_RETRACTED, span)}

    def candles(
        self, chain: str, token: str, *, since: int, until: int, interval_ms: int
    ) -> list[ArchivedCandle]:
        """Return the candles of [since, until) (ms, multiples of the interval), oldest first."""
        params = {"since": since // 1000, "until": until // 1000, "seconds": interval_ms // 1000}
        rows = self._ask(_CANDLES, {"chain": chain, "token": token, **params})
        return [_candle(row, interval_ms) for row in rows]

    def days(self, chain: str, token: str, *, since: int, until: int) -> list[Day]:
        """Return the days of [since, until) (ms, multiples of a day), oldest first."""
        params = {"first": _date(since), "last": _date(until)}
        rows = self._ask(_DAYS, {"chain": chain, "token": token, **params})
        return [_day(row) for row in rows]

    def _days_with_trades(self, params: Mapping[str, Any], since: int, until: int) -> list[_Day]:
        """Return the days that may have trades in [since, until), newest first."""
        if since >= until:
            return []
        span = {"first": _date(since), "last": _date(until - 1)}
        rows = self._ask(_DAYS_WITH_TRADES, {**params, **span})
        return [_Day(_start_ms(day), trades, retracted) for day, trades, retracted in rows]

    def _ask(self, query: str, params: Mapping[str, Any]) -> Sequence[Any]:
        with self._connection() as connection:
            was_open = connection.connected
            try:
                rows: Sequence[Any] = connection.execute(query, params, settings=_LIMITS)
            except Unavailable as error:
                # An idle connection does not notice that the server was restarted.
                if not was_open or error.code:
                    raise
                rows = connection.execute(query, params, settings=_LIMITS)
        return rows

    @contextmanager
    def _connection(self) -> Iterator[ClickHouseClient]:
        with self._lock:
            connection = self._idle.pop() if self._idle else None
        connection = connection or ClickHouseClient(self._url, receive_s=_RECEIVE_S)
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        with self._lock:
            self._idle.append(connection)


def _days_for(days: Sequence[_Day], trades: int, until: int, least: int) -> int:
    """Return how many of the days, newest first, hold that many trades before `until`.

    Returns all of them if they hold fewer.
    """
    total = 0
    for number, day in enumerate(days, 1):
        # How many trades of a cut day lie before the cut is unknown, so count none.
        total += day.trades if day.start + DAY_MS <= until else 0
        if total >= trades and number >= least:
            return number
    return len(days)


def _trade(chain: str, row: Sequence[Any]) -> ArchivedTrade:
    ms, tx_hash, log_index, _, side, amount, usd, price, *rest = row
    trader, venue, pool, quote, block, _, _ = rest
    return ArchivedTrade(
        event_id=f"{chain}:{tx_hash}:{log_index}",
        timestamp=ms,
        side=side,
        amount=token_text(_units(amount, 18)),
        amount_usd=None if usd is None else usd_text(_units(usd, 6)),
        price_usd=_price(price),
        trader=trader,
        venue=venue,
        pool=pool,
        quote=quote,
        tx_hash=tx_hash,
        log_index=log_index,
        block_number=block,
    )


def _candle(row: Sequence[Any], interval_ms: int) -> ArchivedCandle:
    begins, trades, volume, buy_volume, tokens, opened, high, low, closed = row
    usd, buy_usd, attos = _units(volume, 6), _units(buy_volume, 6), _units(tokens, 18)
    priced = high is not None
    return ArchivedCandle(
        open_time=begins * 1000,
        close_time=begins * 1000 + interval_ms,
        open_usd=_price(opened) if priced else None,
        high_usd=_price(high),
        low_usd=_price(low),
        close_usd=_price(closed) if priced else None,
        volume_usd=usd_text(usd),
        buy_volume_usd=usd_text(buy_usd),
        sell_volume_usd=usd_text(usd - buy_usd),
        volume_token=token_text(attos),
        trades=trades,
        vwap_usd=vwap_text(usd, attos),
    )


def _day(row: Sequence[Any]) -> Day:
    day, trades, buys, traders, unpriced, late, retracted, *rest = row
    volume, buy_volume, tokens, opened, high, low, closed = rest
    usd, buy_usd, attos = _units(volume, 6), _units(buy_volume, 6), _units(tokens, 18)
    priced = high is not None
    return Day(
        day=day.isoformat(),
        open_time=_start_ms(day),
        close_time=_start_ms(day) + DAY_MS,
        trades=trades,
        buys=buys,
        sells=trades - buys,
        traders=traders,
        unpriced=unpriced,
        late=late,
        retracted=retracted,
        volume_usd=usd_text(usd),
        buy_volume_usd=usd_text(buy_usd),
        sell_volume_usd=usd_text(usd - buy_usd),
        net_volume_usd=usd_text(2 * buy_usd - usd),
        volume_token=token_text(attos),
        open_usd=_price(opened) if priced else None,
        high_usd=_price(high),
        low_usd=_price(low),
        close_usd=_price(closed) if priced else None,
        vwap_usd=vwap_text(usd, attos),
    )


def _units(value: Decimal, digits: int) -> int:
    """Convert the decimal to an integer number of 10^-digits, exactly."""
    return int(_EXACT.scaleb(value, digits))


@lru_cache(4_096)  # open, high, low and close are often equal, also across rows
def _price(value: float | None) -> str | None:
    return None if value is None else decimal_text(value)


def _date(ms: int) -> dt.date:
    return _EPOCH + dt.timedelta(days=ms // DAY_MS)


def _start_ms(day: dt.date) -> int:
    return (day - _EPOCH).days * DAY_MS
