"""The USD price of one token from its reference pools: a median of the pools' medians.

A pool's price is the median of its swaps of the last 5 minutes; a swap weighs its USD value, at
most a fifth of its pool's window. Pools are equal voices: the price is the plain median of their
prices. A move of more than 10 % counts only once the pools confirm it, see `Reference.at`.

Pure: a function of the swaps in their order and of their block times, so a replay says the same.
Prices are integers of 10^-18 USD for one whole token, values are micro-USD, times are seconds since
the epoch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Sequence
from typing import Final

ONE: Final = 10**18
"""The price of exactly 1 USD."""
WINDOW_S: Final = 300
"""How long a swap takes part in its pool's median."""
STALE_S: Final = 600
"""A price whose newest swap is older than this is no price."""
LEAST_VALUE: Final = 50 * 10**6
"""Swaps under this value (micro-USD) are ignored."""
_LARGEST_SHARE: Final = 5
"""A swap weighs at most one part in this many of its pool's window."""


class _Window:
    """The swaps of one pool in the last WINDOW_S, by time and by price."""

    def __init__(self) -> None:
        self._by_time: deque[tuple[int, int, int]] = deque()
        self._by_price: list[tuple[int, int]] = []
        self._total = 0
        self._median: int | None = None

    def add(self, price: int, value: int, at_s: int) -> None:
        self._by_time.append((at_s, price, value))
        insort(self._by_price, (price, value))
        self._total += value
        self._median = None

    def expire(self, before_s: int) -> None:
        while self._by_time and self._by_time[0][0] < before_s:
            _, price, value = self._by_time.popleft()
            del self._by_price[bisect_left(self._by_price, (price, value))]
            self._total -= value
            self._median = None

    @property
    def newest_s(self) -> int | None:
        return self._by_time[-1][0] if self._by_time else None

    def median(self) -> int:
        """Return the lowest price at or below which half of the weight is."""
        if self._median is None:
            cap = self._total // _LARGEST_SHARE
            half = sum(min(value, cap) for _, value in self._by_price)
            weight = 0
            for price, value in self._by_price:
                weight += 2 * min(value, cap)
                if weight >= half:
                    self._median = price
                    break
        assert self._median is not None
        return self._median


class Reference:
    """The price of one token, from swaps of its reference pools.

    `held` counts the times that `at` held a price back. `anchor` is a price to begin from; without
    one the first price needs `first_pools` pools that agree.
    """

    def __init__(self, *, first_pools: int = 2, anchor: int | None = None) -> None:
        self.held = 0
        self._first_pools = first_pools
        self._pools: dict[str, _Window] = {}
        self._anchor = anchor
        self._price: int | None = None
        self._newest_s: int | None = None
        self._asked_s: int | None = None

    def observe(self, pool: str, price: int, value: int, at_s: int) -> None:
        """Add a swap of a reference pool. `at_s` must not go back. Small swaps are ignored."""
        if value < LEAST_VALUE or price <= 0:
            return
        window = self._pools.get(pool)
        if window is None:
            window = self._pools[pool] = _Window()
        window.add(price, value, at_s)

    def at(self, now_s: int) -> int | None:
        """Return the price at a block time, None if it is unknown or older than STALE_S.

        The price is settled once for each block time, from the swaps of earlier blocks, so the
        swaps of a block never price each other. Where all pools that traded in the window agree
        (two or more, within 10 %), their median is confirmed, and the anchor moves towards it as
        far as every one of these pools supports. Otherwise the median counts only within 10 % of
        the anchor. So no pool alone moves the price by more than 10 %, however often it tries: an
        honest move beyond that waits until every pool with swaps in the window shows it.
        """
        if now_s != self._asked_s:
            self._asked_s = now_s
            self._settle(now_s)
        if self._newest_s is None or now_s - self._newest_s > STALE_S:
            return None
        return self._price

    @property
    def newest_s(self) -> int | None:
        """The time of the newest swap that made the price, None where there was no price yet."""
        return self._newest_s

    def _settle(self, now_s: int) -> None:
        for window in self._pools.values():
            window.expire(now_s - WINDOW_S)
        trading = [window for window in self._pools.values() if window.newest_s is not None]
        if not trading:
            return
        medians = sorted(window.median() for window in trading)
        if self._confirm(medians):
            self._price = middle(medians)
            self._newest_s = max(window.newest_s or 0 for window in trading)
        else:
            self.held += 1

    def _confirm(self, medians: Sequence[int]) -> bool:
        """Return whether the median of sorted pool prices may be the price; move the anchor."""
        lowest, highest = medians[0], medians[-1]
        agree = 10 * highest <= 11 * lowest
        if self._anchor is None:
            if not agree or len(medians) < self._first_pools:
                return False
            self._anchor = middle(medians)
        elif agree and len(medians) > 1:
            self._anchor = min(max(self._anchor, lowest), highest)
        else:
            return 10 * abs(middle(medians) - self._anchor) <= self._anchor
        return True


def middle(prices: Sequence[int]) -> int:
    """Return the median of sorted prices; of an even count, the mean of the middle two."""
    half = len(prices) // 2
    return prices[half] if len(prices) % 2 else (prices[half - 1] + prices[half]) // 2
