"""The body of an ingest request for the API's description: the schema of an event, and examples.

The rules are those of the decoder (docs/design.md, section 3); `tests/unit/ingest` checks that the
examples pass it.
"""

from __future__ import annotations

import json
from typing import Any, Final

from aggregator.contracts.ids import CHAIN_PATTERN
from api.ingest.body import JSON, NDJSON

_DECIMAL: Final = {
    "type": ["string", "number"],
    "description": "decimal; a string keeps every digit",
}
_DECIMAL_OR_NULL: Final = {"type": ["string", "number", "null"]}
_LABEL: Final = {"type": ["string", "null"], "description": "longer than 256 characters: cut"}
_WHOLE: Final = {"type": "integer", "minimum": 0, "maximum": 2**63 - 1}

EVENT_SCHEMA: Final[dict[str, Any]] = {
    "title": "SwapEvent",
    "description": "One swap of one token; an unknown member is ignored. Counted once is "
    "(chain, tx_hash, log_index, token).",
    "type": "object",
    "properties": {
        "chain": {"type": "string", "pattern": f"^{CHAIN_PATTERN}$"},
        "tx_hash": {
            "type": "string",
            "minLength": 1,
            "maxLength": 128,
            "pattern": r"^[^\s:]+$",
            "description": "of an exchange: the trade id",
        },
        "log_index": _WHOLE,
        "timestamp": {
            "type": ["integer", "string"],
            "description": "ms since the epoch, or ISO 8601 with a zone",
        },
        "token": {"type": "string", "minLength": 1, "maxLength": 1024},
        "side": {"type": "string", "enum": ["buy", "sell"], "description": "of the token"},
        "amount": {**_DECIMAL, "description": "of the token, above 0; a string keeps every digit"},
        "amount_usd": {**_DECIMAL_OR_NULL, "description": "null: unpriced"},
        "price_usd": _DECIMAL_OR_NULL,
        "removed": {"type": "boolean", "description": "true: the chain took this swap back"},
        "leg": {"type": ["integer", "null"], "enum": [0, 1, None]},
        "block_number": {**_WHOLE, "type": ["integer", "null"]},
        **dict.fromkeys(
            ("block_hash", "symbol", "quote", "quote_token", "venue", "pool", "trader"), _LABEL
        ),
        **dict.fromkeys(("reserve_token", "reserve_quote"), _DECIMAL_OR_NULL),
    },
    "required": ["chain", "tx_hash", "log_index", "timestamp", "token", "side", "amount"],
}

_WETH: Final = "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
_USDC: Final = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"
_COMMON: Final = {
    "chain": "ethereum",
    "tx_hash": "0x5c504ed432cb51138bcf09aa5e8a410dd4a1e204ef84bfed1be16dfba1b22060",
    "log_index": 112,
    "block_number": 20_412_345,
    "block_hash": "0x88e96d4537bea4d9c05d12549907b32561d3bf31f45aae734cdc119f13406cb6",
    "timestamp": 1_763_913_600_000,
    "venue": "uniswap-v3",
    "pool": "0x88e6a0c2ddd26feeb64f039a2c41296fcb3f5640",
    "trader": "0x28c6c06298d514db089934071355e5743bf21d60",
    "amount_usd": "2917.75",
}
SWAPS: Final[list[dict[str, Any]]] = [
    {**_COMMON, "token": _WETH, "symbol": "WETH", "side": "buy", "amount": "1", "quote": "USDC"},
    {
        **_COMMON,
        "token": _USDC,
        "symbol": "USDC",
        "side": "sell",
        "amount": "2917.75",
        "quote": "WETH",
        "leg": 1,
    },
]

_EVENT: Final = {"$ref": "#/components/schemas/SwapEvent"}
BODIES: Final[dict[str, Any]] = {
    JSON: {
        "schema": {"oneOf": [{"type": "array", "items": _EVENT, "minItems": 1}, _EVENT]},
        "examples": {
            "both_legs": {"summary": "both legs of a swap", "value": SWAPS},
            "one": {"summary": "one swap", "value": SWAPS[0]},
        },
    },
    NDJSON: {
        "schema": {"type": "string", "description": "a SwapEvent in JSON a line"},
        "example": "".join(f"{json.dumps(swap)}\n" for swap in SWAPS),
    },
}

ERRORS: Final[list[dict[str, Any]]] = [
    {
        "line": 7,
        "reason": "rule",
        "field": "amount",
        "message": "-1: must be above 0 and below 1e30",
    }
]
ANSWER: Final[dict[str, Any]] = {"accepted": 498, "rejected": 1, "errors": ERRORS}
