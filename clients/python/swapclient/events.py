"""The events of a subscription: one value per change, typed by channel.

`snapshot` is true if the value replaces everything before it.
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
    """Trades in order of `n`, each once, without holes unless a Gap precedes them."""

    token: str
    snapshot: bool
    trades: list[Trade]


class Gap(msgspec.Struct, frozen=True):
    """Trades from_n … to_n were not received; `to_n` is None if unknown.

    `restarted` means that the service restarted the numbers `n`; a snapshot follows. `cause` says
    what lost the trades: the service, the connection (a number was missing), or a reader that was
    slower than the trades.
    """

    token: str
    from_n: int
    to_n: int | None
    restarted: bool
    cause: Literal["service", "connection", "slow_reader"]


class CandlesUpdate(msgspec.Struct, frozen=True):
    """Complete candles: each replaces the one with the same open_time."""

    token: str
    interval: str
    snapshot: bool
    epoch: int
    seq: int
    candles: list[Candle]


class OverviewUpdate(msgspec.Struct, frozen=True):
    """Totals and top tokens; `params` are the parameters as the service understood them."""

    params: dict[str, Any]
    snapshot: bool
    overview: Overview


class StatusUpdate(msgspec.Struct, frozen=True):
    """The freshness of the partitions."""

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
