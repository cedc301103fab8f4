"""What a subscription yields: one value for each change, typed by its channel.

`snapshot` is true where the value replaces everything before it.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from swapclient.messages import Candle, Overview, Status, TokenStats, Trade


class StatsUpdate(msgspec.Struct, frozen=True):
    """The newest numbers of a token; `stats` is None for a token without trades."""

    token: str
    snapshot: bool
    stats: TokenStats | None


class TradesUpdate(msgspec.Struct, frozen=True):
    """Trades in order of `n`, each once, contiguous with those before unless a Gap came between."""

    token: str
    snapshot: bool
    trades: list[Trade]


class Gap(msgspec.Struct, frozen=True):
    """Trades from_n … to_n did not come; `to_n` is None where it is not known.

    `restarted`: the counting of `n` began again, a snapshot follows. `cause` is who lost them: the
    service, the connection (a number was left out), or the reader, who was slower than the trades.
    """

    token: str
    from_n: int
    to_n: int | None
    restarted: bool
    cause: Literal["service", "connection", "slow_reader"]


class CandlesUpdate(msgspec.Struct, frozen=True):
    """Whole candles: replace yours by open_time."""

    token: str
    interval: str
    snapshot: bool
    epoch: int
    seq: int
    candles: list[Candle]


class OverviewUpdate(msgspec.Struct, frozen=True):
    """Totals and top tokens; `params` as the service understood them."""

    params: dict[str, Any]
    snapshot: bool
    overview: Overview


class StatusUpdate(msgspec.Struct, frozen=True):
    """Which partitions are fresh."""

    as_of: int | None
    snapshot: bool
    status: Status


class Refused(msgspec.Struct, frozen=True):
    """One part of the subscription was refused; the others are not affected."""

    channel: str
    token: str | None
    code: str
    message: str


Event = StatsUpdate | TradesUpdate | Gap | CandlesUpdate | OverviewUpdate | StatusUpdate | Refused
