"""The trades of a token as they travel from its partition's owner to the web nodes, over NATS.

Amounts, USD and prices are decimal strings, times are ms since the epoch, unknown is null and never
0, as in `aggregator.contracts.stats`.
"""

from __future__ import annotations

from typing import Final

import msgspec


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One counted swap, or (`removed`) the retraction of one.

    `n` numbers the trades of a token without a gap, from an arbitrary start; `offset` is its place
    in the partition's log, so the same `n` has the same `offset` as long as the counting did not
    begin again. `amount` is in tokens.
    """

    n: int
    timestamp: int
    offset: int
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
    removed: bool


class TradeBatch(msgspec.Struct, frozen=True):
    """What the owner publishes on `ws.broadcast.trades.<token>`: trades with contiguous `n`.

    A replay repeats an `n` with the same trade. Where the counting began again (the state was
    lost), `n` starts anew under a newer epoch.
    """

    token_id: str
    partition: int
    epoch: int
    trades: list[Trade]


class CandleRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One UTC minute: [minute_ms, open, high, low, close, volume_usd, volume_token, trades, ...].

    Prices are null where the minute has no priced trade; unpriced trades count in `trades` only.
    The last two are the (timestamp in ms, offset) of the trades that open and close it, so that
    who folds in another trade knows whether it lies before, between or behind them.
    """

    minute_ms: int
    open: str | None
    high: str | None
    low: str | None
    close: str | None
    volume_usd: str
    volume_token: str
    trades: int
    opened_at: tuple[int, int] | None = None
    closed_at: tuple[int, int] | None = None


HISTORY_MINUTES: Final = 2_880
"""Most minutes of one answer: 48 h."""


class HistoryRequest(msgspec.Struct, frozen=True):
    """A web node's question on `swaps.history.<partition>`.

    `minutes` is how many of the token's newest minutes the node needs, 0 for trades alone.
    `patience_ms` is how long the node waits: the owner does not answer after that.
    """

    token_id: str
    minutes: int = HISTORY_MINUTES
    patience_ms: int = 2_000


class TokenHistory(msgspec.Struct, frozen=True):
    """The owner's answer: the token's minutes (oldest first) and last trades.

    All of it counts exactly the trades up to `n`, which is 0 for a token without any. The minutes
    are complete from `from_ms` on, which is later than the request asks for where the owner holds
    less, or where the answer would exceed the largest message that NATS takes (`shortened`; then
    the oldest trades are missing too). An owner of an earlier version sends no `from_ms`.
    """

    token_id: str
    partition: int
    epoch: int
    n: int
    candles: list[CandleRow]
    trades: list[Trade]
    from_ms: int | None = None
    shortened: bool = False
