"""The venues that a source can read, by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from sources.exchange.venue import Venue
from sources.exchange.venues.binance import Binance
from sources.exchange.venues.bybit import Bybit
from sources.exchange.venues.coinbase import Coinbase
from sources.exchange.venues.kraken import Kraken
from sources.exchange.venues.okx import Okx

VENUES: Final[Mapping[str, Venue]] = {
    venue.name: venue for venue in (Binance(), Bybit(), Coinbase(), Kraken(), Okx())
}
