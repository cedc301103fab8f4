"""The kinds of swaps that traders make: each returns the transaction that does one.

Amounts are in the smallest units. `size` is in native coins; what is paid in another token is worth
as much at the start. No swap names a least amount out: whatever the pools give is taken.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Final

from infra.chain.contracts import Transaction
from infra.chain.world import COIN, NATIVE_USD, NEVER, USD, Deployed

_MEME_OF_COIN: Final = 10**7
_TAX_OF_COIN: Final = 2 * 10**6
# The limits of TickMath (v3-core, v4-core), which a price must not reach.
_LOWEST_SQRT_PRICE: Final = 4_295_128_740
_HIGHEST_SQRT_PRICE: Final = 1461446703485210103287273052203988822378723970341
_BY_AMOUNT_IN: Final = "SupportingFeeOnTransferTokens"

Kind = Callable[["Trading", str, float], Transaction]


class Trading:
    """Builds swaps on a deployed world."""

    def __init__(self, deployed: Deployed) -> None:
        self._tokens = deployed.world.tokens
        self._key = deployed.world.v4
        self._deployed = deployed
        self._v2 = deployed.contract("v2_router")
        self._v3 = deployed.contract("v3_router")
        self._v4 = deployed.contract("v4_router")

    def path(self, trader: str, paid: int, *tokens: str, by_amount_in: bool = False) -> Transaction:
        """Swap along v2 pairs; native coins are paid where the first token is WETH."""
        addresses = [self._tokens[token] for token in tokens]
        suffix = _BY_AMOUNT_IN if by_amount_in else ""
        if tokens[0] == "WETH":
            given: tuple[object, ...] = (0, addresses, trader, NEVER)
            return self._v2.transact(trader, f"swapExactETHForTokens{suffix}", *given, value=paid)
        given = (paid, 0, addresses, trader, NEVER)
        return self._v2.transact(trader, f"swapExactTokensForTokens{suffix}", *given)

    def v3_single(self, trader: str, paid: int, sold: str, bought: str, fee: int) -> Transaction:
        """Swap in one v3 pool; native coins are paid where WETH is sold."""
        pool = (self._tokens[sold], self._tokens[bought], fee)
        given = (*pool, trader, NEVER, paid, 0, 0)
        value = paid if sold == "WETH" else 0
        return self._v3.transact(trader, "exactInputSingle", given, value=value)

    def v3_path(self, trader: str, paid: int, hops: Sequence[str | int]) -> Transaction:
        """Swap along v3 pools; `hops` alternates tokens and fees."""
        packed = b"".join(
            each.to_bytes(3, "big")
            if isinstance(each, int)
            else bytes.fromhex(self._tokens[each].removeprefix("0x"))
            for each in hops
        )
        return self._v3.transact(trader, "exactInput", (packed, trader, NEVER, paid, 0))

    def v4(self, trader: str, paid: int, *, sell_native: bool) -> Transaction:
        """Swap in the v4 pool: native coins for USDC, or USDC for native coins."""
        limit = _LOWEST_SQRT_PRICE if sell_native else _HIGHEST_SQRT_PRICE
        given = (self._key, (sell_native, -paid, limit), (False, False), b"")
        return self._v4.transact(trader, "swap", *given, value=paid if sell_native else 0)

    def forge(self, trader: str, amounts: Sequence[int]) -> Transaction:
        """Emit a v2 Swap event from a contract that is no pool."""
        data = "0x" + b"".join(amount.to_bytes(32, "big") for amount in amounts).hex()
        return Transaction(trader, self._deployed.world.contracts["forger"], data)


def _coins(size: float) -> int:
    return int(size * COIN)


def _dollars(size: float) -> int:
    return int(size * NATIVE_USD * USD)


def _memes(size: float) -> int:
    return int(size * _MEME_OF_COIN) * COIN


def _taxed(size: float) -> int:
    return int(size * _TAX_OF_COIN) * COIN


KINDS: Final[dict[str, Kind]] = {
    "v2 buy": lambda t, who, size: t.path(who, _dollars(size), "USDC", "WETH"),
    "v2 sell": lambda t, who, size: t.path(who, _coins(size), "WETH", "USDC"),
    "v2 USDT buy": lambda t, who, size: t.path(who, _dollars(size), "USDT", "WETH"),
    "v2 USDT sell": lambda t, who, size: t.path(who, _coins(size), "WETH", "USDT"),
    "v2 hops": lambda t, who, size: t.path(who, _dollars(size), "USDC", "WETH", "MEME"),
    "v2 hops back": lambda t, who, size: t.path(who, _memes(size), "MEME", "WETH", "USDC"),
    "v2 circle": lambda t, who, size: t.path(who, _coins(size), "WETH", "USDC", "MEME", "WETH"),
    "v2 circle back": lambda t, who, size: t.path(
        who, _coins(size), "WETH", "MEME", "USDC", "WETH"
    ),
    "fee on transfer buy": lambda t, who, size: t.path(
        who, _coins(size), "WETH", "TAX", by_amount_in=True
    ),
    "fee on transfer sell": lambda t, who, size: t.path(
        who, _taxed(size), "TAX", "WETH", by_amount_in=True
    ),
    "no trusted token": lambda t, who, size: t.path(
        who, _memes(size / 1_000), "MEME", "TAX", by_amount_in=True
    ),
    "v3 buy": lambda t, who, size: t.v3_single(who, _dollars(size), "USDC", "WETH", 500),
    "v3 sell": lambda t, who, size: t.v3_single(who, _coins(size), "WETH", "USDC", 500),
    "v3 hops": lambda t, who, size: t.v3_path(
        who, _dollars(size), ["USDC", 500, "WETH", 10_000, "MEME"]
    ),
    "v3 hops back": lambda t, who, size: t.v3_path(
        who, _memes(size), ["MEME", 10_000, "WETH", 500, "USDC"]
    ),
    "v4 buy": lambda t, who, size: t.v4(who, _dollars(size), sell_native=False),
    "v4 sell": lambda t, who, size: t.v4(who, _coins(size), sell_native=True),
    "symbol of 32 bytes": lambda t, who, size: t.path(who, _coins(size / 100), "WETH", "BYTES32"),
    "symbol that reverts": lambda t, who, size: t.path(who, _coins(size / 100), "WETH", "REVERTS"),
    "empty symbol": lambda t, who, size: t.path(who, _coins(size / 100), "WETH", "EMPTY"),
    "symbol with controls": lambda t, who, size: t.path(who, _coins(size / 100), "WETH", "BIDI"),
    "no decimals": lambda t, who, size: t.path(who, _coins(size / 100), "WETH", "NODEC"),
    "decimals 0": lambda t, who, size: t.path(who, _dollars(size / 10), "USDC", "ZERO"),
    "forged": lambda t, who, _size: t.forge(who, (0, 10**30, 1, 0)),
}
"""How a trader swaps, by what the swap is. Where prices drift, buys and sells bring them back."""


def draw(trading: Trading, traders: Sequence[str], rng: random.Random) -> Transaction:
    """Return a random swap of a random trader, of 0.01 to 3 native coins, small ones most often."""
    kind = rng.choice(list(KINDS.values()))
    return kind(trading, rng.choice(traders), 0.01 + 3 * rng.random() ** 4)
