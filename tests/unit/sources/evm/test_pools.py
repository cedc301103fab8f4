"""Pools that a factory names, for every kind; forgeries, nodes that are away, and the bounds."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from aggregator.runtime.errors import Retry
from sources.evm.logs import Initialized, SwapLog
from sources.evm.once import AskedOnce
from sources.evm.pools import Pools, ProvenPool
from sources.evm.types import NATIVE
from sources.evm.venues import V4_INITIALIZE, Kind, Layout, PoolFactory
from tests.fakes.contracts import FakeContracts, answer
from tests.support.evm_data import abi_log, word

AT = "0x" + "b1" * 32
POOL = "0x" + "9a" * 20
FACTORY = "0x" + "fa" * 20
OTHER = "0x" + "0b" * 20
A, B, C, D = ("0x" + digit * 40 for digit in "1234")
POOL_ID = "0x" + "e5" * 25 + "d4" * 7


def swap_of(
    layout: Layout,
    emitter: str = POOL,
    pool: str | None = None,
    coins: tuple[int | str, ...] = (0, 1),
) -> SwapLog:
    return SwapLog(layout, emitter, pool or emitter, *coins, 1, -1, None, "0x7c", 0)


async def proof(pools: Pools, swap: SwapLog) -> ProvenPool | None:
    (pool,) = (await pools.proven([swap], AT)).values()
    return pool


@dataclass
class Case:
    """A kind of factory, a layout of its pools, its question and what the pool says beside."""

    kind: Kind
    layout: Layout
    lookup: str
    fact: tuple[str, str, object] | None = None


PAIRS = [
    Case("v2", "v2", "getPair(address,address)"),
    Case("solidly", "solidly", "getPool(address,address,bool)", ("stable()", "bool", True)),
    Case("solidly", "v2", "getPair(address,address,bool)", ("stable()", "bool", False)),
    Case("v3", "v3", "getPool(address,address,uint24)", ("fee()", "uint24", 500)),
    Case("pancake-v3", "pancake-v3", "getPool(address,address,uint24)", ("fee()", "uint24", 100)),
    Case("slipstream", "v3", "getPool(address,address,int24)", ("tickSpacing()", "int24", 200)),
    Case("algebra", "v3", "poolByPair(address,address)"),
    Case("algebra", "algebra-integral", "poolByPair(address,address)"),
]


def chain_of(case: Case, named: str = POOL) -> FakeContracts:
    chain = FakeContracts()
    chain.add(POOL, "factory()", answer(["address"], FACTORY))
    chain.tokens(POOL, A, B)
    more = []
    if case.fact is not None:
        question, kind, value = case.fact
        chain.add(POOL, question, answer([kind], value))
        more = [value]
    chain.add(FACTORY, case.lookup, answer(["address"], named), A, B, *more)
    return chain


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: f"{case.kind} {case.layout}")
async def test_a_pool_counts_if_its_factory_names_it(case: Case) -> None:
    chain = chain_of(case)
    pools = Pools([PoolFactory("venue", case.kind, FACTORY)], chain)
    assert await proof(pools, swap_of(case.layout)) == ProvenPool("venue", (A, B))
    assert {block for _, _, block in chain.calls} == {AT}
    assert chain.rounds == 2
    asked = len(chain.calls)
    assert await proof(pools, swap_of(case.layout)) == ProvenPool("venue", (A, B))
    assert len(chain.calls) == asked


@pytest.mark.parametrize("case", PAIRS, ids=lambda case: f"{case.kind} {case.layout}")
async def test_a_forged_swap_is_of_no_pool(case: Case) -> None:
    """The emitter claims tokens and a factory, which knows another pool of these tokens."""
    for named in (OTHER, NATIVE):
        pools = Pools([PoolFactory("venue", case.kind, FACTORY)], chain_of(case, named))
        assert await proof(pools, swap_of(case.layout)) is None


async def test_the_word_of_a_factory_that_is_not_configured_counts_for_nothing() -> None:
    chain = chain_of(PAIRS[0])
    pools = Pools([PoolFactory("venue", "v2", OTHER)], chain)
    assert await proof(pools, swap_of("v2")) is None
    assert chain.asked("getPair(address,address)") == 0
    # Nor does a factory of another kind prove a pool of this layout.
    assert await proof(Pools([PoolFactory("venue", "v2", FACTORY)], chain), swap_of("v3")) is None


async def test_a_pool_without_factory_is_looked_up_in_all_of_its_kind() -> None:
    chain = FakeContracts()
    chain.tokens(POOL, A, B)
    chain.add(OTHER, "getPair(address,address)", answer(["address"], NATIVE), A, B)
    chain.add(FACTORY, "getPair(address,address)", answer(["address"], POOL), A, B)
    factories = [PoolFactory("one", "v2", OTHER), PoolFactory("two", "v2", FACTORY)]
    assert await proof(Pools(factories, chain), swap_of("v2")) == ProvenPool("two", (A, B))


@pytest.mark.parametrize(
    "said",
    [None, "0x", "0x1234", "0x" + "f" * 64, answer(["address"], NATIVE)],
    ids=["reverts", "empty", "short", "no address", "zero"],
)
async def test_a_pool_that_says_nonsense_is_none(said: str | None) -> None:
    chain = chain_of(PAIRS[3])
    chain.add(POOL, "token1()", said)
    assert await proof(Pools([PoolFactory("v", "v3", FACTORY)], chain), swap_of("v3")) is None
    chain = chain_of(PAIRS[3])
    chain.add(POOL, "fee()", said)
    assert await proof(Pools([PoolFactory("v", "v3", FACTORY)], chain), swap_of("v3")) is None


async def test_an_answer_that_is_not_hex_is_asked_for_again() -> None:
    chain = chain_of(PAIRS[0])
    chain.add(POOL, "token0()", "0xnothing")
    with pytest.raises(Retry, match="not hex: '0xnothing'"):
        await proof(Pools([PoolFactory("v", "v2", FACTORY)], chain), swap_of("v2"))


async def test_a_pool_of_uniswap_v4_is_known_from_its_initialize_log() -> None:
    factory = PoolFactory("uniswap-v4", "v4", FACTORY)
    pools = Pools([factory], FakeContracts())
    swap = swap_of("v4", FACTORY, POOL_ID)
    pools.learn(Initialized(OTHER, POOL_ID, (C, D)))  # another contract's word
    assert await proof(pools, swap) is None
    pools.learn(Initialized(FACTORY, POOL_ID, (NATIVE, B)))
    assert await proof(pools, swap) == ProvenPool("uniswap-v4", (NATIVE, B))
    assert await proof(pools, swap_of("v4", OTHER, POOL_ID)) is None


async def test_the_position_manager_names_the_tokens_of_a_pool_of_uniswap_v4() -> None:
    chain = FakeContracts()
    key = ["address", "address", "uint24", "int24", "address"]
    chain.add(
        OTHER,
        "poolKeys(bytes25)",
        answer(key, NATIVE, B, 500, 10, NATIVE),
        bytes.fromhex(POOL_ID[2:52]),
    )
    factory = PoolFactory("uniswap-v4", "v4", FACTORY, positions=OTHER)
    swap = swap_of("v4", FACTORY, POOL_ID)
    assert await proof(Pools([factory], chain), swap) == ProvenPool("uniswap-v4", (NATIVE, B))
    # A pool without positions: the key is empty, and a search finds the log.
    chain.add(
        OTHER,
        "poolKeys(bytes25)",
        answer(key, NATIVE, NATIVE, 0, 0, NATIVE),
        bytes.fromhex(POOL_ID[2:52]),
    )
    assert await proof(Pools([factory], chain), swap) is None
    chain.logs.append(
        abi_log(
            [V4_INITIALIZE, POOL_ID, word(A), word(B)],
            ["uint24", "int24", "address", "uint160", "int24"],
            [500, 10, NATIVE, 1, 0],
            address=FACTORY,
        )
    )
    assert await proof(Pools([factory], chain, chain), swap) == ProvenPool("uniswap-v4", (A, B))


COINS = ["address[4]", "address[8]"]


async def test_a_curve_pool_has_the_coins_of_its_registry() -> None:
    chain = FakeContracts()
    fixed = answer(["address[4]"], [A, B, NATIVE, NATIVE])
    chain.add(FACTORY, "get_coins(address)", fixed, POOL)
    chain.add(
        *(FACTORY, "get_underlying_coins(address)"),
        *(answer(["address[8]"], [A, C, D, *[NATIVE] * 5]), POOL),
    )
    pools = Pools([PoolFactory("curve", "curve", FACTORY)], chain)
    pool = await proof(pools, swap_of("curve-int128"))
    assert pool == ProvenPool("curve", (A, B), (A, C, D))
    assert pool.coin("curve-int128", 1) == B
    assert pool.coin("curve-underlying", 2) == D
    assert pool.coin("curve-int128", 2) is None
    assert await proof(pools, swap_of("curve-int128", OTHER)) is None


async def test_a_curve_factory_may_answer_with_a_dynamic_array() -> None:
    chain = FakeContracts()
    chain.add(FACTORY, "get_coins(address)", answer(["address[]"], [A, B, C]), POOL)
    chain.add(FACTORY, "get_coins(address)", answer(["address[]"], []), OTHER)
    pools = Pools([PoolFactory("curve", "curve", FACTORY)], chain)
    assert await proof(pools, swap_of("curve-ng")) == ProvenPool("curve", (A, B, C))
    assert await proof(pools, swap_of("curve-ng", OTHER)) is None


@pytest.mark.parametrize(
    ("number", "getter", "underlying"),
    [
        pytest.param("uint256", "base_coins", (A, C, D), id="metapool"),
        pytest.param("int128", "underlying_coins", (C, D), id="lending pool"),
        pytest.param("uint256", None, (), id="plain pool"),
    ],
)
async def test_a_curve_pool_of_the_configuration_says_its_own_coins(
    number: str, getter: str | None, underlying: tuple[str, ...]
) -> None:
    chain = FakeContracts()
    for at, coin in enumerate((A, B)):
        chain.add(POOL, f"coins({number})", answer(["address"], coin), at)
    if getter is not None:
        for at, coin in enumerate((C, D)):
            chain.add(POOL, f"{getter}({number})", answer(["address"], coin), at)
    pools = Pools([PoolFactory("curve", "curve", "", pools=(POOL,))], chain)
    assert await proof(pools, swap_of("curve-int128")) == ProvenPool("curve", (A, B), underlying)
    assert await proof(pools, swap_of("curve-int128", OTHER)) is None


async def test_balancer() -> None:
    chain = FakeContracts()
    chain.add(FACTORY, "isBPool(address)", answer(["bool"], True), POOL)
    chain.add(FACTORY, "isBPool(address)", answer(["bool"], False), OTHER)
    v1 = Pools([PoolFactory("balancer-v1", "balancer-v1", FACTORY)], chain)
    pool = await proof(v1, swap_of("balancer-v1", coins=(A, B)))
    assert pool == ProvenPool("balancer-v1")
    assert pool.coin("balancer-v1", A) == A
    assert await proof(v1, swap_of("balancer-v1", OTHER, coins=(A, B))) is None
    v2 = Pools([PoolFactory("balancer-v2", "balancer-v2", FACTORY)], FakeContracts())
    assert await proof(v2, swap_of("balancer-v2", FACTORY, POOL_ID)) == ProvenPool("balancer-v2")
    assert await proof(v2, swap_of("balancer-v2", OTHER, POOL_ID)) is None


async def test_a_block_of_fifty_new_pools_costs_two_rounds() -> None:
    chain = FakeContracts()
    swaps = [swap_of("v2", f"0x{at:040x}") for at in range(1, 51)]
    for swap in swaps:
        chain.pair(FACTORY, swap.pool, f"0x{int(swap.pool, 16) + 1000:040x}", B)
    found = await Pools([PoolFactory("v", "v2", FACTORY)], chain).proven(swaps, AT)
    assert all(found.values())
    assert len(found) == 50
    assert chain.rounds == 2


async def test_a_node_that_is_away_makes_no_pool_unknown() -> None:
    chain = chain_of(PAIRS[3])
    pools = Pools([PoolFactory("venue", "v3", FACTORY)], chain)
    for failing in range(1, 6):  # Each call of the proof fails once.
        chain.failing = failing
        with pytest.raises(Retry, match="the node is away"):
            await proof(pools, swap_of("v3"))
    chain.failing = 0
    assert await proof(pools, swap_of("v3")) == ProvenPool("venue", (A, B))


class Asked:
    """Counts questions; answers for known keys, and waits for `go` first."""

    def __init__(self, known: dict[str, str]) -> None:
        self.known = known
        self.keys: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.fails = False
        self.now = 0.0

    async def ask(self, key: str, block: str) -> str | None:
        self.keys.append(key)
        await self.go.wait()
        if self.fails:
            raise Retry("away")
        return self.known.get(key)


def once(asked: Asked, known: int = 10, absent: int = 10) -> AskedOnce[str, str]:
    return AskedOnce(asked.ask, lambda: asked.now, known=known, absent=absent, absent_s=60)


async def test_concurrent_questions_are_one_even_if_one_reader_is_cancelled() -> None:
    asked = Asked({"a": "A"})
    cache = once(asked)
    asked.go.clear()
    first = asyncio.create_task(cache.answers(["a"], AT))
    second = asyncio.create_task(cache.answers(["a", "a"], AT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    first.cancel()
    asked.go.set()
    assert await second == {"a": "A"}
    assert asked.keys == ["a"]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_is_absent_is_asked_again_after_a_while() -> None:
    asked = Asked({})
    cache = once(asked)
    for now, questions in ((0, 1), (59, 1), (60, 2)):
        asked.now = now
        assert await cache.answers(["a"], AT) == {"a": None}
        assert len(asked.keys) == questions
    cache.learn("a", "A")
    assert await cache.answers(["a"], AT) == {"a": "A"}


async def test_both_sets_are_bounded_and_the_least_used_answer_goes_first() -> None:
    asked = Asked({"a": "A", "b": "B", "c": "C"})
    cache = once(asked, known=2, absent=2)
    await cache.answers(["a", "b"], AT)
    await cache.answers(["a"], AT)
    await cache.answers(["c"], AT)
    assert [cache.known(key) for key in "abc"] == ["A", None, "C"]
    await cache.answers(["x", "y", "z"], AT)
    asked.keys.clear()
    await cache.answers(["x", "y", "z"], AT)
    assert asked.keys == ["x"]


async def test_a_failed_question_leaves_the_other_answers() -> None:
    asked = Asked({"a": "A"})
    cache = once(asked)
    asked.fails = True
    with pytest.raises(Retry):
        await cache.answers(["a"], AT)
    asked.fails = False
    assert await cache.answers(["a"], AT) == {"a": "A"}
