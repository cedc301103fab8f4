"""One token's sums over one rolling window, kept as buckets enter, grow and leave.

Sums are integers, so adding and subtracting is exact. Highs and lows cannot be subtracted: when
the bucket that held one leaves, the window says so (`extremes_stale`) and whoever has the buckets
sets them anew. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from aggregator.contracts.event import Swap
from aggregator.window.bucket import Bucket


class RollingSums:
    """volume and buy_volume in micro-USD, amount in 10^-18 token, high and low prices."""

    __slots__ = (
        "amount",
        "buy_volume",
        "buys",
        "extremes_stale",
        "high",
        "low",
        "trades",
        "volume",
    )

    def __init__(self) -> None:
        self.trades = 0
        self.buys = 0
        self.volume = 0
        self.buy_volume = 0
        self.amount = 0
        self.high: float | None = None
        self.low: float | None = None
        self.extremes_stale = False

    def add(self, swap: Swap) -> None:
        """A swap was added to a bucket inside the window."""
        self.trades += 1
        self.buys += swap.is_buy
        if swap.usd_micros is not None:
            self.volume += swap.usd_micros
            self.amount += swap.amount_attos
            if swap.is_buy:
                self.buy_volume += swap.usd_micros
        price = swap.price_usd
        if price is not None:
            if self.high is None or price > self.high:
                self.high = price
            if self.low is None or price < self.low:
                self.low = price

    def remove(self, swap: Swap) -> None:
        """A swap was taken out of a bucket inside the window."""
        self.trades -= 1
        self.buys -= swap.is_buy
        if swap.usd_micros is not None:
            self.volume -= swap.usd_micros
            self.amount -= swap.amount_attos
            if swap.is_buy:
                self.buy_volume -= swap.usd_micros
        self.extremes_stale = True

    def enter(self, bucket: Bucket) -> None:
        """A whole bucket came into the window (its minute began)."""
        self._merge(bucket, 1)
        if bucket.opened is not None:
            self.high = bucket.high if self.high is None else max(self.high, bucket.high)
            self.low = bucket.low if self.low is None else min(self.low, bucket.low)

    def leave(self, bucket: Bucket) -> None:
        """A whole bucket fell out of the window."""
        self._merge(bucket, -1)
        if bucket.opened is not None and (bucket.high == self.high or bucket.low == self.low):
            self.extremes_stale = True

    def refresh_extremes(self, buckets: Iterable[Bucket]) -> None:
        """Set high and low from the buckets inside the window."""
        priced = [bucket for bucket in buckets if bucket.opened is not None]
        self.high = max((bucket.high for bucket in priced), default=None)
        self.low = min((bucket.low for bucket in priced), default=None)
        self.extremes_stale = False

    def _merge(self, bucket: Bucket, sign: int) -> None:
        self.trades += sign * bucket.trades
        self.buys += sign * bucket.buys
        self.volume += sign * bucket.volume
        self.buy_volume += sign * bucket.buy_volume
        self.amount += sign * bucket.amount
