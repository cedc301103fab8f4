"""The state of one token: its buckets, its counters, and its newest values. Pure."""

from __future__ import annotations

from aggregator.contracts.event import Swap
from tests.spec.bucket import Bucket, Point, merged, place_of


class TokenState:
    """One token of one partition.

    `buckets` are by minute. `touched` is the minute in which its last record was applied, at least
    1; it is 0 before the first. `trades` is the `n` of its last trade.
    """

    __slots__ = (
        "buckets",
        "chain",
        "duplicates",
        "last_price",
        "last_trade_at",
        "late",
        "retracted",
        "symbol",
        "symbol_at",
        "token",
        "touched",
        "trades",
        "unpriced",
    )

    def __init__(self, swap: Swap) -> None:
        self.chain = swap.chain
        self.token = swap.token
        self.symbol: str | None = None
        self.symbol_at = (-1, -1, -1, -1)
        self.buckets: dict[int, Bucket] = {}
        self.last_price: Point | None = None
        self.last_trade_at: int | None = None
        self.touched = 0
        self.trades = 0
        self.unpriced = 0
        self.duplicates = 0
        self.late = 0
        self.retracted = 0

    def note_counted(self, swap: Swap, offset: int) -> None:
        """Keep what is newest in the order of trading: the last price, trade time and symbol."""
        if self.last_trade_at is None or swap.timestamp > self.last_trade_at:
            self.last_trade_at = swap.timestamp
        place = place_of(swap, offset)
        if swap.symbol is not None and place > self.symbol_at:
            self.symbol, self.symbol_at = swap.symbol, place
        if swap.price_usd is not None:
            point = (*place, swap.price_usd)
            if self.last_price is None or point > self.last_price:
                self.last_price = point

    def between(self, first: int, last: int) -> Bucket:
        """Return the buckets of the minutes first … last merged into one."""
        return merged(each for minute, each in self.buckets.items() if first <= minute <= last)
