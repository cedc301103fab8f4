"""Blocks to events: the real block 12505500 beside the stored events, and all that can fail."""

from __future__ import annotations

import json
from collections import Counter
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from aggregator.decoding.rules import decode_swap
from aggregator.runtime.errors import Retry
from sources.events import Outgoing
from sources.evm.calls import LATEST
from sources.evm.reader import CURVE_NATIVE, PoolSelection, SwapReader
from sources.evm.types import NATIVE, Block, EvmLog, PoolSwap
from sources.evm.venues import TOPICS, V4_INITIALIZE, PoolFactory
from sources.pricing.pricer import Priced, Pricer
from sources.pricing.trusted import Trusted
from tests.fakes.contracts import FakeContracts, answer
from tests.support.block_12505500 import (
    DAI,
    FACTORIES,
    REFERENCE_POOLS,
    USDC,
    USDT,
    WBTC,
    WETH,
    RecordedBlock,
)
from tests.support.evm_data import BLOCK_HASH, TX_HASH, abi_log, rows, word

TRUSTED = Trusted(
    stables=frozenset({USDC, USDT, DAI}),
    natives=frozenset({WETH, NATIVE}),
    majors=frozenset({WBTC}),
    reference_pools=frozenset(REFERENCE_POOLS),
)
SENDER = "0x" + "f0" * 20
BLOCK = Block(7, BLOCK_HASH, "0x" + "b0" * 32, 1_700_000_000, senders={TX_HASH: SENDER})
POOL, MEME, ROUTER = ("0x" + digit * 40 for digit in "9ac")
V2 = PoolFactory("uniswap-v2", "v2", "0x" + "f2" * 20)
V4 = PoolFactory("uniswap-v4", "v4", "0x" + "f4" * 20)
CURVE = PoolFactory("curve", "curve", "0x" + "f5" * 20)


