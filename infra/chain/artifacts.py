"""The compiled contracts in the packages: their ABIs and creation code."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from infra.chain import packages

_V3 = "artifacts/contracts"

_FILES: Final = {
    "@uniswap/v2-core": {
        "v2_factory": "build/UniswapV2Factory.json",
        "v2_pair": "build/UniswapV2Pair.json",
    },
    "@uniswap/v2-periphery": {
        "weth": "build/WETH9.json",
        "v2_router": "build/UniswapV2Router02.json",
        "deflating_token": "build/DeflatingERC20.json",
    },
    "@uniswap/v3-core": {
        "v3_factory": f"{_V3}/UniswapV3Factory.sol/UniswapV3Factory.json",
        "v3_pool": f"{_V3}/UniswapV3Pool.sol/UniswapV3Pool.json",
    },
    "@uniswap/v3-periphery": {
        "v3_router": f"{_V3}/SwapRouter.sol/SwapRouter.json",
        "v3_positions": f"{_V3}/NonfungiblePositionManager.sol/NonfungiblePositionManager.json",
    },
    "@uniswap/v4-core": {
        "token": "out/mocks/MockERC20.sol/MockERC20.json",
        "v4_manager": "out/PoolManager.sol/PoolManager.json",
        "v4_router": "out/PoolSwapTest.sol/PoolSwapTest.json",
        "v4_positions": "out/PoolModifyLiquidityTest.sol/PoolModifyLiquidityTest.json",
    },
}


def load(directory: Path) -> dict[str, dict[str, Any]]:
    """Return the artifacts by our names for them. The packages must be in the cache."""
    locked, found = packages.read_lock(), dict[str, dict[str, Any]]()
    for package, files in _FILES.items():
        bodies = packages.read_json(locked[package], directory, files.values())
        found |= {name: bodies[path] for name, path in files.items()}
    return found
