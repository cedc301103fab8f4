"""Reads the minutes of one token from the columns as candles. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.stats import decimal_text, token_text, usd_text
from aggregator.contracts.trades import CandleRow
from aggregator.contracts.units import MINUTE_MS, minute_of
from aggregator.contracts.verdict import Verdict
from aggregator.windows import kernels
from aggregator.windows.bucket import Bucket
from aggregator.windows.columns import LIMBS, WindowColumns
from aggregator.windows.snapshot import HeldSwap

_LIMB_BASE: Final = 10**9
# The fields that a candle shows, in the order in which `_candles_of_rows` takes them apart.
_SHOWN: Final = [
    "minute",
    "trades",
    "points",
    "open",
    "high",
    "low",
    "close",
    "volume0",
    "volume1",
    *[f"amount{limb}" for limb in range(LIMBS)],
    "open_at",
    "open_offset",
    "close_at",
    "close_offset",
]


def minute_rows(columns: WindowColumns, token: int, since_minute: int = 0) -> Array:
    """Return a copy of the buckets of a token from `since_minute` on, the oldest first."""
    places = np.empty(len(columns.row_heads), np.int64)
    used = kernels.rows_of_token(columns, token, places)
    first = int(np.searchsorted(columns.rows["minute"][places[:used]], since_minute))
    return columns.rows[places[first:used]]


class TokenMinutes(NamedTuple):
    """All minutes held of a token, with the trades up to the number `n`.

    `rows` are the buckets of the minutes that have begun, `held` the swaps of future minutes in log
    order.
    """

    n: int
    rows: Array
    held: list[HeldSwap]


def candles_of(minutes: TokenMinutes) -> list[CandleRow]:
    """Return the minutes as candles, the oldest first. Safe on any thread, unlike the engine."""
    # A candle of a future minute shows what readers have seen as trades already.
    coming: dict[int, Bucket] = {}
    for held in minutes.held:
        bucket = coming.setdefault(minute_of(held.swap.timestamp), Bucket())
        if held.verdict == Verdict.COUNTED:
            bucket.add(held.swap, held.offset)
        else:
            bucket.remove(held.swap)
    return [
        *_candles_of_rows(minutes.rows),
        *(_candle_of_bucket(minute, coming[minute]) for minute in sorted(coming)),
    ]


def _candle_of_bucket(minute: int, bucket: Bucket) -> CandleRow:
    prices = (
        bucket.opened[2] if bucket.opened else None,
        bucket.high,
        bucket.low,
        bucket.closed[2] if bucket.closed else None,
    )
    opened, high, low, closed = (None if p is None else decimal_text(p) for p in prices)
    return CandleRow(
        minute_ms=minute * MINUTE_MS,
        open=opened,
        high=high,
        low=low,
        close=closed,
        volume_usd=usd_text(bucket.volume),
        volume_token=token_text(bucket.amount),
        trades=bucket.trades,
        opened_at=bucket.opened[:2] if bucket.opened else None,
        closed_at=bucket.closed[:2] if bucket.closed else None,
    )


def _candles_of_rows(rows: Array) -> list[CandleRow]:
    candles = []
    for row in rows[_SHOWN].tolist():
        minute, trades, points, *prices, volume0, volume1 = row[:9]
        open_at, open_offset, close_at, close_offset = row[-4:]
        amount = 0
        # The highest digit first.
        for limb in row[8 + LIMBS : 8 : -1]:
            amount = amount * _LIMB_BASE + limb
        opened, high, low, closed = map(decimal_text, prices) if points else (None,) * 4
        candles.append(
            CandleRow(
                minute_ms=minute * MINUTE_MS,
                open=opened,
                high=high,
                low=low,
                close=closed,
                volume_usd=usd_text(volume0 + _LIMB_BASE * volume1),
                volume_token=token_text(amount),
                trades=trades,
                opened_at=(open_at, open_offset) if points else None,
                closed_at=(close_at, close_offset) if points else None,
            )
        )
    return candles
