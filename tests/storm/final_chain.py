"""What a chain holds in the end: its swaps by eth_getLogs, decoded with eth-abi.

Shares no code with the sources: neither the slices, nor the proof of pools, nor the rules of legs.
The pools are those that the world deployed; nothing else counts, whatever it emits.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Final, NamedTuple

from eth_abi.abi import decode

from infra.chain.contracts import topic
from infra.chain.rpc import Rpc
from infra.chain.world import World

_V2: Final = topic("Swap(address,uint256,uint256,uint256,uint256,address)")
_V3: Final = topic("Swap(address,address,int256,int256,uint160,uint128,int24)")
_V4: Final = topic("Swap(bytes32,address,int128,int128,uint160,uint128,int24,uint24)")
_WORDS: Final = {
    _V2: ["uint256"] * 4,
    _V3: ["int256", "int256", "uint160", "uint128", "int24"],
    _V4: ["int128", "int128", "uint160", "uint128", "int24", "uint24"],
}
# As the world deploys them. A token that does not answer has no amounts, so its swaps do not count.
_DECIMALS: Final = {"USDC": 6, "USDT": 6, "ZERO": 0, "NODEC": None}


class Leg(NamedTuple):
    """One token's side of a swap. `amount` is in whole tokens, `side` the trader's."""

    tx_hash: str
    log_index: int
    token: str
    side: str
    amount: Decimal


def swap_logs(rpc: Rpc, world: World) -> list[dict[str, Any]]:
    """Return the logs with the topic of a swap that are on the chain now."""
    wanted = {"fromBlock": hex(world.first_block), "toBlock": "latest", "topics": [list(_WORDS)]}
    return list(rpc("eth_getLogs", wanted))


def legs_on(rpc: Rpc, world: World) -> set[Leg]:
    """Return both legs of every swap that is on the chain now."""
    pools = _pools_of(world)
    return {leg for log in swap_logs(rpc, world) for leg in _legs(log, world, pools)}


def _pools_of(world: World) -> dict[str, tuple[str, str]]:
    """Return the two tokens of each pool in their order, by the address that emits its swaps."""
    pools = {}
    for name, address in (*world.v2.items(), *world.v3.items()):
        first, second = sorted(world.tokens[token] for token in name.split("/"))
        pools[address] = (first, second)
    # Its first currency is the native coin, which counts as its wrapping.
    pools[world.contracts["v4_manager"]] = (world.tokens["WETH"], world.v4.currency1)
    return pools


def _legs(log: dict[str, Any], world: World, pools: dict[str, tuple[str, str]]) -> list[Leg]:
    tokens = pools.get(log["address"].lower())
    if tokens is None:
        return []
    kind = log["topics"][0]
    values = decode(_WORDS[kind], bytes.fromhex(log["data"][2:]))
    if kind == _V2:
        received = (values[0] - values[2], values[1] - values[3])
    else:
        received = (values[0], values[1]) if kind == _V3 else (-values[0], -values[1])
    names = {address: name for name, address in world.tokens.items()}
    decimals = [_DECIMALS.get(names[token], 18) for token in tokens]
    if received[0] * received[1] >= 0 or None in decimals:
        return []
    return [
        Leg(
            log["transactionHash"],
            int(log["logIndex"], 16),
            token,
            "sell" if amount > 0 else "buy",
            Decimal(f"{abs(amount)}E-{places}"),  # as a text, which is not rounded
        )
        for token, amount, places in zip(tokens, received, decimals, strict=True)
    ]
