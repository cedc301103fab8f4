"""A client of the swap aggregator's WebSocket: subscribe and iterate over typed updates.

Start with `Client`; docs/websocket.md describes the protocol. Must not import the service's code.
"""

from swapclient.backoff import Backoff
from swapclient.client import Client
from swapclient.errors import (
    AuthRefused,
    ConnectionRefused,
    ProtocolFault,
    RequestRefused,
    SwapClientError,
)
from swapclient.events import (
    CandlesUpdate,
    Gap,
    OverviewUpdate,
    Refused,
    StatsUpdate,
    StatusUpdate,
    TradesUpdate,
)
from swapclient.messages import (
    Candle,
    Overview,
    Partition,
    Status,
    TokenStats,
    Totals,
    Trade,
    WindowStats,
)
from swapclient.session import Condition, State
from swapclient.subscription import Subscription

__version__ = "0.1.0"

__all__ = [
    "AuthRefused",
    "Backoff",
    "Candle",
    "CandlesUpdate",
    "Client",
    "Condition",
    "ConnectionRefused",
    "Gap",
    "Overview",
    "OverviewUpdate",
    "Partition",
    "ProtocolFault",
    "Refused",
    "RequestRefused",
    "State",
    "StatsUpdate",
    "Status",
    "StatusUpdate",
    "Subscription",
    "SwapClientError",
    "TokenStats",
    "Totals",
    "Trade",
    "TradesUpdate",
    "WindowStats",
]
