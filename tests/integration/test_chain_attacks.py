"""Attacks on prices and pools, made on real contracts and read by the reader with its pricer.

Each test begins on the same chain, with fair trades in all reference pools; anvil takes back what a
test did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from aggregator.runtime.errors import Retry
from infra.chain.contracts import Transaction
from infra.chain.errors import NodeRefused
from infra.chain.swaps import KINDS, Trading
from infra.chain.world import COIN, NATIVE, NEVER, USD
from sources.evm.calls import CALL_GAS, LATEST
from sources.evm.reader import SwapReader
from sources.evm.types import Block, EvmLog
from sources.evm.venues import PoolFactory
from sources.pricing.pricer import Pricer
from sources.pricing.trusted import Trusted
from tests.support.anvil import RunningChain, running_chain

FAIR = Decimal(3_000)
# Blocks of one second would share their price.
BLOCK_S = 12
REFERENCES = ("v2 buy", "v2 sell", "v2 USDT buy", "v2 USDT sell", "v3 buy", "v3 sell")


class NodeCalls:
    """The reader's questions, asked of the node directly."""

    def __init__(self, chain: RunningChain) -> None:
        self._rpc = chain.rpc

    async def call(self, to: str, data: str, block: str) -> str | None:
        at = block if block == LATEST else {"blockHash": block}
        try:
            return str(self._rpc("eth_call", {"to": to, "data": data, "gas": hex(CALL_GAS)}, at))
        except NodeRefused as refused:
            if "revert" in str(refused):
                return None
            raise Retry(str(refused)) from refused

    async def find(self, address: str, topics: Sequence[str]) -> EvmLog | None:
        asked = {"fromBlock": "0x0", "toBlock": "latest", "address": address, "topics": topics}
        found = msgspec.convert(self._rpc("eth_getLogs", asked), list[EvmLog])
        return found[0] if found else None


class Tallied:
    """What the reader dropped, by reason."""

    def __init__(self) -> None:
        self.reasons: dict[str, int] = {}

    def dropped(self, reason: str, count: int = 1) -> None:
        self.reasons[reason] = self.reasons.get(reason, 0) + count

    def unpriced(self, reason: str, count: int = 1) -> None:
        self.dropped(reason, count)


class Market:
    """A chain, and a reader that has seen fair trades in every reference pool."""

    def __init__(self, chain: RunningChain) -> None:
        self.chain, self.world = chain, chain.world
        self.trading = Trading(chain.deployed)
        self.trader = self.world.traders[0]
        self.tally = Tallied()
        tokens, contracts = self.world.tokens, self.world.contracts
        trusted = Trusted(
            stables=frozenset({tokens["USDC"], tokens["USDT"]}),
            natives=frozenset({tokens["WETH"], NATIVE}),
            reference_pools=frozenset(self.world.reference_pools),
        )
        calls = NodeCalls(chain)
        self.reader = SwapReader(
            "anvil",
            [
                PoolFactory("uniswap-v2", "v2", contracts["v2_factory"]),
                PoolFactory("uniswap-v3", "v3", contracts["v3_factory"]),
                PoolFactory("uniswap-v4", "v4", contracts["v4_manager"]),
            ],
            wrapped_native=tokens["WETH"],
            order=trusted,
            pricer=Pricer(trusted),
            calls=calls,
            finder=calls,
            tally=self.tally,
        )
        for _ in range(2):
            for kind in REFERENCES:
                self.mine(KINDS[kind](self.trading, self.trader, 0.5))

    def mine(self, *transactions: Transaction, after_s: int = BLOCK_S) -> list[dict[str, Any]]:
        """Mine transactions in one block; return its events."""
        rpc = self.chain.rpc
        last = rpc("eth_getBlockByNumber", "latest", False)
        rpc("evm_setNextBlockTimestamp", int(last["timestamp"], 16) + after_s)
        hashes = [rpc(*each.call()) for each in transactions]
        rpc("evm_mine")
        assert all(rpc("eth_getTransactionReceipt", each)["status"] == "0x1" for each in hashes)
        found = rpc("eth_getBlockByNumber", "latest", True)
        block = Block(
            int(found["number"], 16),
            found["hash"],
            found["parentHash"],
            int(found["timestamp"], 16),
            senders={each["hash"]: each["from"] for each in found["transactions"]},
        )
        asked = {"blockHash": block.hash, "topics": [list(self.reader.wanted.topics)]}
        logs = msgspec.convert(rpc("eth_getLogs", asked), list[EvmLog])
        events = asyncio.run(self.reader.read(block, logs))
        return [msgspec.json.decode(each.value) for each in events]

    def swap(self, kind: str, size: float = 1.0) -> list[dict[str, Any]]:
        """Mine one swap of a kind; return its events."""
        return self.mine(KINDS[kind](self.trading, self.trader, size))

    def pool(self, first: str, amount: int, second: str, other: int) -> None:
        """Make a v2 pool of two tokens."""
        tokens, owner = self.world.tokens, self.world.owner
        given = (tokens[first], tokens[second], amount, other, 0, 0, owner, NEVER)
        router = self.chain.deployed.contract("v2_router")
        self.mine(router.transact(owner, "addLiquidity", *given))


