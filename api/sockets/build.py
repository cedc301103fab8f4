"""The hub and everything that feeds it, assembled in one place."""

from __future__ import annotations

from collections.abc import Callable

from api.board.board import Board
from api.board.feed import Feed
from api.board.overview import OverviewReader
from api.sockets.hub import Hub
from api.sockets.limits import Limits
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
    limits: Limits,
    now_ms: Callable[[], int],
) -> Hub:
    """A hub with all five channels."""

    def connected() -> bool:
        return feed.fault is None

    hub = Hub(limits, now_ms, board.stale_partitions, board.as_of, connected)
    hub.feed(TokenStatsSource(board, hub))
    hub.feed(TradesSource(streams, hub))
    hub.feed(CandlesSource(streams, hub))
    hub.feed(OverviewSource(board, overview, hub))
    hub.feed(StatusSource(board, hub, connected))
    return hub
