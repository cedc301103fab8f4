"""What a venue's messages say, in the words that the rest of a source uses. Pure values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal, NamedTuple

import msgspec

from aggregator.contracts.event import EARLIEST_MS
from aggregator.runtime.errors import BadMessage

_LARGEST: Final = Decimal(10) ** 30
_SMALLEST: Final = Decimal(10) ** -30
_YEAR_2100: Final = 4_102_444_800_000
_NUMBERS: Final = 2**63

Side = Literal["buy", "sell"]


class Instrument(NamedTuple):
    """A spot market of a venue.

    `symbol` is its name in the stream. `rest` is its name in requests, the same on most venues.
    """

    symbol: str
    base: str
    quote: str
    rest: str


class ExchangeTrade(msgspec.Struct, frozen=True, gc=False):
    """A public trade; `side` is the taker's, `timestamp` is ms since the epoch.

    `id` is a number where the venue numbers the trades of a symbol without holes, else a text.
    `price` is in the quote currency, `amount` in the base currency, both with the venue's digits.
    """

    symbol: str
    id: int | str
    price: Decimal
    amount: Decimal
    side: Side
    timestamp: int


class Ack(msgspec.Struct, frozen=True):
    """The venue has accepted a subscription."""


class VenueHeartbeat(msgspec.Struct, frozen=True):
    """The venue is alive. `latest` has the number of a symbol's newest trade where it says so."""

    latest: Mapping[str, int]


class Refusal(msgspec.Struct, frozen=True):
    """The venue refuses a subscription to `symbols`; to all of a request where it names none."""

    symbols: Sequence[str]
    detail: str


class Closing(msgspec.Struct, frozen=True):
    """The venue announces that it is about to close this connection."""

    detail: str


Message = list[ExchangeTrade] | tuple[ExchangeTrade, ...] | Ack | VenueHeartbeat | Refusal | Closing
"""What one frame means; a list or a tuple holds trades."""


class VenuePage(NamedTuple):
    """An answer with past trades. `cursor` is what to ask with next, where the venue says it."""

    trades: Sequence[ExchangeTrade]
    cursor: str = ""


class TradeGap(NamedTuple):
    """Numbers of trades that were not seen: `first` to `last`, both included.

    `after_ms` is the time of the newest trade before them.
    """

    first: int
    last: int
    after_ms: int


def next_below(gap: TradeGap, page: VenuePage | None) -> int | None:
    """Return the id below which to ask next, where pages go downwards; None where all is asked.

    `page` is the last answer, with its oldest trade first; None before the first question.
    """
    if page is None:
        return gap.last + 1
    if not page.trades:
        return None
    oldest = int(page.trades[0].id)
    return oldest if oldest > gap.first else None


def positive(number: Decimal, field: str) -> Decimal:
    """Return a price or an amount. Raises BadMessage unless it is above 0 and of a sane size."""
    if number.is_finite() and _SMALLEST < number < _LARGEST:
        return number
    raise BadMessage("frame", field, f"{str(number)[:64]}: must be above 1e-30 and below 1e30")


def in_ms(time: int, field: str) -> int:
    """Return a time. Raises BadMessage for what cannot be ms since the epoch."""
    if EARLIEST_MS <= time < _YEAR_2100:
        return time
    raise BadMessage("frame", field, f"{time}: must be ms since the epoch")


def ms_of(time: datetime, field: str) -> int:
    """Return a time as ms since the epoch; smaller digits are cut off.

    Raises BadMessage without a zone, or for a time that no trade can have.
    """
    if time.tzinfo is None:
        raise BadMessage("frame", field, f"{time}: has no zone")
    seconds = round(time.replace(microsecond=0).timestamp())
    return in_ms(seconds * 1000 + time.microsecond // 1000, field)


def trade_number(number: int, field: str) -> int:
    """Return the number of a trade. Raises BadMessage for one that an event cannot have."""
    if 0 < number < _NUMBERS:
        return number
    raise BadMessage("frame", field, f"{str(number)[:40]}: must be from 1 to 2^63 - 1")


def known_side(text: str, field: str) -> Side:
    """Return a side that is written in any case. Raises BadMessage for any other text."""
    side = text.lower()
    if side == "buy":
        return "buy"
    if side == "sell":
        return "sell"
    raise BadMessage("frame", field, f"{text[:64]!r}: must be buy or sell")
