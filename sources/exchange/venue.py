"""What a source must know of a venue: addresses, limits, messages. Implementations are pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from aggregator.runtime.errors import BadMessage
from sources.exchange.trades import Instrument, Message, TradeGap, VenuePage

_T = TypeVar("_T")


class Limits(msgspec.Struct, frozen=True):
    """What a venue allows; times are in seconds.

    `life_s` is how long a connection lives before the venue cuts it, None where it does not.
    `message_s` is the pause between two messages to the stream, `request_s` between two requests.
    """

    symbols_a_connection: int
    symbols_a_message: int
    message_s: float
    request_s: float
    life_s: float | None = None


class Venue(Protocol):
    """One exchange. A method that reads a message raises BadMessage if its format has changed.

    `name` is the chain of its events. `numbered` says whether trade ids of a symbol are numbers
    that count up by 1; if not, a gap cannot be seen in the ids. `answers_each_symbol` says whether
    a message that subscribes is answered once for each of its symbols, or once.
    """

    name: str
    label: str
    stream_url: str
    rest_url: str
    numbered: bool
    answers_each_symbol: bool
    limits: Limits
    ping: bytes
    """A message to which the venue answers; empty where it sends heartbeats unasked."""

    def subscribe(self, symbols: Sequence[str], number: int) -> bytes:
        """Return the message that subscribes to the trades of symbols; `number` identifies it."""
        ...

    def read(self, frame: bytes) -> Message:
        """Return what a frame of the stream means."""
        ...

    def instruments(self) -> str:
        """Return the path and query of the request for all spot markets."""
        ...

    def read_instruments(self, body: bytes) -> Sequence[Instrument]:
        """Return the markets that are open for trading."""
        ...

    def newest(self, market: Instrument) -> str:
        """Return the path and query of the request for a market's newest trades."""
        ...

    def fill(self, market: Instrument, gap: TradeGap, page: VenuePage | None) -> str | None:
        """Return the path and query of the next request for the trades of a gap.

        `page` is the answer before, None at first. None where the venue has no more of them; always
        None on a venue whose trades are not numbered.
        """
        ...

    def read_page(self, market: Instrument, body: bytes) -> VenuePage:
        """Return the trades of an answer, oldest first."""
        ...


def reader(shape: type[_T]) -> Callable[[bytes], _T]:
    """Return a function that decodes JSON of a shape. It raises BadMessage for anything else."""
    decode = msgspec.json.Decoder(shape).decode

    def read(body: bytes) -> _T:
        try:
            return decode(body)
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            raise BadMessage("frame", "", f"{error}; begins {body[:120]!r}") from error

    return read


def unknown(frame: bytes) -> BadMessage:
    """Return the error for a frame that is well-formed but means nothing that we know."""
    return BadMessage("frame", "", f"a message of an unknown kind; begins {frame[:120]!r}")
