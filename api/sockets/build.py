"""Assemble the hub and its sources."""

from __future__ import annotations

from collections.abc import Callable

from api.board.board import Board
from api.board.feed import Feed
from api.board.overview import OverviewReader
from api.sockets.hub import Hub
from api.sockets.limits import SocketLimits
from api.sockets.live_candles import CandlesSource
from api.sockets.overview import OverviewSource
from api.sockets.status import StatusSource
from api.sockets.token_stats import TokenStatsSource
from api.sockets.trades import TradesSource
from api.trades.streams import Streams


def build_hub(
    board: Board,
    feed: Feed,
    overview: OverviewReader,
    streams: Streams,
    *,
    limits: SocketLimits,
    now_ms: Callable[[], int],
) -> Hub:
    """Return a hub with all five channels."""

    def connected() -> bool:
        return feed.fault is None

    hub = Hub(limits, now_ms, board.stale_partitions, board.as_of, connected)
    hub.add_source(TokenStatsSource(board, hub))
    hub.add_source(TradesSource(streams, hub))
    hub.add_source(CandlesSource(streams, hub))
    hub.add_source(OverviewSource(board, overview, hub))
    hub.add_source(StatusSource(board, hub, connected))
    return hub
