"""The minutes of one token, read from the columns as candles. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np

from aggregator.contracts.stats import decimal_text, token_text, usd_text
from aggregator.contracts.trades import CandleRow
from aggregator.window import kernels
from aggregator.window.bucket import MINUTE_MS
from aggregator.window.columns import LIMBS, Array, Columns

_LIMB_BASE: Final = 10**9
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
]


def minute_rows(columns: Columns, token: int) -> Array:
    """A copy of the rows of a token's minutes, the oldest first."""
    places = np.empty(len(columns.row_heads), np.int64)
    used = kernels.rows_of_token(columns, token, places)
    return columns.rows[places[:used]]


def candles_of(rows: Array) -> list[CandleRow]:
    """The rows of a token's minutes as candles. May run on any thread, unlike the engine."""
    candles = []
    for row in rows[_SHOWN].tolist():
        minute, trades, points, *prices, volume0, volume1 = row[:9]
        opened, high, low, closed = map(decimal_text, prices) if points else (None,) * 4
        candles.append(
            CandleRow(
                minute_ms=minute * MINUTE_MS,
                open=opened,
                high=high,
                low=low,
                close=closed,
                volume_usd=usd_text(volume0 + _LIMB_BASE * volume1),
                volume_token=token_text(sum(row[9 + n] * _LIMB_BASE**n for n in range(LIMBS))),
                trades=trades,
            )
        )
    return candles
