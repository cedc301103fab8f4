"""The decoded swap that every part of the service uses: normalised, validated, immutable.

The wire format is DESIGN 3; `aggregator.decoding.rules` turns bytes into a `Swap`. Knows nothing of
Kafka, Redis or time.
"""

from __future__ import annotations

import hashlib

import msgspec

MICROS_PER_USD = 1_000_000
ATTOS_PER_TOKEN = 10**18


class Swap(msgspec.Struct, frozen=True, gc=False):
    """A decoded swap, or (`removed`) the retraction of a swap.

    Times are ms since the epoch. USD is int64 micro-USD and token amounts are integers of 10^-18
    token. Both are rounded half-even once, at decoding, so sums are exact in any order.
    `price_usd` is the event's own price, or amount_usd / amount; None where neither is known or
    the price would be 0. `marker` is the 16-byte key of the swap's marker in Redis.
    """

    token_id: str
    chain: str
    token: str
    tx_hash: str
    log_index: int
    timestamp: int
    is_buy: bool
    amount_attos: int
    usd_micros: int | None
    price_usd: float | None
    removed: bool
    marker: bytes
    symbol: str | None = None
    trader: str | None = None
    quote: str | None = None
    venue: str | None = None
    pool: str | None = None
    block_number: int | None = None
    block_hash: str | None = None

    @property
    def event_id(self) -> str:
        """`chain:tx_hash:log_index`, the identity of the swap on its chain."""
        return f"{self.chain}:{self.tx_hash}:{self.log_index}"


def marker_of(chain: str, tx_hash: str, log_index: int, block_hash: str | None) -> bytes:
    """Return the 16-byte BLAKE2b hash that names the marker of a swap.

    The hash covers the block hash where the event has one: a swap that a reorganised chain includes
    again in another block is a new swap (docs/exactly-once.md). Neither chain nor tx_hash can
    contain ":", and the block hash comes last, so the joined text is unambiguous.
    """
    identity = f"{chain}:{tx_hash}:{log_index}"
    if block_hash is not None:
        identity = f"{identity}:{block_hash}"
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()
