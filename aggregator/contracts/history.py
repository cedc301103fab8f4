"""What the archive answers about a token's past: the shapes of trades, candles and days on REST.

As in `stats`: USD, prices and token amounts are decimal strings, times are ms since the epoch,
unknown is null and never 0.
"""

from __future__ import annotations

import msgspec


class ArchivedTrade(msgspec.Struct, frozen=True, gc=False):
    """One swap that counts, on time or late; what was retracted is none.

    `event_id` is chain:tx_hash:log_index. `amount` is of the token. `amount_usd` and `price_usd`
    are null where the swap was not priced.
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
    """The trades of [open_time, close_time), a UTC interval that holds at least one.

    Volumes and `trades` are exact; `volume_token` is of the priced trades, and vwap_usd =
    volume_usd / volume_token. Prices are null where no trade was priced. Prices of a minute in
    which a swap was retracted may still be those with it, as long as the minute has another trade.
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
    """One UTC day of a token, `day` as YYYY-MM-DD; a day without a trade has none.

    `late` and `retracted` count the late swaps and the retractions among its swaps. `traders` is
    distinct and approximate above some thousands (within 1 % at 65 % of days, as HyperLogLog with
    2^14 cells is). What `ArchivedCandle` says of volumes and prices holds here too.
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
