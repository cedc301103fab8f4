"""The trades of a token, as the partition's owner sends them to the web nodes over NATS.

As in `stats`: amounts, USD and prices are decimal strings, times are ms since the epoch, unknown is
null and never 0.
"""

from __future__ import annotations

from typing import Final

import msgspec

TradeOrder = tuple[int, int, int, int]
"""(timestamp in ms, block number or -1, log index, offset), which sorts in the order of trading."""


class Trade(msgspec.Struct, frozen=True, gc=False):
    """One counted swap, or (`removed`) the retraction of one.

    `n` numbers the trades of a token without a gap, from an arbitrary start. `offset` is the Kafka
    offset, so an `n` always has the same `offset`, unless the counting began again because the
    state was lost. `amount` is in tokens.
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
    block_number: int | None = None

    @property
    def order(self) -> TradeOrder:
        """Where the trade stands among the trades of its token."""
        block = -1 if self.block_number is None else self.block_number
        return self.timestamp, block, self.log_index, self.offset


class TradeBatch(msgspec.Struct, frozen=True):
    """The owner's message on `ws.broadcast.trades.<token>`: trades with contiguous `n`.

    A replay repeats an `n` with the same trade. When the state was lost and the counting begins
    again, `n` restarts under a higher epoch.
    """

    token_id: str
    partition: int
    epoch: int
    trades: list[Trade]


class CandleRow(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One UTC minute: [minute_ms, open, high, low, close, volume_usd, volume_token, trades, ...].

    Prices are null where the minute has no priced trade; unpriced trades count in `trades` only.
    The last two fields are the order of the opening and of the closing trade. A reader that adds
    another trade compares with them to decide whether it opens or closes.
    """

    minute_ms: int
    open: str | None
    high: str | None
    low: str | None
    close: str | None
    volume_usd: str
    volume_token: str
    trades: int
    opened_at: TradeOrder | None = None
    closed_at: TradeOrder | None = None


HISTORY_MINUTES: Final = 2_880
"""The largest number of minutes in one answer: 48 h."""


class HistoryRequest(msgspec.Struct, frozen=True):
    """A web node's request on `swaps.history.<partition>`.

    `minutes` is how many of the token's newest minutes the node needs; 0 requests trades only. The
    node waits for `patience_ms`, and the owner does not answer after that.
    """

    token_id: str
    minutes: int = HISTORY_MINUTES
    patience_ms: int = 2_000


class TokenHistory(msgspec.Struct, frozen=True):
    """The owner's answer: the token's minutes (oldest first) and its last trades.

    The answer counts exactly the trades up to and including `n`, which is 0 for a token without
    trades. The minutes are complete from `from_ms` on. That is later than requested where the owner
    holds less, or where the answer would exceed the largest NATS message (`shortened`; then the
    oldest trades are missing, too). An owner of an earlier version sends no `from_ms`.
    """

    token_id: str
    partition: int
    epoch: int
    n: int
    candles: list[CandleRow]
    trades: list[Trade]
    from_ms: int | None = None
    shortened: bool = False
