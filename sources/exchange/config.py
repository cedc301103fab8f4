"""The settings of a source of an exchange: which venue, which symbols, by which addresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches

import msgspec

from aggregator.runtime.errors import ConfigError
from sources.exchange.trades import Instrument
from sources.exchange.venue import Venue
from sources.exchange.venues import VENUES


@dataclass(frozen=True)
class ExchangeUrls:
    """Addresses in place of the venue's own, "" for its own."""

    stream: str = ""
    rest: str = ""


@dataclass(frozen=True)
class ExchangeSource:
    """One source: the trades of `symbols` on `venue`, a name in `VENUES`.

    A symbol is written as the venue does, or as BASE/QUOTE. The currencies in `assume_par` count
    as 1 USD; without that USDT and USDC have the price of their own USD pair, if it is among the
    symbols. `api_key` is sent where a venue takes one for past trades (Binance); never logged.
    """

    name: str
    venue: str
    symbols: tuple[str, ...]
    assume_par: tuple[str, ...] = ()
    urls: ExchangeUrls = field(default_factory=ExchangeUrls)
    api_key: str = field(default="", repr=False)

    def venue_of(self) -> Venue:
        """Return the venue. Raises ConfigError for a name that is not in `VENUES`."""
        try:
            return VENUES[self.venue]
        except KeyError:
            known = ", ".join(sorted(VENUES))
            raise ConfigError([f"venue: {self.venue!r} is none of {known}"]) from None


class Timing(msgspec.Struct, frozen=True):
    """Times of a session in seconds.

    A stream that says nothing for `silent` is cut, after `ping` a message asks for an answer. A
    connection that the venue will cut is replaced `overlap` earlier. `grace` lets trades that are
    out of order arrive before a gap is filled; `journal` is the pause between two notes of
    progress. `again` is the first and the longest pause after a failure.
    """

    silent: float = 30.0
    ping: float = 15.0
    overlap: float = 30.0
    grace: float = 1.0
    journal: float = 1.0
    again: tuple[float, float] = (0.5, 60.0)


def chosen(symbols: Sequence[str], listed: Sequence[Instrument]) -> list[Instrument]:
    """Return the markets that symbols name, each once. Raises ConfigError naming every fault."""
    by_name = {f"{market.base}/{market.quote}": market for market in listed}
    by_name |= {market.symbol: market for market in listed}
    found: dict[str, Instrument] = {}
    faults = []
    for symbol in symbols:
        market = by_name.get(symbol) or by_name.get(symbol.upper())
        if market is not None:
            found[market.symbol] = market
            continue
        near = get_close_matches(symbol.upper(), by_name, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        faults.append(f"symbols: the venue has no open spot market {symbol!r}{hint}")
    if not symbols:
        faults.append("symbols: name at least one market")
    if faults:
        raise ConfigError(faults)
    return list(found.values())
