"""The event that a source sends, and its bytes: a JSON object of DESIGN 3 under the token's key.

A retraction repeats the bytes of the swap that it takes back, so it has the block, the log index
and the USD that were sent. Pure.
"""

from __future__ import annotations

from typing import Final, Literal, NamedTuple

import msgspec

from aggregator.contracts.names import token_id_of

_RETRACTED: Final = b',"removed":true}'


class Outgoing(NamedTuple):
    """A record for the swap topic: the token id as key, the event's JSON as value."""

    key: bytes
    value: bytes


class SwapEvent(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """A swap in the fields and units of DESIGN 3; `token` and `quote_token` are canonical.

    `timestamp` is ms since the epoch. Amounts, USD and reserves are decimal texts, so no digit is
    lost; `amount_usd` is None where the swap has no price that can be trusted.
    """

    chain: str
    tx_hash: str
    log_index: int
    timestamp: int
    token: str
    side: Literal["buy", "sell"]
    amount: str
    amount_usd: str | None = None
    price_usd: str | None = None
    block_number: int | None = None
    block_hash: str | None = None
    quote_token: str | None = None
    quote: str | None = None
    leg: int = 0
    symbol: str | None = None
    venue: str | None = None
    pool: str | None = None
    trader: str | None = None
    reserve_token: str | None = None
    reserve_quote: str | None = None

    @property
    def token_id(self) -> str:
        """The canonical token id."""
        return token_id_of(self.chain, self.token)


_encoder: Final = msgspec.json.Encoder()


def encode(event: SwapEvent) -> Outgoing:
    """Return the record of an event."""
    return Outgoing(event.token_id.encode(), _encoder.encode(event))


def retraction(sent: Outgoing) -> Outgoing:
    """Return the retraction of a record that `encode` made: the same event with `removed`."""
    return Outgoing(sent.key, sent.value[:-1] + _RETRACTED)
