"""The decoded swap that every part of the service uses: normalised, validated, immutable.

The wire format is DESIGN 3; `aggregator.decoding.rules` turns bytes into a `Swap`. Knows nothing of
Kafka, Redis or time.
"""

from __future__ import annotations

import hashlib
from typing import Final

import msgspec

MICROS_PER_USD = 1_000_000
ATTOS_PER_TOKEN = 10**18

EARLIEST_MS: Final = 1_230_768_000_000
"""2009-01-01, before which there was no chain. A timestamp below it is in seconds by mistake."""

FNV_OFFSET: Final = 0xCBF29CE484222325
FNV_PRIME: Final = 0x00000100000001B3
BLOCK_CHECKS: Final = 4_095
"""How many values a block check has beside 0, which stands for "no block hash"."""


class Swap(msgspec.Struct, frozen=True, gc=False):
    """A decoded swap, or (`removed`) the retraction of a swap.

    Times are ms since the epoch. USD is int64 micro-USD and token amounts are integers of 10^-18
    token. Both are rounded half-even once, at decoding, so sums are exact in any order.
    `price_usd` is the event's own price, or amount_usd / amount; None where neither is known or
    the price would be 0. `marker` is `marker_of` the swap: what is counted once. `leg` is 1 in the
    second message of a swap that is sent once for each of its two tokens. The reserves are the
    pool's after the swap. A retraction has its own values, which need not be those of the swap.
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
    leg: int = 0
    quote_token: str | None = None
    reserve_token: float | None = None
    reserve_quote: float | None = None

    @property
    def block_check(self) -> int:
        """`block_check` of the block hash, 0 where there is none."""
        return 0 if self.block_hash is None else block_check(self.block_hash)

    @property
    def event_id(self) -> str:
        """`chain:tx_hash:log_index`, the identity of the swap on its chain."""
        return f"{self.chain}:{self.tx_hash}:{self.log_index}"


def marker_of(chain: str, tx_hash: str, log_index: int, token: str) -> bytes:
    """Return the 16-byte BLAKE2b hash of what is counted once: an event and one of its tokens.

    Neither chain nor tx_hash can contain ":", and the token comes last, so the joined text is
    unambiguous. The block is no part of the identity: a swap that a reorganised chain includes
    again in another block is the same swap (docs/exactly-once.md).
    """
    identity = f"{chain}:{tx_hash}:{log_index}:{token}"
    return hashlib.blake2b(identity.encode(), digest_size=16).digest()


def block_check(block_hash: str) -> int:
    """Return 12 bits of a normalised block hash, 1 to BLOCK_CHECKS: FNV-1a of 64 bits, folded.

    They tell two blocks apart, except one pair in 4,095. Everything that compares blocks compares
    these bits alone, so that every reader of the log decides alike.
    """
    mixed = FNV_OFFSET
    for byte in block_hash.encode():
        mixed = ((mixed ^ byte) * FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return 1 + (mixed ^ mixed >> 32) % BLOCK_CHECKS
