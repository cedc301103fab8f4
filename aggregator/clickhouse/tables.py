"""The names of the archive's tables and of their storage policy."""

from __future__ import annotations

from typing import Final

RAW_SWAPS: Final = "raw_swaps"
DAILY_TOKEN_AGG: Final = "daily_token_agg"  # noqa: S105 - a table
CANDLES_1M: Final = "candles_1m"
ARCHIVE_EPOCHS: Final = "archive_epochs"
TABLES: Final = (RAW_SWAPS, DAILY_TOKEN_AGG, CANDLES_1M)

POLICY: Final = "tiered"
HOT: Final = "hot"
COLD: Final = "cold"
