"""A minute bucket of one token, and the arithmetic of which minute is in which window.

Edges (DESIGN 5): an event of `timestamp` ms belongs to minute floor(timestamp / 60000). The window
of W minutes at instant `now` is the minutes (minute(now) - W, minute(now)], so it includes the
running minute and covers [open_time, close_time) =
[(minute(now) - W + 1) * 60000, (minute(now) + 1) * 60000). Pure.
"""

from __future__ import annotations

from typing import Final

from aggregator.contracts.event import Swap

MINUTE_MS: Final = 60_000


def minute_of(timestamp_ms: int) -> int:
    """The number of the UTC minute that an instant lies in."""
    return timestamp_ms // MINUTE_MS


def is_closed(minute: int, watermark: int, grace_ms: int) -> bool:
    """Whether the whole of a minute lies `grace_ms` or more behind the watermark (ms)."""
    return (minute + 1) * MINUTE_MS <= watermark - grace_ms


class Bucket:
    """The sums of one token's swaps in one minute.

    `volume` and `buy_volume` are micro-USD, `amount` is 10^-18 token and sums priced swaps alone.
    `opened` and `closed` are the (timestamp, offset, price) of the first and last swap with a
    price, None until there is one; `high` and `low` are prices.
    """

    __slots__ = (
        "amount",
        "buy_volume",
        "buys",
        "closed",
        "high",
        "low",
        "minute",
        "opened",
        "trades",
        "volume",
    )

    def __init__(self, minute: int) -> None:
        self.minute = minute
        self.trades = 0
        self.buys = 0
        self.volume = 0
        self.buy_volume = 0
        self.amount = 0
        self.opened: tuple[int, int, float] | None = None
        self.closed: tuple[int, int, float] | None = None
        self.high = 0.0
        self.low = 0.0

    def add(self, swap: Swap, offset: int) -> None:
        """Count `swap`, read at `offset`."""
        self._sum(swap, 1)
        price = swap.price_usd
        if price is None:
            return
        point = (swap.timestamp, offset, price)
        if self.opened is None or self.closed is None:
            self.opened = self.closed = point
            self.high = self.low = price
            return
        self.opened = min(self.opened, point)
        self.closed = max(self.closed, point)
        self.high = max(self.high, price)
        self.low = min(self.low, price)

    def remove(self, swap: Swap) -> None:
        """Take a counted swap out again.

        Sums are exact. The prices that the bucket keeps are the extremes alone, so open, high, low
        and close stay as they were until the bucket is empty: after a retraction they are
        approximate.
        """
        self._sum(swap, -1)
        if self.trades == 0:
            self.opened = self.closed = None

    def _sum(self, swap: Swap, sign: int) -> None:
        self.trades += sign
        self.buys += sign * swap.is_buy
        if swap.usd_micros is not None:
            self.volume += sign * swap.usd_micros
            self.amount += sign * swap.amount_attos
            if swap.is_buy:
                self.buy_volume += sign * swap.usd_micros