class Counted:
    """Counts as the metrics do."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self.no_usd: Counter[str] = Counter()

    def dropped(self, reason: str, count: int = 1) -> None:
        self.drops[reason] += count

    def unpriced(self, reason: str, count: int = 1) -> None:
        self.no_usd[reason] += count


class OneDollar:
    """Prices every swap at 1 USD and notes what it saw."""

    def __init__(self) -> None:
        self.priced: list[tuple[str, int]] = []
        self.observed: list[tuple[str, int]] = []

    def price(self, swap: PoolSwap, timestamp_s: int) -> Priced:
        self.priced.append((swap.pool, swap.log_index))
        return Priced(Decimal(1), True, "")

    def observe(self, swap: PoolSwap, timestamp_s: int) -> None:
        self.observed.append((swap.pool, swap.log_index))


class Bench:
    """A reader with a chain of one proven v2 pool of MEME and WETH."""

    def __init__(self, *factories: PoolFactory, **more: Any) -> None:
        self.chain, self.tally, self.pricer = FakeContracts(), Counted(), OneDollar()
        self.chain.pair(V2.address, POOL, MEME, WETH)
        self.chain.erc20(MEME, "MEME", 9)
        self.chain.erc20(WETH, "WETH", 18)
        self.reader = SwapReader(
            "ethereum",
            factories or (V2,),
            wrapped_native=WETH,
            order=TRUSTED,
            pricer=self.pricer,
            calls=self.chain,
            tally=self.tally,
            finder=self.chain,
            **more,
        )

    async def read(self, *logs: EvmLog, block: Block = BLOCK) -> list[dict[str, Any]]:
        return [json.loads(one.value) for one in await self.reader.read(block, logs)]


def v2_log(
    index: int = 0, amounts: tuple[int, ...] = (0, 10**18, 5 * 10**9, 0), **more: Any
) -> EvmLog:
    topics = [TOPICS["v2"], word(ROUTER), word(ROUTER)]
    return abi_log(topics, ["uint256"] * 4, amounts, **({"address": POOL} | more), index=index)


@pytest.fixture(scope="module")
def recorded() -> RecordedBlock:
    return RecordedBlock()


async def read_12505500(recorded: RecordedBlock) -> tuple[list[Outgoing], Counted, Pricer]:
    tally, pricer = Counted(), Pricer(TRUSTED)
    reader = SwapReader(
        "ethereum",
        FACTORIES,
        wrapped_native=WETH,
        order=TRUSTED,
        pricer=pricer,
        calls=recorded.contracts,
        tally=tally,
    )
    logs = recorded.with_topics(reader.wanted.topics)
    # Swaps price later blocks, and no earlier block is recorded: let this one price itself.
    earlier = msgspec.structs.replace(recorded.block, timestamp=recorded.block.timestamp - 13)
    await reader.observe([(earlier, logs)])
    return await reader.read(recorded.block, logs), tally, pricer


# The swap whose base is another than in the stored events: of USDT and USDC the higher address is
# the quote, and of two stable legs the smaller is the value.
OTHER_BASE = 282


async def test_block_12505500_beside_the_stored_events(recorded: RecordedBlock) -> None:
    sent, tally, pricer = await read_12505500(recorded)
    ours = {(e["log_index"], e.get("leg", 0)): e for e in (json.loads(one.value) for one in sent)}
    stored = {row["log_index"]: row for row in rows("ethereum_block_12505500_swaps")}
    assert tally.drops == {"unknown_factory": 7}  # Pools whose tokens the block does not have.
    assert not tally.no_usd
    assert len(stored) == 45
    balancer = [e for e in ours.values() if e["venue"] == "balancer-v1" and not e.get("leg")]
    assert len(ours) == 2 * (45 + 7)
    assert len(balancer) == 7  # The stored events leave Balancer out.
    price = pricer.reference(WETH, recorded.block.timestamp).usd
    assert price is not None
    # 2,510.83 is the median of 13 swaps; ours is the median of five pools' medians.
    ratio = price / Decimal("2510.83")
    assert abs(ratio - 1) < Decimal("0.001")
    differs: Counter[str] = Counter()
    for index, row in stored.items():
        event = ours[index, 1 if index == OTHER_BASE else 0]
        for field in ("tx_hash", "token", "side", "amount", "pool", "trader", "timestamp"):
            assert event[field] == row[field], (index, field)
        assert (event["block_hash"], event["block_number"]) == (row["block_hash"], 12_505_500)
        usd, was = Decimal(event["amount_usd"]), Decimal(row["amount_usd"])
        if index == OTHER_BASE:
            differs["other base"] += 1
            assert (usd, was) == (Decimal("1834.697067"), Decimal("1841.591792"))
        elif row["quote"] == "WETH":
            differs["other price"] += 1
            assert abs(usd - was * ratio) < Decimal("0.00001") * was
        elif row["token"] == WETH and Decimal(row["amount"]) * price < was:
            # The stored value is the stable leg, ours the smaller of two trusted legs.
            differs["smaller leg"] += 1
            assert abs(usd - Decimal(row["amount"]) * price) <= Decimal("0.000001")
            assert usd > was * Decimal("0.98")
        else:
            differs["same"] += 1
            assert usd == was, index
    assert differs == {"same": 13, "other price": 24, "smaller leg": 7, "other base": 1}


async def test_block_12505500_passes_the_decoder_in_log_order(recorded: RecordedBlock) -> None:
    sent, _, _ = await read_12505500(recorded)
    swaps = [decode_swap(one.value, 1_621_972_734_000, 300_000) for one in sent]
    assert [one.key.decode() for one in sent] == [swap.token_id for swap in swaps]
    order = [(swap.log_index, swap.leg) for swap in swaps]
    assert order == sorted(order)
    assert len({swap.marker for swap in swaps}) == len(swaps)
    # Both tokens of a both-in swap were netted: each swap has one buy and one sell.
    sides = Counter((swap.log_index, swap.is_buy) for swap in swaps)
    assert set(sides.values()) == {1}


async def test_the_block_costs_three_rounds_of_calls_and_then_none(recorded: RecordedBlock) -> None:
    recorded.contracts.rounds, recorded.contracts.calls[:] = 0, []
    await read_12505500(recorded)
    assert recorded.contracts.rounds == 3


async def test_a_swap_of_a_forged_pool_is_counted_and_not_sent() -> None:
    bench = Bench()
    bench.chain.pair(ROUTER, "0x" + "66" * 20, USDC, WETH)
    forged = v2_log(1, (0, 1, 10**30, 0), address="0x" + "66" * 20)
    assert [event["token"] for event in await bench.read(v2_log(), forged)] == [MEME, WETH]
    assert bench.tally.drops == {"unknown_factory": 1}


@pytest.mark.parametrize(
    ("amounts", "reason"),
    [
        pytest.param((5, 5, 0, 0), "not_a_swap", id="both in"),
        pytest.param((1, 0, 0, 0), "not_a_swap", id="nothing out"),
        pytest.param((10**39, 0, 0, 1), "too_large", id="more than an event may have"),
    ],
)
async def test_what_is_no_event_is_counted(amounts: tuple[int, ...], reason: str) -> None:
    bench = Bench()
    assert await bench.read(v2_log(0, amounts)) == []
    assert bench.tally.drops == {reason: 1}
    assert bench.pricer.priced == []


async def test_both_tokens_paid_in_are_netted() -> None:
    (base, quote) = await Bench().read(v2_log(0, (3 * 10**9, 10**18, 5 * 10**9, 0)))
    assert (base["side"], base["amount"], quote["side"], quote["amount"]) == (
        "buy",
        "2",
        "sell",
        "1",
    )


async def test_a_token_without_decimals_has_no_events() -> None:
    bench = Bench()
    bench.chain.add(MEME, "decimals()", None)
    assert await bench.read(v2_log()) == []
    assert bench.tally.drops == {"no_metadata": 1}
    assert bench.pricer.priced == []


async def test_another_layout_is_counted_as_undecodable() -> None:
    bench = Bench()
    log = v2_log()
    assert await bench.read(msgspec.structs.replace(log, data=log.data + "00" * 32)) == []
    assert bench.tally.drops == {"undecodable": 1}


async def test_native_coins_are_their_wrapped_token() -> None:
    """A swap of ETH is one of WETH; one of ETH for WETH is a wrap and no swap."""
    bench = Bench(V4, CURVE)
    ids = ["0x" + digit * 64 for digit in "de"]
    news = [
        abi_log(
            [V4_INITIALIZE, pool, word(NATIVE), word(token)],
            ["uint24", "int24", "address", "uint160", "int24"],
            [500, 10, NATIVE, 1, 0],
            address=V4.address,
        )
        for pool, token in zip(ids, (MEME, WETH), strict=True)
    ]
    swaps = [
        abi_log(
            [TOPICS["v4"], pool, word(ROUTER)],
            ["int128", "int128", "uint160", "uint128", "int24", "uint24"],
            [-(10**18), 10**9, 1, 1, 0, 500],
            address=V4.address,
            index=at,
        )
        for at, pool in enumerate(ids, 3)
    ]
    bench.chain.add(
        CURVE.address, "get_coins(address)", answer(["address[2]"], [CURVE_NATIVE, MEME]), POOL
    )
    exchange = abi_log(
        [TOPICS["curve-int128"], word(ROUTER)],
        ["uint256"] * 4,
        [1, 10**9, 0, 10**18],
        address=POOL,
        index=9,
    )
    got = await bench.read(*news, *swaps, exchange)
    assert [(e["log_index"], e["token"], e["side"], e["amount"]) for e in got] == [
        *((3, MEME, "buy", "1"), (3, WETH, "sell", "1")),
        *((9, MEME, "sell", "1"), (9, WETH, "buy", "1")),
    ]
    assert [e["pool"] for e in got] == [ids[0]] * 2 + [POOL] * 2
    assert bench.tally.drops == {"not_a_swap": 1}


async def test_a_call_that_fails_leaves_no_trace_of_the_block() -> None:
    bench = Bench()
    donation = v2_log(1, (5, 5, 0, 0))
    for failing in range(1, 6):
        bench.chain.failing = failing
        with pytest.raises(Retry):
            await bench.read(v2_log(), donation)
    assert (bench.tally.drops, bench.pricer.priced) == (Counter(), [])
    bench.chain.failing = 0
    assert len(await bench.read(v2_log(), donation)) == 2
    assert bench.tally.drops == {"not_a_swap": 1}
    assert bench.pricer.priced == [(POOL, 0)]


async def test_logs_of_another_block_are_never_mixed_in() -> None:
    bench = Bench()
    stray = v2_log(1, block_hash="0x" + "0d" * 32)
    with pytest.raises(Retry, match=r"a log of block 0x0d.* answers are of two chains"):
        await bench.read(v2_log(), stray)
    with pytest.raises(Retry, match=f"came without transaction {TX_HASH}"):
        await bench.read(v2_log(), block=msgspec.structs.replace(BLOCK, senders={"0x1": SENDER}))
    assert bench.pricer.priced == []


async def test_calls_are_made_at_the_block_or_for_final_blocks_at_the_newest() -> None:
    bench = Bench()
    await bench.read(v2_log())
    assert {at for _, _, at in bench.chain.calls} == {BLOCK.hash}
    bench = Bench()
    await bench.reader.read_final([(BLOCK, [v2_log()])])
    assert {at for _, _, at in bench.chain.calls} == {LATEST}


async def test_a_selection_sends_its_pools_and_prices_by_the_reference_pools() -> None:
    second, third = "0x" + "b2" * 20, "0x" + "b3" * 20
    selected = PoolSelection(pools=frozenset({POOL}), references=frozenset({second}))
    bench = Bench(selection=selected)
    bench.chain.pair(V2.address, second, USDC, WETH)
    bench.chain.erc20(USDC, "USDC", 6)
    got = await bench.read(v2_log(0, address=third), v2_log(1, address=second), v2_log(2))
    assert [event["log_index"] for event in got] == [2, 2]
    assert bench.pricer.priced == [(second, 1), (POOL, 2)]
    assert not bench.tally.drops


@pytest.mark.parametrize(
    ("references", "addresses"),
    [
        pytest.param({POOL}, {POOL}, id="a pool of its own"),
        pytest.param({"0x" + "d" * 64}, {V4.address}, id="a pool in the PoolManager"),
        pytest.param({POOL, "0x" + "d" * 64}, {POOL, V4.address}, id="both"),
        pytest.param(set(), None, id="none"),
    ],
)
def test_the_logs_of_reference_pools_can_be_asked_for_alone(
    references: set[str], addresses: set[str] | None
) -> None:
    reader = Bench(V2, V4, selection=PoolSelection(references=frozenset(references))).reader
    found = reader.references
    assert (found and set(found.addresses)) == addresses
    assert found is None or found.topics == reader.wanted.topics


async def test_observing_prices_and_sends_nothing() -> None:
    bench = Bench()
    await bench.reader.observe([(BLOCK, [v2_log(3), v2_log(1)])])
    assert bench.pricer.observed == [(POOL, 1), (POOL, 3)]
    assert bench.pricer.priced == []


async def test_the_trader_is_the_sender_of_the_transaction_or_as_chosen() -> None:
    for choice, who in (("tx_from", SENDER), ("recipient", ROUTER), ("none", None)):
        events = await Bench(trader=choice).read(v2_log())
        assert [event.get("trader") for event in events] == [who, who]


async def test_final_blocks_together_give_what_each_gives_alone() -> None:
    blocks = [
        (
            msgspec.structs.replace(BLOCK, hash=of),
            [v2_log(3, block_hash=of), v2_log(1, block_hash=of)],
        )
        for of in ("0x" + "01" * 32, "0x" + "02" * 32)
    ]
    together, alone = Bench(), Bench()
    events = await together.reader.read_final(blocks)
    assert events == [one for block in blocks for one in await alone.reader.read(*block)]
    assert len(events) == 8
    assert together.pricer.priced == alone.pricer.priced == [(POOL, 1), (POOL, 3)] * 2
    assert together.chain.rounds == 3
    assert {at for _, _, at in together.chain.calls} == {LATEST}


async def test_final_blocks_of_which_a_call_fails_leave_no_trace() -> None:
    bench = Bench()
    bench.chain.failing = 1
    with pytest.raises(Retry):
        await bench.reader.read_final([(BLOCK, [v2_log()]), (BLOCK, [v2_log(1)])])
    assert bench.pricer.priced == []
