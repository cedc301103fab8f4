"""Swaps by slices: real logs of every venue, and the same as eth-abi for any values."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
import pytest
from eth_abi import decode as abi_decode
from eth_abi import encode
from eth_hash.auto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.runtime.errors import Retry
from sources.evm.logs import decode, initialized
from sources.evm.types import EvmLog
from sources.evm.venues import EMITS, TOPICS, V4_INITIALIZE, Layout, PoolFactory, topics_of
from tests.support.evm_data import abi_log, log_of, rows, word

SIGNATURES: dict[Layout, str] = {
    "v2": "Swap(address,uint256,uint256,uint256,uint256,address)",
    "solidly": "Swap(address,address,uint256,uint256,uint256,uint256)",
    "v3": "Swap(address,address,int256,int256,uint160,uint128,int24)",
    "pancake-v3": "Swap(address,address,int256,int256,uint160,uint128,int24,uint128,uint128)",
    "algebra-integral": "Swap(address,address,int256,int256,uint160,uint128,int24,uint24,uint24)",
    "v4": "Swap(bytes32,address,int128,int128,uint160,uint128,int24,uint24)",
    "curve-int128": "TokenExchange(address,int128,uint256,int128,uint256)",
    "curve-uint256": "TokenExchange(address,uint256,uint256,uint256,uint256)",
    "curve-ng": "TokenExchange(address,uint256,uint256,uint256,uint256,uint256,uint256)",
    "curve-underlying": "TokenExchangeUnderlying(address,int128,uint256,int128,uint256)",
    "balancer-v1": "LOG_SWAP(address,address,address,uint256,uint256)",
    "balancer-v2": "Swap(bytes32,address,address,uint256,uint256)",
}
INDEXED: dict[Layout, tuple[int, ...]] = {
    "v2": (0, 5),
    "solidly": (0, 1),
    "v3": (0, 1),
    "pancake-v3": (0, 1),
    "algebra-integral": (0, 1),
    "v4": (0, 1),
    "curve-int128": (0,),
    "curve-uint256": (0,),
    "curve-ng": (0,),
    "curve-underlying": (0,),
    "balancer-v1": (0, 1, 2),
    "balancer-v2": (0, 1, 2),
}
LAYOUTS = list(SIGNATURES)
INITIALIZE = "Initialize(bytes32,address,address,uint24,int24,address,uint160,int24)"

POOL = "0x" + "9a" * 20
POOL_ID = "0x" + "e5" * 32


def _types(layout: Layout) -> list[str]:
    return SIGNATURES[layout].partition("(")[2][:-1].split(",")


def empty_log(layout: Layout) -> EvmLog:
    """A log whose values are all zero."""
    zero = {"address": "0x" + "0" * 40, "bytes32": bytes(32)}
    return log_with(layout, [zero.get(kind, 0) for kind in _types(layout)])


def log_with(layout: Layout, values: list[Any]) -> EvmLog:
    """A log with the values of a signature, all encoded by eth-abi."""
    types = _types(layout)
    topics = [TOPICS[layout]]
    topics += ["0x" + encode([types[at]], [values[at]]).hex() for at in INDEXED[layout]]
    rest = [at for at in range(len(types)) if at not in INDEXED[layout]]
    return abi_log(topics, [types[at] for at in rest], [values[at] for at in rest], address=POOL)


def values_of(layout: Layout) -> st.SearchStrategy[list[Any]]:
    def value(kind: str) -> st.SearchStrategy[Any]:
        if kind == "address":
            return st.binary(min_size=20, max_size=20).map(lambda raw: "0x" + raw.hex())
        if kind == "bytes32":
            return st.binary(min_size=32, max_size=32)
        bits = int(kind.lstrip("uint"))
        low = 0 if kind.startswith("u") else -(2 ** (bits - 1))
        return st.integers(low, low + 2**bits - 1)

    types = _types(layout)
    drawn = [value(kind) for kind in types]
    if layout.startswith("curve"):
        drawn[1] = drawn[3] = st.integers(0, 31)
    return st.tuples(*drawn).map(list)


def expected(layout: Layout, values: list[Any]) -> tuple[Any, ...]:
    """(pool, coins, amounts, recipient) by the venue's own documentation."""
    if layout == "v2":
        _, in0, in1, out0, out1, to = values
        return POOL, (0, 1), (in0 - out0, in1 - out1), to
    if layout == "solidly":
        _, to, in0, in1, out0, out1 = values
        return POOL, (0, 1), (in0 - out0, in1 - out1), to
    if layout in {"v3", "pancake-v3", "algebra-integral"}:
        return POOL, (0, 1), (values[2], values[3]), values[1]
    if layout == "v4":
        return "0x" + values[0].hex(), (0, 1), (-values[2], -values[3]), None
    if layout.startswith("curve"):
        buyer, sold_id, sold, bought_id, bought, *_ = values
        return POOL, (sold_id, bought_id), (sold, -bought), buyer
    pool = POOL if layout == "balancer-v1" else "0x" + values[0].hex()
    who = values[0] if layout == "balancer-v1" else None
    return pool, (values[1], values[2]), (values[3], -values[4]), who


