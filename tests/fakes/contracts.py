"""A chain's contracts in memory: answers by the signature of the question, as a test states them.

The question is encoded by eth-abi and Keccak here, so a wrong selector in the product finds no
answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from eth_abi import encode
from eth_hash.auto import keccak

from aggregator.runtime.errors import Retry
from sources.evm.types import EvmLog


def question(signature: str, *arguments: Any) -> str:
    """Return the data of a call, such as `question("getPair(address,address)", a, b)`."""
    types = signature[signature.index("(") + 1 : -1]
    encoded = encode(types.split(",") if types else [], arguments)
    return "0x" + (keccak(signature.encode())[:4] + encoded).hex()


def answer(types: Sequence[str], *values: Any) -> str:
    """Return the ABI encoding of values as a node's answer."""
    return "0x" + encode(list(types), values).hex()


class FakeContracts:
    """Implements ContractCalls and LogFinder.

    A contract that answers anything fails (None) on every other question; nothing is at any other
    address. `failing` questions raise Retry that many times. `calls` are all questions, `rounds`
    how often at least one was asked while none was under way.
    """

    def __init__(self) -> None:
        self.failing = 0
        self.calls: list[tuple[str, str, str]] = []
        self.rounds = 0
        self.logs: list[EvmLog] = []
        self._answers: dict[str, dict[str, str | None]] = {}
        self._under_way = 0

    def add(self, address: str, signature: str, given: str | None, *arguments: Any) -> None:
        """State the answer to one question; None is a call that fails."""
        self._answers.setdefault(address, {})[question(signature, *arguments)] = given

    def asked(self, signature: str) -> int:
        """Return how often a function was asked, with any arguments."""
        selector = "0x" + keccak(signature.encode())[:4].hex()
        return sum(data.startswith(selector) for _, data, _ in self.calls)

    async def call(self, to: str, data: str, block: str) -> str | None:
        self.rounds += not self._under_way
        self._under_way += 1
        try:
            self.calls.append((to, data, block))
            await asyncio.sleep(0)
            if self.failing:
                self.failing -= 1
                raise Retry("the node is away")
            return self._answers[to].get(data) if to in self._answers else "0x"
        finally:
            self._under_way -= 1

    async def find(self, address: str, topics: Sequence[str]) -> EvmLog | None:
        for log in self.logs:
            if log.address == address and log.topics[: len(topics)] == tuple(topics):
                return log
        return None

    def pair(self, factory: str, pool: str, token0: str, token1: str) -> None:
        """Add a pool of a v2 factory that the factory names."""
        self.add(pool, "factory()", answer(["address"], factory))
        self.tokens(pool, token0, token1)
        self.add(factory, "getPair(address,address)", answer(["address"], pool), token0, token1)

    def tokens(self, pool: str, token0: str, token1: str) -> None:
        """Let a pool say its two tokens."""
        self.add(pool, "token0()", answer(["address"], token0))
        self.add(pool, "token1()", answer(["address"], token1))

    def erc20(self, address: str, symbol: str, decimals: int) -> None:
        """Add a token that says its symbol and decimals as the standard has it."""
        self.add(address, "symbol()", answer(["string"], symbol))
        self.add(address, "decimals()", answer(["uint8"], decimals))
