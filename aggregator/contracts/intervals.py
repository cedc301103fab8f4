"""The intervals of candles, and the interval at which a web node sends changes.

REST and the WebSocket accept the same intervals, so both read them here.
"""

from __future__ import annotations

from typing import Final, Literal

from aggregator.contracts.units import DAY_MS, HOUR_MS, MINUTE_MS

Interval = Literal["1m", "5m", "15m", "1h", "4h", "1d"]

INTERVALS_MS: Final[dict[str, int]] = {
    "1m": MINUTE_MS,
    "5m": 5 * MINUTE_MS,
    "15m": 15 * MINUTE_MS,
    "1h": HOUR_MS,
    "4h": 4 * HOUR_MS,
    "1d": DAY_MS,
}
"""The length of each interval; candles are aligned to UTC."""

FLUSH_MS: Final = 100
"""A web node flushes each client at least this often, and reuses an overview for this long."""