def test_topics_are_the_hashes_of_the_signatures() -> None:
    assert {name: "0x" + keccak(text.encode()).hex() for name, text in SIGNATURES.items()} == TOPICS
    assert "0x" + keccak(INITIALIZE.encode()).hex() == V4_INITIALIZE
    assert {layout for layouts in EMITS.values() for layout in layouts} == set(TOPICS)


def test_a_source_asks_for_the_topics_of_its_kinds_only() -> None:
    v2, v4 = PoolFactory("uniswap-v2", "v2", POOL), PoolFactory("uniswap-v4", "v4", POOL)
    assert topics_of([v2]) == (TOPICS["v2"],)
    assert set(topics_of([v2, v4, v2])) == {TOPICS["v2"], TOPICS["v4"], V4_INITIALIZE}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_slices_are_what_eth_abi_encoded(layout: Layout) -> None:
    @settings(max_examples=40, deadline=None)
    @given(values_of(layout))
    def check(values: list[Any]) -> None:
        swap = decode(log_with(layout, values))
        assert swap is not None
        pool, coins, amounts, recipient = expected(layout, values)
        assert (swap.layout, swap.emitter, swap.pool) == (layout, POOL, pool)
        assert ((swap.coin0, swap.coin1), (swap.amount0, swap.amount1)) == (coins, amounts)
        assert swap.recipient == recipient

    check()


def decoded_by_eth_abi(layout: Layout, log: EvmLog) -> list[Any]:
    """The values of a log in the order of its signature."""
    types = _types(layout)
    rest = [at for at in range(len(types)) if at not in INDEXED[layout]]
    values = dict(zip(rest, abi_decode([types[at] for at in rest], raw(log.data)), strict=True))
    for at, topic in zip(INDEXED[layout], log.topics[1:], strict=True):
        values[at] = abi_decode([types[at]], raw(topic))[0]
    return [values[at] for at in range(len(types))]


def raw(text: str) -> bytes:
    return bytes.fromhex(text[2:])


# The notes of the recorder: what these swaps paid in and took out, in tokens, digits cut off.
NOTED = {
    "0.001 WETH in, 2.624963 USDC out": ((6, "-2.624963"), (18, "0.001")),
    "12.57 WETH in, 32,942.903993 USDC out": ((6, "-32942.903993"), (18, "12.57")),
    "amount0 = -1,793,588,760 USDC: in v4 a negative amount is paid INTO the pool (checked by the "
    "Transfer of the same transaction)": ((6, "1793.588760"), None),
    "2.015 USDC in, 0.000765 WETH out": ((18, "-0.000765"), (6, "2.015")),
    "3pool (DAI, USDC, USDT), int128 ids: 0.099206 USDT for 0.099112 USDC": (
        *((6, "0.099206"), (6, "-0.099112")),
    ),
}


def test_real_logs_of_every_venue() -> None:
    seen: list[str | None] = []
    for row in rows("dex_venue_logs"):
        log = log_of(row["log"])
        swap = decode(log)
        seen.append(swap and swap.layout)
        if swap is None:
            continue
        pool, coins, amounts, recipient = expected(
            swap.layout, decoded_by_eth_abi(swap.layout, log)
        )
        assert swap.pool == (pool if pool != POOL else log.address)
        assert ((swap.coin0, swap.coin1), (swap.amount0, swap.amount1)) == (coins, amounts)
        assert swap.recipient == recipient
        noted = NOTED.get(row["note"], (None, None))
        for amount, fact in zip((swap.amount0, swap.amount1), noted, strict=True):
            if fact is not None:
                decimals, text = fact
                shown = Decimal(amount).scaleb(-decimals)
                assert f"{shown:f}".startswith(text), row["note"]
    # Sync, Initialize, PoolCreated and the second Sync are no swaps.
    assert seen == [
        *(None, "v2", "v3", "pancake-v3", None, "v4", "v4", None, None, "solidly", "balancer-v2"),
        *("curve-int128", "curve-underlying", "curve-uint256", "curve-ng"),
    ]


NAMES: dict[tuple[str, str], Layout] = {
    ("uniswapV2", "Swap"): "v2",
    ("uniswapV3", "Swap"): "v3",
    ("balancerV1", "LOG_SWAP"): "balancer-v1",
    ("balancerV2", "Swap"): "balancer-v2",
    ("curveV1", "TokenExchange"): "curve-int128",
    ("curveV2", "TokenExchange"): "curve-uint256",
}


