"""The configuration of the source that reads this chain, in the format of docs/sources.md."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from infra.chain.anvil import CHAIN_ID
from infra.chain.world import World

CHAIN: Final = "anvil"
"""The chain's name in events, and the source's name."""

_FACTORIES: Final = (
    ("uniswap-v2", "v2", "v2_factory"),
    ("uniswap-v3", "v3", "v3_factory"),
    ("uniswap-v4", "v4", "v4_manager"),
)


def source_toml(world: World, rpc_urls: Sequence[str]) -> str:
    """Return the configuration of one source that reads all swaps of a deployed world."""
    name = f"source.{CHAIN}"
    tokens = world.tokens
    lines = [
        f"[{name}]",
        'kind = "evm"',
        f'chain = "{CHAIN}"',
        f"rpc = {_texts(rpc_urls)}",
        f"chain_id = {CHAIN_ID}",
        f"from_block = {world.first_block}",
        "keep_blocks = 256",
    ]
    for venue, kind, contract in _FACTORIES:
        lines += [
            f"[[{name}.factory]]",
            f'venue = "{venue}"',
            f'kind = "{kind}"',
            f'address = "{world.contracts[contract]}"',
        ]
    lines += [
        f"[{name}.trusted]",
        f"stable = {_texts([tokens['USDC'], tokens['USDT']])}",
        f'native = "{tokens["WETH"]}"',
        f"reference_pools = {_texts(world.reference_pools)}",
    ]
    return "\n".join(lines) + "\n"


def _texts(values: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{value}"' for value in values) + "]"
