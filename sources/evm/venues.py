"""The kinds of pools that a source reads, the events that they emit, and the configured factories.

A kind is one way to prove a pool (`sources.evm.pools`), an event one layout of a log
(`sources.evm.logs`). Forks share both, so a venue is a configured name and not a kind. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, Literal, NamedTuple

Kind = Literal[
    "v2",
    "solidly",
    "v3",
    "pancake-v3",
    "slipstream",
    "algebra",
    "v4",
    "curve",
    "balancer-v1",
    "balancer-v2",
]
"""How a factory names its pools.

- `v2`: Uniswap v2 and forks, `getPair(address,address)`.
- `solidly`: Velodrome v2, Aerodrome and kin, `getPool` or `getPair(address,address,bool)`.
- `v3`: Uniswap v3 and forks, `getPool(address,address,uint24)`.
- `pancake-v3`: as v3, with two words more in its event.
- `slipstream`: concentrated pools of Velodrome and Aerodrome, `getPool(address,address,int24)`.
- `algebra`: QuickSwap v3, Camelot v3 and kin, `poolByPair(address,address)`.
- `v4`: Uniswap v4; the factory is the PoolManager, which holds all pools.
- `curve`: a registry or factory with `get_coins(address)`, or pools that the configuration names.
- `balancer-v1`: `isBPool(address)`.
- `balancer-v2`: the factory is the Vault, which holds all pools.
"""

Layout = Literal[
    "v2",
    "solidly",
    "v3",
    "pancake-v3",
    "algebra-integral",
    "v4",
    "curve-int128",
    "curve-uint256",
    "curve-ng",
    "curve-underlying",
    "balancer-v1",
    "balancer-v2",
]
"""The layout of a swap's log, named after the venue that began it."""

TOPICS: Final[Mapping[Layout, str]] = {
    # Swap(address,uint256,uint256,uint256,uint256,address)
    "v2": "0xd78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822",
    # Swap(address,address,uint256,uint256,uint256,uint256)
    "solidly": "0xb3e2773606abfd36b5bd91394b3a54d1398336c65005baf7bf7a05efeffaf75b",
    # Swap(address,address,int256,int256,uint160,uint128,int24)
    "v3": "0xc42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67",
    # Swap(address,address,int256,int256,uint160,uint128,int24,uint128,uint128)
    "pancake-v3": "0x19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83",
    # Swap(address,address,int256,int256,uint160,uint128,int24,uint24,uint24)
    "algebra-integral": "0x121cb44ee54098b1a04743c487e7460d8dd429b27f88b1f4d4767396e1a59f79",
    # Swap(bytes32,address,int128,int128,uint160,uint128,int24,uint24)
    "v4": "0x40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f",
    # TokenExchange(address,int128,uint256,int128,uint256)
    "curve-int128": "0x8b3e96f2b889fa771c53c981b40daf005f63f637f1869f707052d15a3dd97140",
    # TokenExchange(address,uint256,uint256,uint256,uint256)
    "curve-uint256": "0xb2e76ae99761dc136e598d4a629bb347eccb9532a5f8bbd72e18467c3c34cc98",
    # TokenExchange(address,uint256,uint256,uint256,uint256,uint256,uint256)
    "curve-ng": "0x143f1f8e861fbdeddd5b46e844b7d3ac7b86a122f36e8c463859ee6811b1f29c",
    # TokenExchangeUnderlying(address,int128,uint256,int128,uint256)
    "curve-underlying": "0xd013ca23e77a65003c2c659c5442c00c805371b7fc1ebd4c206c41d1536bd90b",
    # LOG_SWAP(address,address,address,uint256,uint256)
    "balancer-v1": "0x908fb5ee8f16c6bc9bc3690973819f32a4d4b10188134543c88706e0e1d43378",
    # Swap(bytes32,address,address,uint256,uint256)
    "balancer-v2": "0x2170c741c41531aec20e7c107c24eecfdd15e69c9bb0a8dd37b1840b9e0b207b",
}
"""topic0 of each layout: Keccak-256 of the signature."""

V4_INITIALIZE: Final = "0xdd466e674ea557f56295e2d0218a125ea4b4f0f6f3307b95f85e6110838d6438"
"""topic0 of Initialize(bytes32,address,address,uint24,int24,address,uint160,int24)."""

EMITS: Final[Mapping[Kind, tuple[Layout, ...]]] = {
    "v2": ("v2",),
    "solidly": ("solidly", "v2"),  # The first Solidly forks kept Uniswap's event.
    "v3": ("v3",),
    "pancake-v3": ("pancake-v3",),
    "slipstream": ("v3",),
    "algebra": ("v3", "algebra-integral"),
    "v4": ("v4",),
    "curve": ("curve-int128", "curve-uint256", "curve-ng", "curve-underlying"),
    "balancer-v1": ("balancer-v1",),
    "balancer-v2": ("balancer-v2",),
}
"""The layouts of the swaps that the pools of a kind emit."""


class PoolFactory(NamedTuple):
    """A configured contract whose word makes an emitter a pool; addresses are lower-case.

    `pools` names Curve pools that are trusted without a registry; `address` is then "".
    `positions` is the PositionManager of Uniswap v4, which knows the tokens of most pools.
    """

    venue: str
    kind: Kind
    address: str
    pools: tuple[str, ...] = ()
    positions: str | None = None


def topics_of(factories: Iterable[PoolFactory]) -> tuple[str, ...]:
    """Return the values of topic0 that a source of these factories asks a node for, sorted."""
    kinds = {factory.kind for factory in factories}
    topics = {TOPICS[layout] for kind in kinds for layout in EMITS[kind]}
    if "v4" in kinds:
        topics.add(V4_INITIALIZE)
    return tuple(sorted(topics))
