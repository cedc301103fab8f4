"""The demo's chain: every kind of swap is made, tokens lie, and reorganisations are real."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from infra.chain.errors import NodeRefused
from infra.chain.reorganisation import reorganise
from infra.chain.swaps import KINDS, Trading
from infra.chain.traders import Traders
from tests.storm.final_chain import legs_on, swap_logs
from tests.support.anvil import RunningChain, running_chain


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningChain]:
    with running_chain(tmp_path_factory.mktemp("chain")) as running:
        yield running


def test_every_kind_of_swap_is_one_on_the_chain(chain: RunningChain) -> None:
    trading, trader = Trading(chain.deployed), chain.world.traders[0]
    hashes = {kind: chain.rpc(*make(trading, trader, 0.1).call()) for kind, make in KINDS.items()}
    chain.rpc("evm_mine")
    receipts = {kind: chain.rpc("eth_getTransactionReceipt", each) for kind, each in hashes.items()}
    assert {kind: each["status"] for kind, each in receipts.items()} == dict.fromkeys(KINDS, "0x1")

    legs = legs_on(chain.rpc, chain.world)
    found = {kind: sum(leg.tx_hash == each for leg in legs) for kind, each in hashes.items()}
    hops = {
        "v2 hops": 4,
        "v2 hops back": 4,
        "v2 circle": 6,
        "v2 circle back": 6,
        "v3 hops": 4,
        "v3 hops back": 4,
    }
    none = {"no decimals": 0, "forged": 0}
    assert found == {**dict.fromkeys(KINDS, 2), **hops, **none}


def test_tokens_answer_for_their_metadata_as_hostile_ones_do(chain: RunningChain) -> None:
    def answer(token: str, data: str) -> str | None:
        try:
            question = {"to": chain.world.tokens[token], "data": data}
            return str(chain.rpc("eth_call", question, "latest"))
        except NodeRefused:
            return None

    symbol, decimals = "0x95d89b41", "0x313ce567"
    assert answer("BYTES32", symbol) == "0x" + b"BYTES32".ljust(32, b"\0").hex()
    assert answer("REVERTS", symbol) is None
    assert answer("EMPTY", symbol) == "0x"
    assert answer("NODEC", decimals) is None
    assert answer("ZERO", decimals) == "0x" + "0" * 64
    bidi = bytes.fromhex(str(answer("BIDI", symbol))[2:])
    assert "\u202e".encode() in bidi
    assert b"\n" in bidi


def test_a_reorganisation_moves_some_transactions_and_drops_others(chain: RunningChain) -> None:
    rng = random.Random(7)
    traders = Traders(chain.rpc, chain.deployed, rng)
    for _ in range(3):
        traders.swap(4)
    before = {log["transactionHash"]: log["blockHash"] for log in swap_logs(chain.rpc, chain.world)}
    head = int(chain.rpc("eth_blockNumber"), 16)
    done = reorganise(chain.rpc, 3, rng, keep=0.6)
    after = {log["transactionHash"]: log["blockHash"] for log in swap_logs(chain.rpc, chain.world)}
    assert int(chain.rpc("eth_blockNumber"), 16) == head
    assert done.moved
    assert done.dropped
    swapped = [each for each in done.moved if each in before]
    assert all(after[each] != before[each] for each in swapped)
    assert not set(done.dropped) & set(after)

    later = int(time.time()) + 5
    Traders(chain.rpc, chain.deployed, rng, now=lambda: later).swap(0)
    block = chain.rpc("eth_getBlockByNumber", "latest", False)
    assert int(block["timestamp"], 16) == later
