"""One bucket as an object: the sums and extremes of one token and one minute.

The columnar engine keeps the same in `columns.BUCKET`, `PAIR` and `ENTRY`.

Edges (DESIGN 5): an event of `timestamp` ms belongs to minute floor(timestamp / 60000). The window
of W minutes at instant `now` is the minutes (minute(now) - W, minute(now)], so it includes the
running minute and covers [open_time, close_time) =
[(minute(now) - W + 1) * 60000, (minute(now) + 1) * 60000). The previous window is the W minutes
before those. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from aggregator.contracts.event import Swap

Point = tuple[int, int, int, int, float]
"""(timestamp, block_number, log_index, offset, price), which sort in the order of trading.

A swap without a block number comes before those that have one.
"""


def place_of(swap: Swap, offset: int) -> tuple[int, int, int, int]:
    """Return where a swap stands in the order of trading."""
    block = -1 if swap.block_number is None else swap.block_number
    return swap.timestamp, block, swap.log_index, offset


class Bucket:
    """The swaps of one token in one minute or, merged, in several minutes.

    `volume`, `buy_volume` and `largest` are in micro-USD, `amount` in units of 10^-18 token; only
    priced swaps enter them. `opened` and `closed` are the first and the last price, `high` and
    `low` the highest and the lowest, None while there is none. `buyers` and `sellers` are the
    traders that were ever seen in it, and `retracted` says whether a swap was ever taken out.
    """

    __slots__ = (
        "amount",
        "buy_volume",
        "buyers",
        "buys",
        "closed",
        "high",
        "largest",
        "low",
        "opened",
        "retracted",
        "sellers",
        "trades",
        "volume",
    )

    opened: Point | None
    closed: Point | None
    high: float | None
    low: float | None
    largest: int | None

    def __init__(self) -> None:
        self.trades = 0
        self.buys = 0
        self.volume = 0
        self.buy_volume = 0
        self.amount = 0
        self.retracted = False
        self.buyers: set[str] = set()
        self.sellers: set[str] = set()
        self._forget_extremes()

    def add(self, swap: Swap, offset: int) -> None:
        """Count `swap`, read at `offset`."""
        self._sum(swap, 1)
        self.largest = _max(self.largest, swap.usd_micros)
        if swap.price_usd is not None:
            point = (*place_of(swap, offset), swap.price_usd)
            self._widen(point, point, swap.price_usd, swap.price_usd)
        if swap.trader is not None:
            (self.buyers if swap.is_buy else self.sellers).add(swap.trader)

    def remove(self, swap: Swap) -> None:
        """Take a counted swap out again.

        Sums stay exact. Of prices and sizes only the extremes are kept, so they stay as they were
        until the bucket is empty, and traders stay: after a retraction both are approximate.
        """
        self._sum(swap, -1)
        self.retracted = True
        if self.trades == 0:
            self._forget_extremes()

    def merge(self, other: Bucket) -> None:
        """Add everything that another bucket holds."""
        self.trades += other.trades
        self.buys += other.buys
        self.volume += other.volume
        self.buy_volume += other.buy_volume
        self.amount += other.amount
        self.retracted |= other.retracted
        self.largest = _max(self.largest, other.largest)
        self._widen(other.opened, other.closed, other.high, other.low)
        self.buyers |= other.buyers
        self.sellers |= other.sellers

    def distinct(self) -> tuple[int, int, int]:
        """Return the numbers of distinct traders, buyers and sellers."""
        return len(self.buyers | self.sellers), len(self.buyers), len(self.sellers)

    def _sum(self, swap: Swap, sign: int) -> None:
        self.trades += sign
        self.buys += sign * swap.is_buy
        if swap.usd_micros is not None:
            self.volume += sign * swap.usd_micros
            self.amount += sign * swap.amount_attos
            if swap.is_buy:
                self.buy_volume += sign * swap.usd_micros

    def _widen(
        self, opened: Point | None, closed: Point | None, high: float | None, low: float | None
    ) -> None:
        self.opened = _min(self.opened, opened)
        self.closed = _max(self.closed, closed)
        self.high = _max(self.high, high)
        self.low = _min(self.low, low)

    def _forget_extremes(self) -> None:
        self.opened = self.closed = None
        self.high = self.low = self.largest = None


T = TypeVar("T", int, float, Point)


def _max(one: T | None, other: T | None) -> T | None:
    if one is None or other is None:
        return one if other is None else other
    return max(one, other)


def _min(one: T | None, other: T | None) -> T | None:
    if one is None or other is None:
        return one if other is None else other
    return min(one, other)


def merged(buckets: Iterable[Bucket]) -> Bucket:
    """Return the buckets merged into one."""
    total = Bucket()
    for bucket in buckets:
        total.merge(bucket)
    return total
