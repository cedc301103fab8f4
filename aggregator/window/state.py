"""Everything held of one token: its buckets, the sums of its windows, and its counters. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator

from aggregator.contracts.event import Swap
from aggregator.window.bucket import Bucket
from aggregator.window.rolling import RollingSums


class TokenState:
    """One token of one partition.

    `minutes` are the minutes that have a bucket, ascending; a swap nearly always goes in the last.
    """

    __slots__ = (
        "buckets",
        "chain",
        "duplicates",
        "last_price",
        "last_trade_at",
        "late",
        "minutes",
        "retracted",
        "symbol",
        "symbol_at",
        "token",
        "token_id",
        "unpriced",
        "windows",
    )

    def __init__(self, swap: Swap, windows: int) -> None:
        self.token_id = swap.token_id
        self.chain = swap.chain
        self.token = swap.token
        self.symbol: str | None = None
        self.symbol_at = (-1, -1)
        self.buckets: dict[int, Bucket] = {}
        self.minutes: list[int] = []
        self.windows = [RollingSums() for _ in range(windows)]
        self.last_price: tuple[int, int, float] | None = None
        self.last_trade_at: int | None = None
        self.unpriced = 0
        self.duplicates = 0
        self.late = 0
        self.retracted = 0

    def bucket(self, minute: int) -> tuple[Bucket, bool]:
        """The bucket of `minute`, and whether it was made just now."""
        bucket = self.buckets.get(minute)
        if bucket is not None:
            return bucket, False
        bucket = self.buckets[minute] = Bucket(minute)
        if not self.minutes or minute > self.minutes[-1]:
            self.minutes.append(minute)
        else:
            insort(self.minutes, minute)
        return bucket, True

    def evict(self, minute: int) -> None:
        """Forget the bucket of `minute`."""
        del self.buckets[minute]
        del self.minutes[bisect_left(self.minutes, minute)]

    def note_counted(self, swap: Swap, offset: int) -> None:
        """Keep what is newest by (timestamp, offset): the last price, trade time and symbol."""
        if self.last_trade_at is None or swap.timestamp > self.last_trade_at:
            self.last_trade_at = swap.timestamp
        if swap.symbol is not None and (swap.timestamp, offset) > self.symbol_at:
            self.symbol, self.symbol_at = swap.symbol, (swap.timestamp, offset)
        if swap.price_usd is not None:
            point = (swap.timestamp, offset, swap.price_usd)
            if self.last_price is None or point > self.last_price:
                self.last_price = point

    def between(self, first: int, last: int) -> Iterator[Bucket]:
        """The buckets of the minutes first … last, ascending."""
        low, high = bisect_left(self.minutes, first), bisect_right(self.minutes, last)
        return (self.buckets[minute] for minute in self.minutes[low:high])

    def opened(self, first: int, last: int) -> float | None:
        """The first price in the minutes first … last."""
        for index in range(bisect_left(self.minutes, first), bisect_right(self.minutes, last)):
            point = self.buckets[self.minutes[index]].opened
            if point is not None:
                return point[2]
        return None

    def closed(self, first: int, last: int) -> float | None:
        """The last price in the minutes first … last."""
        low = bisect_left(self.minutes, first)
        for index in range(bisect_right(self.minutes, last) - 1, low - 1, -1):
            point = self.buckets[self.minutes[index]].closed
            if point is not None:
                return point[2]
        return None
