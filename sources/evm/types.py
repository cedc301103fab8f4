"""Values that the parts of an EVM source hand to each other. Frozen; addresses and hashes are
lower-case `0x` texts, amounts are integers of the token's smallest unit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

NATIVE = "0x0000000000000000000000000000000000000000"
"""The address that stands for a chain's native coin (Uniswap v4)."""
MOST_DECIMALS = 77
"""The most decimals of a token: 10^77 is the largest power of ten in 256 bits."""


class ChainIdentity(msgspec.Struct, frozen=True):
    """What distinguishes chains; `genesis` is the hash of block 0, None where a node lacks it."""

    chain_id: int
    genesis: str | None = None

    def matches(self, other: ChainIdentity) -> bool:
        """Return whether both may be the same chain."""
        known = self.genesis is not None and other.genesis is not None
        return self.chain_id == other.chain_id and (not known or self.genesis == other.genesis)


class BlockRef(NamedTuple):
    """A block's place in its chain."""

    number: int
    hash: str
    parent: str


class Block(msgspec.Struct, frozen=True):
    """A block as far as a source reads it. `timestamp` is in seconds since the epoch.

    `senders` maps the hash of a transaction to its sender (`from`); empty where the transactions
    were not asked for. `may_have` says whether the header's bloom filter may hold one of the
    source's topics. `parent` is empty for a finalised block that was read by its logs alone.
    """

    number: int
    hash: str
    parent: str
    timestamp: int
    may_have: bool = True
    senders: Mapping[str, str] = {}

    @property
    def ref(self) -> BlockRef:
        """The block's place in its chain."""
        return BlockRef(self.number, self.hash, self.parent)


class EvmLog(msgspec.Struct, frozen=True, rename="camel", gc=False):
    """A log in the shape of `eth_getLogs` (ethereum.github.io/execution-apis), numbers as hex.

    `block_timestamp` is None where an older node leaves it out.
    """

    address: str
    topics: tuple[str, ...]
    data: str
    block_number: str
    block_hash: str
    transaction_hash: str
    log_index: str
    removed: bool = False
    block_timestamp: str | None = None


class Token(NamedTuple):
    """A token's metadata. `decimals` is None where the contract does not tell them: unpriced."""

    address: str
    symbol: str | None
    decimals: int | None


class PoolSwap(NamedTuple):
    """One decoded swap of a pool that its factory has named.

    `amount0` and `amount1` are what the pool received (positive) or gave (negative). They have
    opposite signs. `pool` is the pool's address, or its id where one contract holds many pools.
    """

    venue: str
    pool: str
    token0: Token
    token1: Token
    amount0: int
    amount1: int
    tx_hash: str
    log_index: int
    recipient: str | None
    reserve0: int | None = None
    reserve1: int | None = None
