"""A trade of an exchange as an event (DESIGN 3).

The chain is the venue, the token its base asset. Trades that are numbered for each symbol have the
symbol as tx_hash and the number as log_index; others have `symbol-id` and 0. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from decimal import Context, Decimal
from typing import Final

from sources.events import Outgoing, SwapEvent, encode
from sources.exchange.trades import ExchangeTrade, Instrument
from sources.exchange.venue import Venue
from sources.pricing.quotes import QuotePricer

# A price and an amount have at most 30 digits on each side of the point (`trades.positive`).
_EXACT: Final = Context(prec=120)
PRICED_BY_PAIR: Final = frozenset({"USDT", "USDC"})
"""Quote currencies that have the price of their own pair against USD."""
_ONE: Final = Decimal(1)


class EventWriter:
    """Makes the records of one venue's trades; prices them in USD by the quote currency."""

    def __init__(self, venue: Venue, assume_par: Collection[str]) -> None:
        self._chain = venue.name
        self._label = venue.label
        self._pricer = QuotePricer(assume_par)
        self._by_pair = PRICED_BY_PAIR.difference(assume_par)
        self.unpriced: Counter[str] = Counter()
        """Events without USD since the last call of whoever reports them, by reason."""

    def record(self, market: Instrument, trade: ExchangeTrade) -> Outgoing:
        """Return a trade's record. USD and price are absent where the quote has no USD price."""
        numbered = isinstance(trade.id, int)
        at_s = trade.timestamp // 1000
        self.observe(market, trade)
        rate = self._pricer.usd(market.quote, at_s)
        if rate is None:
            known = market.quote in self._by_pair
            self.unpriced["no_reference_price" if known else "no_trusted_leg"] += 1
        price = None if rate is None else _times(trade.price, rate)
        return encode(
            SwapEvent(
                chain=self._chain,
                tx_hash=market.symbol if numbered else f"{market.symbol}-{trade.id}",
                log_index=int(trade.id) if numbered else 0,
                timestamp=trade.timestamp,
                token=market.base,
                side=trade.side,
                amount=format(trade.amount, "f"),
                amount_usd=None if price is None else _product(price, trade.amount),
                price_usd=None if price is None else format(price, "f"),
                symbol=market.base,
                quote=market.quote,
                venue=self._label,
            )
        )

    def priced_by(self, markets: Sequence[Instrument]) -> list[Instrument]:
        """Return the markets that price the quotes of others."""
        quotes = {market.quote for market in markets} & self._by_pair
        return [each for each in markets if each.base in quotes and each.quote == "USD"]

    def observe(self, market: Instrument, trade: ExchangeTrade) -> None:
        """Take a past trade for the prices of quote currencies only."""
        at_s = trade.timestamp // 1000
        self._pricer.observe(market.base, market.quote, trade.price, trade.amount, at_s)

    def rates(self, quotes: Collection[str]) -> dict[str, Decimal | None]:
        """Return the USD prices of those quote currencies that have one by their own pair."""
        # A time of 0 means the time of the newest trade.
        return {quote: self._pricer.usd(quote, 0) for quote in self._by_pair.intersection(quotes)}


def _product(price: Decimal, amount: Decimal) -> str:
    return format(_EXACT.multiply(price, amount), "f")


def _times(price: Decimal, rate: Decimal) -> Decimal:
    return price if rate == _ONE else _EXACT.multiply(price, rate)
