"""Traders on the chain: blocks with swaps of every kind, and a reorganisation now and then.

The time between blocks is real time; what is in them follows from the seed and the chain's state.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Final

from infra.chain.contracts import Transaction
from infra.chain.reorganisation import reorganise
from infra.chain.rpc import Rpc
from infra.chain.swaps import KINDS, Trading, draw
from infra.chain.world import Deployed

BLOCK_S: Final = 1.0
REORGANISE_S: Final = 20.0
_MOST_SWAPS: Final = 5
_DEEPEST: Final = 3
# Trades of the reference pools, so that the native coin has a price from the first block on.
_OPENING: Final = ("v2 buy", "v2 USDT buy", "v3 buy", "v2 sell", "v2 USDT sell", "v3 sell")


class Traders:
    """Swaps and reorganisations on a deployed world; `now` is in seconds since the epoch."""

    def __init__(
        self,
        rpc: Rpc,
        deployed: Deployed,
        rng: random.Random,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._rpc = rpc
        self._now = now
        self._rng = rng
        self._traders = deployed.world.traders
        self._trading = Trading(deployed)

    def open(self) -> None:
        """Mine a block in which each reference pool trades."""
        self._send([KINDS[kind](self._trading, self._traders[0], 0.5) for kind in _OPENING])
        self._mine()

    def swap(self, most: int = _MOST_SWAPS) -> int:
        """Mine a block of at most `most` random swaps and return their number."""
        number = self._rng.randint(0, most)
        self._send([draw(self._trading, self._traders, self._rng) for _ in range(number)])
        self._mine()
        return number

    def reorganise(self, deepest: int = _DEEPEST) -> str:
        """Reorganise the newest blocks, at most `deepest`; return a sentence about it."""
        done = reorganise(self._rpc, self._rng.randint(1, deepest), self._rng)
        return (
            f"reorganised {done.depth} blocks: {len(done.moved)} transactions moved to other "
            f"blocks, {len(done.dropped)} dropped"
        )

    def _mine(self) -> None:
        """Mine a block of the present: after a reorganisation the node's own clock is slow."""
        last = self._rpc("eth_getBlockByNumber", "latest", False)
        if (now := int(self._now())) > int(last["timestamp"], 16):
            self._rpc("evm_setNextBlockTimestamp", now)
        self._rpc("evm_mine")

    def _send(self, transactions: list[Transaction]) -> None:
        for transaction in transactions:
            self._rpc(*transaction.call())


def trade(
    traders: Traders,
    report: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Trade until the process ends: a block every BLOCK_S, a reorganisation every REORGANISE_S."""
    traders.open()
    report("trading")
    reorganised_at = block_at = clock()
    while True:
        block_at += BLOCK_S
        sleep(max(0.0, block_at - clock()))
        traders.swap()
        if clock() - reorganised_at >= REORGANISE_S:
            reorganised_at = clock()
            report(traders.reorganise())
