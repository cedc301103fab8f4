"""What an error to `eth_call` means: the contract failed, or the node did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from aggregator.runtime.errors import Retry
from sources.evm.calls import CALL_GAS, LATEST
from sources.evm.ports import Unreachable
from sources.evm.rpc import RpcNode
from sources.evm.wire import RpcError

AT = "0x" + "b1" * 32
TOKEN, IDENTITY = "0x" + "70" * 20, "0x" + "0" * 39 + "4"


class Answering:
    """A `Transport` that answers calls of contracts by a function."""

    name, announces, silent_s, session = "rpc 1 (node)", False, 0.0, 0

    def __init__(self, answers: Callable[[str], str]) -> None:
        self.answers = answers
        self.asked: list[list[Any]] = []

    async def request(self, method: str, params: list[Any]) -> msgspec.Raw:
        assert method == "eth_call"
        self.asked.append(params)
        return msgspec.Raw(msgspec.json.encode(self.answers(params[0]["to"])))

    async def news(self, timeout_s: float) -> None: ...

    def reconnect(self) -> None: ...

    async def close(self) -> None: ...


def node_with(
    token: Exception | str, identity: Exception | str = "0x"
) -> tuple[RpcNode, Answering]:
    """A node that answers calls of one token so, and those of what cannot fail otherwise."""

    def answers(to: str) -> str:
        given = identity if to == IDENTITY else token
        if isinstance(given, Exception):
            raise given
        return given

    carrier = Answering(answers)
    return RpcNode(carrier), carrier


async def test_a_call_has_a_gas_limit_and_the_state_of_its_block() -> None:
    node, carrier = node_with("0x12")
    assert await node.call(TOKEN, "0x95d89b41", AT) == "0x12"
    assert await node.call(TOKEN, "0x95d89b41", LATEST) == "0x12"
    request = {"to": TOKEN, "data": "0x95d89b41", "gas": hex(CALL_GAS)}
    assert carrier.asked == [[request, {"blockHash": AT}], [request, LATEST]]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(3, "execution reverted: no", id="geth, with data"),
        pytest.param(-32000, "execution reverted", id="geth, without"),
        pytest.param(-32000, "out of gas", id="gas"),
        pytest.param(-32000, "return data out of bounds", id="a hostile contract on geth"),
        pytest.param(-32603, "EVM error OutOfOffset", id="the same on anvil"),
        pytest.param(-32003, "EVM error OutOfGas", id="gas on anvil"),
        pytest.param(-32015, "VM execution error.", id="Nethermind"),
    ],
)
async def test_a_contract_that_fails_has_no_answer(code: int, message: str) -> None:
    node, carrier = node_with(RpcError("n", code, message))
    assert await node.call(TOKEN, "0x", AT) is None
    assert len(carrier.asked) == 1


async def test_a_failure_in_unknown_words_is_the_contracts_if_other_calls_work() -> None:
    node, carrier = node_with(RpcError("n", -32000, "the moon is full"))
    assert await node.call(TOKEN, "0x", AT) is None
    assert [params[0]["to"] for params in carrier.asked] == [TOKEN, IDENTITY] * 3


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(RpcError("n", -32000, "header not found"), id="an unknown block"),
        pytest.param(RpcError("n", -32000, "missing trie node 12ab"), id="a forgotten state"),
        pytest.param(Unreachable("cut"), id="a cut"),
    ],
)
async def test_a_node_that_fails_is_asked_again(error: Exception) -> None:
    node, _ = node_with(error, error)
    with pytest.raises(Retry):
        await node.call(TOKEN, "0x", AT)


async def test_a_node_that_recovers_meanwhile_makes_no_contract_fail() -> None:
    fails = iter([RpcError("n", -32000, "header not found")])

    def answers(to: str) -> str:
        if to == TOKEN and (error := next(fails, None)):
            raise error
        return "0x12"

    assert await RpcNode(Answering(answers)).call(TOKEN, "0x", AT) == "0x12"
