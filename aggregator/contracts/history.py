"""The history of a token as REST returns it from the archive: trades, candles and days.

As in `stats`: USD, prices and token amounts are decimal strings, times are ms since the epoch,
unknown is null and never 0.
"""

from __future__ import annotations

import msgspec


class ArchivedTrade(msgspec.Struct, frozen=True, gc=False):
    """One swap that counts, on time or late. A retracted swap is not a trade.

    `event_id` is chain:tx_hash:log_index. `amount` is in tokens. `amount_usd` and `price_usd` are
    null where the swap has no price.
    """

    event_id: str
    timestamp: int
    side: str
    amount: str
    amount_usd: str | None
    price_usd: str | None
    trader: str | None
    venue: str | None
    pool: str | None
    quote: str | None
    tx_hash: str
    log_index: int
    block_number: int | None


class ArchivedCandle(msgspec.Struct, frozen=True, gc=False):
    """The trades of the UTC interval [open_time, close_time), which has at least one trade.

    Volumes and `trades` are exact. `volume_token` sums the priced trades, and vwap_usd =
    volume_usd / volume_token. Prices are null where no trade was priced. After a retraction, the
    prices of that minute may still include the retracted swap while the minute has other trades.
    """

    open_time: int
    close_time: int
    open_usd: str | None
    high_usd: str | None
    low_usd: str | None
    close_usd: str | None
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str
    volume_token: str
    trades: int
    vwap_usd: str | None


class Day(msgspec.Struct, frozen=True, gc=False):
    """One UTC day of a token, `day` as YYYY-MM-DD. A day without trades has no row.

    `late` and `retracted` count the late swaps and the retractions of the day. `traders` counts
    distinct traders, approximately above a few thousand (HyperLogLog with 2^14 cells: within 1 % on
    65 % of days). Volumes and prices are as in `ArchivedCandle`.
    """

    day: str
    open_time: int
    close_time: int
    trades: int
    buys: int
    sells: int
    traders: int
    unpriced: int
    late: int
    retracted: int
    volume_usd: str
    buy_volume_usd: str
    sell_volume_usd: str
    net_volume_usd: str
    volume_token: str
    open_usd: str | None
    high_usd: str | None
    low_usd: str | None
    close_usd: str | None
    vwap_usd: str | None
