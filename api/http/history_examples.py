"""Examples of the history answers for the API's description; a test decodes them as structs."""

from __future__ import annotations

from typing import Any, Final

TRADES: Final[dict[str, Any]] = {
    "trades": [
        {
            "event_id": "ethereum:0x5c50…e1:112",
            "timestamp": 1795428000123,
            "side": "buy",
            "amount": "1250.5",
            "amount_usd": "1251.125250",
            "price_usd": "1.0005",
            "trader": "0x28c6c06298d514db089934071355e5743bf21d60",
            "venue": "uniswap-v3",
            "pool": "0x3416cf6c708da44db2624d63ea0aaef7113527c6",
            "quote": "USDC",
            "tx_hash": "0x5c50…e1",
            "log_index": 112,
            "block_number": 20412345,
        }
    ],
    "next_cursor": "WzE3OTU0MjgwMDAxMjMsIjB4NWM1MCJd:1vS:c2lnbmF0dXJl",
    "live": True,
}

CANDLES: Final[dict[str, Any]] = {
    "candles": [
        {
            "open_time": 1795428000000,
            "close_time": 1795428060000,
            "open_usd": "1.0004",
            "high_usd": "1.0006",
            "low_usd": "1.0001",
            "close_usd": "1.0005",
            "volume_usd": "5120.500000",
            "buy_volume_usd": "3000.250000",
            "sell_volume_usd": "2120.250000",
            "volume_token": "5118.1",
            "trades": 14,
            "vwap_usd": "1.0004689240147711",
        }
    ]
}

DAYS: Final[dict[str, Any]] = {
    "days": [
        {
            "day": "2026-11-23",
            "open_time": 1795392000000,
            "close_time": 1795478400000,
            "trades": 20114,
            "buys": 11002,
            "sells": 9112,
            "traders": 3120,
            "unpriced": 3,
            "late": 12,
            "retracted": 1,
            "volume_usd": "9120500.250000",
            "buy_volume_usd": "5000000.000000",
            "sell_volume_usd": "4120500.250000",
            "net_volume_usd": "879499.750000",
            "volume_token": "9118000.75",
            "open_usd": "1.0002",
            "high_usd": "1.0031",
            "low_usd": "0.9987",
            "close_usd": "1.0005",
            "vwap_usd": "1.000274187174106",
        }
    ]
}
