"""One bucket as an object: the sums and extremes of one token and one minute.

The columnar engine keeps the same in `columns.BUCKET`. This class serves the few swaps of future
minutes (`minutes.candles_of`) and the specification in `tests/spec`.

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

Point = tuple[int, int, float]
"""(timestamp, offset, price), which sort in the order of trading."""


class Bucket:
    """The swaps of one token in one minute or, merged, in several minutes.

    `volume`, `buy_volume` and `largest` are in micro-USD, `amount` in units of 10^-18 token; only
    priced swaps enter them. `opened` and `closed` are the first and the last price, `high` and
    `low` the highest and the lowest, None while there is none. `traders` holds the [buys, sells] of
    each trader, and `retracted` says whether a swap was ever taken out.
    """

    __slots__ = (
        "amount",
        "buy_volume",
        "buys",
        "closed",
        "high",
        "largest",
        "low",
        "opened",
        "retracted",
        "traders",
        "trades",
        "volume",
    )

    opened: Point | None
    closed: Point | None
    high: float | None
    low: float | None
    largest: int | None
    traders: dict[str, list[int]]

    def __init__(self) -> None:
        self.trades = 0
        self.buys = 0
        self.volume = 0
        self.buy_volume = 0
        self.amount = 0
        self.retracted = False
        self._forget_extremes()

    def add(self, swap: Swap, offset: int) -> None:
        """Count `swap`, read at `offset`."""
        self._sum(swap, 1)
        self.largest = _max(self.largest, swap.usd_micros)
        if swap.price_usd is not None:
            point = (swap.timestamp, offset, swap.price_usd)
            self._widen(point, point, swap.price_usd, swap.price_usd)

    def remove(self, swap: Swap) -> None:
        """Take a counted swap out again.

        Sums and traders stay exact. Of prices and sizes only the extremes are kept, so they stay as
        they were until the bucket is empty: after a retraction they are approximate.
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
        for trader, (buys, sells) in other.traders.items():
            self._trade(trader, buys, sells)

    def distinct(self) -> tuple[int, int, int]:
        """Return the numbers of distinct traders, buyers and sellers."""
        buyers = {trader for trader, (buys, _) in self.traders.items() if buys > 0}
        sellers = {trader for trader, (_, sells) in self.traders.items() if sells > 0}
        return len(buyers | sellers), len(buyers), len(sellers)

    def _sum(self, swap: Swap, sign: int) -> None:
        self.trades += sign
        self.buys += sign * swap.is_buy
        if swap.trader is not None:
            self._trade(swap.trader, sign * swap.is_buy, sign * (not swap.is_buy))
        if swap.usd_micros is not None:
            self.volume += sign * swap.usd_micros
            self.amount += sign * swap.amount_attos
            if swap.is_buy:
                self.buy_volume += sign * swap.usd_micros

    def _trade(self, trader: str, buys: int, sells: int) -> None:
        counts = self.traders.setdefault(trader, [0, 0])
        counts[0] += buys
        counts[1] += sells

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
        self.traders = {}


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
