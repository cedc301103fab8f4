"""The scopes that a token may hold, for REST, WebSockets and `manage.py issue_token`."""

from __future__ import annotations

from typing import Final

STATS_READ: Final = "stats:read"
HISTORY_READ: Final = "history:read"
WS_CONNECT: Final = "ws:connect"
OPS_READ: Final = "ops:read"
SWAPS_WRITE: Final = "swaps:write"

SCOPES: Final[dict[str, str]] = {
    STATS_READ: "overview and stats, over REST and over every channel but `status`",
    HISTORY_READ: "trades, candles and days of the archive",
    WS_CONNECT: "WebSockets",
    OPS_READ: "status, metrics and profiles",
    SWAPS_WRITE: "sending swaps over HTTP, of the chains in the claim `chains` if there is one",
}
"""Each scope with what it opens."""