def test_swaps_that_another_program_decoded() -> None:
    for row in rows("dex_venue_events_decoded"):
        layout, values = NAMES[row["venue"], row["event"]], row["values"]
        abi = [
            int(x) if "int" in kind else raw(x) if kind == "bytes32" else x
            for x, kind in zip(values.values(), _types(layout), strict=True)
        ]
        swap = decode(log_with(layout, abi))
        assert swap is not None
        into = [x for name, x in values.items() if name in {"amountIn", "tokenAmountIn"}]
        out = [x for name, x in values.items() if name in {"amountOut", "tokenAmountOut"}]
        if "amount0In" in values:
            net = [int(values[f"amount{at}In"]) - int(values[f"amount{at}Out"]) for at in (0, 1)]
        elif "amount0" in values:
            net = [int(values["amount0"]), int(values["amount1"])]
        elif into:
            net = [int(into[0]), -int(out[0])]
        else:
            net = [int(values["tokens_sold"]), -int(values["tokens_bought"])]
        assert [swap.amount0, swap.amount1] == net
        assert (net[0] > 0) != (net[1] > 0)


def test_initialize_of_uniswap_v4_names_the_tokens_of_a_new_pool() -> None:
    found = [initialized(log_of(row["log"])) for row in rows("dex_venue_logs")]
    (new,) = [each for each in found if each]
    assert new.manager == "0x000000000004444c5dc75cb358380d2e3de08a90"
    assert new.pool == "0xb579bdeb5d5861d821153c57a4772282bd06c1d14d2e6a8fc7cbad1d105bbd65"
    assert new.coins == ("0x" + "0" * 40, "0x0da899de61658e089444e1071022087966ad9e78")
    log = log_of(next(row["log"] for row in rows("dex_venue_logs") if "Init" in row["note"]))
    assert initialized(msgspec.structs.replace(log, data=log.data + "00" * 32)) is None
    assert initialized(msgspec.structs.replace(log, topics=(*log.topics[:3], POOL_ID))) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_layout_under_the_same_topic_is_not_decoded(layout: Layout) -> None:
    # An ERC-20 pool of another project may index one field more or less.
    log = empty_log(layout)
    assert decode(log) is not None
    change = msgspec.structs.replace
    for other in (
        change(log, topics=log.topics[:-1]),
        change(log, topics=(*log.topics, POOL_ID)),
        change(log, data=log.data + "00" * 32),
        change(log, data=log.data[:-64]),
        change(log, data=log.data[:-2]),
        change(log, data="0x"),
        change(log, topics=()),
        change(log, topics=(V4_INITIALIZE, *log.topics[1:])),
    ):
        assert decode(other) is None


@pytest.mark.parametrize(
    ("layout", "topic", "word_at", "content"),
    [
        pytest.param("v2", 2, None, POOL_ID, id="a recipient that is no address"),
        pytest.param("v3", 2, None, POOL_ID, id="a v3 recipient that is no address"),
        pytest.param("balancer-v2", 3, None, POOL_ID, id="a token that is no address"),
        pytest.param("curve-uint256", 1, None, POOL_ID, id="a buyer that is no address"),
        pytest.param("v4", None, 0, "0" * 31 + "8" + "0" * 32, id="beyond int128"),
        pytest.param("v4", None, 1, "f" * 31 + "7" + "f" * 32, id="below int128"),
        pytest.param("curve-int128", None, 0, f"{32:064x}", id="a coin that no pool has"),
        pytest.param("curve-int128", None, 2, "f" * 64, id="a negative coin"),
    ],
)
def test_values_that_a_field_cannot_have_are_not_decoded(
    layout: Layout, topic: int | None, word_at: int | None, content: str
) -> None:
    log = empty_log(layout)
    if topic is not None:
        topics = (*log.topics[:topic], content, *log.topics[topic + 1 :])
        log = msgspec.structs.replace(log, topics=topics)
    if word_at is not None:
        begin = 2 + 64 * word_at
        data = log.data[:begin] + content + log.data[begin + 64 :]
        log = msgspec.structs.replace(log, data=data)
    assert decode(log) is None


@pytest.mark.parametrize("layout", LAYOUTS)
def test_hex_may_be_in_any_case(layout: Layout) -> None:
    log = log_with(
        layout,
        [
            {"address": "0x" + "ab" * 20, "bytes32": b"\xab" * 32}.get(kind, at % 3)
            for at, kind in enumerate(_types(layout))
        ],
    )
    shouted = msgspec.structs.replace(
        log,
        address="0x" + log.address[2:].upper(),
        topics=tuple("0x" + topic[2:].upper() for topic in log.topics),
        data="0x" + log.data[2:].upper(),
        transaction_hash="0x" + log.transaction_hash[2:].upper(),
    )
    assert decode(log) is not None
    assert decode(shouted) == decode(log)


def test_data_that_is_not_hex_is_asked_for_again() -> None:
    log = abi_log([TOPICS["v3"], word(POOL), word(POOL)], ["int256"] * 5, [1, -1, 0, 0, 0])
    garbled = log.data[:10] + "zz" + log.data[12:]
    with pytest.raises(Retry, match=f"log 0x0 of {log.transaction_hash}: data or a number is not"):
        decode(msgspec.structs.replace(log, data=garbled))
