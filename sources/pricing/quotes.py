"""USD for an exchange's quote currencies: USD is 1, a stablecoin what its USD pair says.

Nothing is taken as a dollar by its name: USDT and USDC have the price of the exchange's own pair
against USD, by the rules of `Reference`, or none. The operator may list currencies in
`assume_par`, which count as 1 USD. Pure; the clock is the trades' own time.
"""

from __future__ import annotations

from collections.abc import Collection
from decimal import Decimal
from typing import Final

from sources.pricing.reference import Reference

_THROUGH_A_PAIR: Final = ("USDT", "USDC")


class QuotePricer:
    """The USD rates of quote currencies on one exchange."""

    def __init__(self, assume_par: Collection[str] = ()) -> None:
        """`assume_par` holds currencies in upper case."""
        self._par = {"USD", *assume_par}
        # An exchange has one book for each pair, so the first price needs no second opinion.
        self._references = {
            name: Reference(first_pools=1) for name in _THROUGH_A_PAIR if name not in self._par
        }
        self._now_s = 0

    def observe(self, base: str, quote: str, price: Decimal, amount: Decimal, at_s: int) -> None:
        """Take a trade of `amount` of `base` at `price`; only a listed currency in USD counts."""
        self._now_s = max(self._now_s, at_s)
        reference = self._references.get(base)
        if reference is not None and quote == "USD":
            scaled = int(price.scaleb(18))
            reference.observe(f"{base}/USD", scaled, int((price * amount).scaleb(6)), self._now_s)

    def usd(self, quote: str, at_s: int) -> Decimal | None:
        """Return the USD for one unit of a quote currency, None if it is unknown."""
        if quote in self._par:
            return Decimal(1)
        self._now_s = max(self._now_s, at_s)
        reference = self._references.get(quote)
        price = None if reference is None else reference.at(self._now_s)
        return None if price is None else Decimal(price).scaleb(-18)
