"""Ethereum block 12505500 as a node would tell it: its header, its logs, and its contracts.

The recording has the tokens of 36 pools and the decimals of three tokens. Which factory made a pool
is not in it, so the pools are spread over stand-in factories, each of which names at most one pool
a pair; decimals that are neither recorded nor common knowledge are 18.
"""

from __future__ import annotations

from typing import Any, Final

from sources.evm.types import Block, EvmLog
from sources.evm.venues import TOPICS, PoolFactory
from tests.fakes.contracts import FakeContracts, answer
from tests.support.evm_data import log_of, rows

WETH: Final = "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
USDC: Final = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48"
USDT: Final = "0xdac17f958d2ee523a2206206994597c13d831ec7"
DAI: Final = "0x6b175474e89094c44da98b954eedeac495271d0f"
WBTC: Final = "0x2260fac5e5542a773aa44fbcfedf7c193bc2c599"
REFERENCE_POOLS: Final = (
    "0xb4e16d0168e52d35cacd2c6185b44281ec28c9dc",  # Uniswap v2 USDC/WETH
    "0x0d4a11d5eeaac28ec3f61d100daf4d40471f1852",  # Uniswap v2 WETH/USDT
    "0x397ff1542f962076d0bfe58ea045ffa2d347aca0",  # SushiSwap USDC/WETH
    "0xa478c2975ab1ea89e8196811f51a7b7ade33eb11",  # Uniswap v2 DAI/WETH
    "0xc3d03e4f041fd4cd388c549ee2a29a9e5075882f",  # SushiSwap DAI/WETH
)
_V2: Final = tuple(f"0x{at:040x}" for at in range(0xF1, 0xF6))
_V3: Final = "0x" + "f3" * 20
_BALANCER: Final = "0x" + "b1" * 20
FACTORIES: Final = (
    *(PoolFactory(f"v2-{at}", "v2", factory) for at, factory in enumerate(_V2)),
    PoolFactory("uniswap-v3", "v3", _V3),
    PoolFactory("balancer-v1", "balancer-v1", _BALANCER),
)


class RecordedBlock:
    """The block, its logs and its contracts."""

    def __init__(self) -> None:
        kinds: dict[str, list[dict[str, Any]]] = {}
        for row in rows("ethereum_block_12505500"):
            kinds.setdefault(row["kind"], []).append(row)
        (header,) = kinds["block"]
        self.block = Block(
            int(header["number"], 16),
            header["hash"],
            header["parentHash"],
            int(header["timestamp"], 16),
            senders={tx["hash"]: tx["from"] for tx in kinds["tx"]},
        )
        self.logs = [log_of(row) for row in kinds["log"]]
        self.contracts = FakeContracts()
        tokens = self._add_pools(kinds["pool"]) | self._add_balancer()
        decimals = {WBTC: 8, USDT: 6} | {
            row["address"]: int(row["decimals"], 16) for row in kinds["call"] if "decimals" in row
        }
        for token in tokens:
            self.contracts.erc20(token, f"T{token[2:6]}", decimals.get(token, 18))

    def with_topics(self, topics: tuple[str, ...]) -> list[EvmLog]:
        """Return the logs that a node gives a source which asks for these topics."""
        return [log for log in self.logs if log.topics and log.topics[0] in topics]

    def _add_pools(self, pools: list[dict[str, Any]]) -> set[str]:
        v3 = {log.address for log in self.with_topics((TOPICS["v3"],))}
        pairs: dict[tuple[str, str], int] = {}
        for pool in pools:
            address, pair = pool["address"], (pool["token0"], pool["token1"])
            if address in v3:
                self.contracts.add(address, "factory()", answer(["address"], _V3))
                self.contracts.tokens(address, *pair)
                self.contracts.add(address, "fee()", answer(["uint24"], 3000))
                named = "getPool(address,address,uint24)"
                self.contracts.add(_V3, named, answer(["address"], address), *pair, 3000)
            else:
                at = pairs[pair] = pairs.get(pair, -1) + 1
                self.contracts.pair(_V2[at], address, *pair)
        return {token for pool in pools for token in (pool["token0"], pool["token1"])}

    def _add_balancer(self) -> set[str]:
        logs = self.with_topics((TOPICS["balancer-v1"],))
        for log in logs:
            self.contracts.add(_BALANCER, "isBPool(address)", answer(["bool"], True), log.address)
        return {"0x" + topic[26:] for log in logs for topic in log.topics[2:]}
