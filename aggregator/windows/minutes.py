"""Reads the minutes of one token from the columns as candles. Pure."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.stats import decimal_text, token_text, usd_text
from aggregator.contracts.trades import CandleRow
from aggregator.contracts.units import MINUTE_MS
from aggregator.windows import kernels
from aggregator.windows.columns import BUCKET, LIMBS, NONE, WindowColumns

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
    *("open_ms", "open_block", "open_log", "open_offset"),
    *("close_ms", "close_block", "close_log", "close_offset"),
]


def minute_rows(columns: WindowColumns, token: int, since_minute: int = 0) -> Array:
    """Return a copy of the buckets of a token from `since_minute` on, the oldest first."""
    places = np.empty(len(columns.row_heads), np.int64)
    used = kernels.rows_of_token(columns, token, places)
    first = int(np.searchsorted(columns.rows["minute"][places[:used]], since_minute))
    return columns.rows[places[first:used]]


class TokenMinutes(NamedTuple):
    """All minutes held of a token, with the trades up to the number `n`.

    `rows` (dtype BUCKET) are the buckets of the minutes that have begun, `held` (dtype SWAP) the
    trades of future minutes in log order.
    """

    n: int
    rows: Array
    held: Array


def candles_of(minutes: TokenMinutes) -> list[CandleRow]:
    """Return the minutes as candles, the oldest first. Safe on any thread, unlike the engine."""
    # A candle of a future minute shows what readers have seen as trades already.
    return _candles_of_rows(np.concatenate([minutes.rows, _rows_of_swaps(minutes.held)]))


def _rows_of_swaps(held: Array) -> Array:
    """Return the buckets of the swaps of one token, the oldest first."""
    minutes, places = np.unique(held["timestamp"] // MINUTE_MS, return_inverse=True)
    rows = np.zeros(len(minutes), BUCKET)
    rows["minute"], rows["largest"] = minutes, NONE
    kernels.count_apart(held, places, rows)
    return rows


def _candles_of_rows(rows: Array) -> list[CandleRow]:
    candles = []
    for row in rows[_SHOWN].tolist():
        minute, trades, points, *prices, volume0, volume1 = row[:9]
        (open_ms, *opened_by), (close_ms, *closed_by) = row[-8:-4], row[-4:]
        minute_ms = minute * MINUTE_MS
        amount = 0
        # The highest digit first.
        for limb in row[8 + LIMBS : 8 : -1]:
            amount = amount * _LIMB_BASE + limb
        opened, high, low, closed = map(decimal_text, prices) if points else (None,) * 4
        candles.append(
            CandleRow(
                minute_ms=minute_ms,
                open=opened,
                high=high,
                low=low,
                close=closed,
                volume_usd=usd_text(volume0 + _LIMB_BASE * volume1),
                volume_token=token_text(amount),
                trades=trades,
                opened_at=(minute_ms + open_ms, *opened_by) if points else None,
                closed_at=(minute_ms + close_ms, *closed_by) if points else None,
            )
        )
    return candles
