"""A client of the swap aggregator: subscribe and iterate over typed updates, or send swaps.

Start with `Client`, or with `ingest`; docs/websocket.md and docs/rest.md describe the
protocols. Must not import the service's code.
"""

from swapclient.backoff import Backoff
from swapclient.client import Client
from swapclient.errors import (
    AuthRefused,
    ConnectionRefused,
    IngestFailed,
    IngestRefused,
    IngestUnavailable,
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
from swapclient.sending import IngestReport, RejectedSwap, ingest
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
    "IngestFailed",
    "IngestRefused",
    "IngestReport",
    "IngestUnavailable",
    "Overview",
    "OverviewUpdate",
    "Partition",
    "ProtocolFault",
    "Refused",
    "RejectedSwap",
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
    "ingest",
]