def usd_of(events: list[dict[str, Any]]) -> Decimal | None:
    """Return the USD of a swap, which both legs have."""
    (value,) = {each.get("amount_usd") for each in events}
    return None if value is None else Decimal(value)


def is_near(value: Decimal | None, wanted: Decimal, share: str = "0.02") -> bool:
    return value is not None and abs(value - wanted) <= wanted * Decimal(share)


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningChain]:
    with running_chain(tmp_path_factory.mktemp("chain")) as running:
        yield running


@pytest.fixture
def market(chain: RunningChain) -> Iterator[Market]:
    before = chain.rpc("evm_snapshot")
    yield Market(chain)
    chain.rpc("evm_revert", before)


@pytest.mark.parametrize("kind", ["v2 sell", "v3 sell", "v4 sell", "v2 USDT sell"])
def test_a_fair_swap_is_worth_what_was_paid(market: Market, kind: str) -> None:
    events = market.swap(kind, 0.1)
    assert is_near(usd_of(events), FAIR / 10)
    assert [each.get("leg", 0) for each in events] == [0, 1]
    assert {each["trader"] for each in events} == {market.trader}


def test_a_dump_into_one_reference_pool_moves_no_other_price(market: Market) -> None:
    (weth, usdc) = market.swap("v2 sell", 400)
    # The smaller leg: 400 coins for the 665,000 USDC that the pool still gave.
    assert Decimal(usdc["amount"]) < 670_000
    assert Decimal(weth["amount_usd"]) == pytest.approx(
        Decimal(usdc["amount"]), rel=Decimal("1e-6")
    )
    for kind in ("no trusted token", "fee on transfer buy"):
        events = market.swap(kind, 1)
    assert is_near(usd_of(events), FAIR)
    assert is_near(usd_of(market.swap("v2 USDT sell", 1)), FAIR)


def test_a_forged_swap_is_no_pools(market: Market) -> None:
    assert market.swap("forged") == []
    assert market.tally.reasons == {"unknown_factory": 1}


def test_a_thin_pool_prices_nothing_else(market: Market) -> None:
    market.pool("BIDI", 1_000 * COIN, "USDC", 3 * USD)
    market.pool("BIDI", 10**6 * COIN, "MEME", 10**6 * COIN)
    bought = market.mine(market.trading.path(market.trader, USD, "USDC", "BIDI"))
    assert usd_of(bought) == 1
    sold = market.mine(market.trading.path(market.trader, 10**4 * COIN, "BIDI", "MEME"))
    assert len(sold) == 2
    assert usd_of(sold) is None
    assert usd_of(market.swap("no trusted token")) is None
    assert market.tally.reasons == {"no_trusted_leg": 4}


def test_of_a_token_with_a_fee_on_transfer_counts_what_the_pool_got(market: Market) -> None:
    events = market.swap("fee on transfer sell", 0.5)
    tax = next(each for each in events if each["token"] == market.world.tokens["TAX"])
    assert Decimal(tax["amount"]) == Decimal("990000")  # 1 % of a million less
    assert tax["side"] == "sell"
    weth = next(each for each in events if each["token"] == market.world.tokens["WETH"])
    assert is_near(usd_of(events), Decimal(weth["amount"]) * FAIR)


def test_a_token_without_decimals_has_no_events_and_one_of_zero_has_whole_amounts(
    market: Market,
) -> None:
    assert market.swap("no decimals") == []
    assert market.tally.reasons == {"no_metadata": 1}
    events = market.swap("decimals 0")
    zero = next(each for each in events if each["token"] == market.world.tokens["ZERO"])
    assert "." not in zero["amount"]
    assert usd_of(events) == 300  # a tenth of a coin in USDC


@pytest.mark.parametrize(
    ("kind", "token", "symbol"),
    [
        ("symbol of 32 bytes", "BYTES32", "BYTES32"),
        ("symbol that reverts", "REVERTS", None),
        ("empty symbol", "EMPTY", None),
    ],
)
def test_a_symbol_is_what_the_contract_says_or_unknown(
    market: Market, kind: str, token: str, symbol: str | None
) -> None:
    (event,) = (e for e in market.swap(kind) if e["token"] == market.world.tokens[token])
    assert event.get("symbol") == symbol


def test_a_symbol_shows_no_control_character(market: Market) -> None:
    events = market.swap("symbol with controls")
    (event,) = (each for each in events if each["token"] == market.world.tokens["BIDI"])
    assert event["symbol"].isprintable()


def test_without_trades_in_the_reference_pools_there_is_no_price_until_the_next(
    market: Market,
) -> None:
    market.mine(after_s=20 * 60)
    assert usd_of(market.swap("fee on transfer buy")) is None
    # Its own USDC leg is worth what it says; the native coin has a price again in the next block.
    for kind in REFERENCES:
        assert is_near(usd_of(market.swap(kind, 0.5)), FAIR / 2)
    assert is_near(usd_of(market.swap("fee on transfer buy")), FAIR)
