"""What the errors of nodes mean, in the words that vendors use."""

from __future__ import annotations

import json

import pytest

from sources.evm import wire
from sources.evm.ports import CallRefused, RateLimited, Unreachable

RANGES = [
    (-32602, "Log response size exceeded. You can make eth_getLogs requests with up to a 2K block"),
    (-32005, "query returned more than 10000 results. Try with this block range [0x1, 0x2]."),
    (-32602, "range 2000 exceeds limit of 100"),
    (-32614, "eth_getLogs is limited to a 10,000 range"),
    (-32600, "block range is too wide"),
    (-32000, "block range too large"),
    (-32600, "Under the Free tier plan, you can make eth_getLogs requests with up to a 5 block"),
    (-32602, "query exceeds max results 20000, retry with the range 1-2"),
    (-32000, "unknown block"),
]
LIMITS = [
    (429, "Your app has exceeded its compute units per second capacity"),
    (-32005, "project ID request rate exceeded"),
    (-32007, "15/second request limit reached - reduce calls per second"),
    (-32016, "over rate limit"),
    (-32000, "Too Many Requests"),
]
OF_THE_CONTRACT = [
    (3, "execution reverted"),
    (-32000, "execution reverted: UniswapV2: K"),
    (-32015, "VM execution error."),
    (-32000, "out of gas"),
    (-32000, "invalid opcode: INVALID"),
    (-32000, "invalid jump destination"),
    (-32000, "stack underflow (0 <=> 1)"),
]
OF_THE_NODE = [
    (-32000, "header not found"),
    (-32000, "missing trie node 1234 (path )"),
    (-32603, "Internal error"),
    (-32000, "execution aborted (timeout = 5s)"),
]


def answered(code: int, message: str) -> wire.Reply:
    error = {"code": code, "message": message, "data": {"more": [1]}}
    return wire.reply("rpc 1", json.dumps({"jsonrpc": "2.0", "id": 7, "error": error}).encode())


@pytest.mark.parametrize(("code", "message"), RANGES + OF_THE_CONTRACT + OF_THE_NODE)
def test_an_error_refuses_the_call(code: int, message: str) -> None:
    with pytest.raises(CallRefused, match="rpc 1: "):
        wire.result("rpc 1", answered(code, message))


@pytest.mark.parametrize(("code", "message"), LIMITS)
def test_a_limit_of_calls_is_not_the_fault_of_a_range(code: int, message: str) -> None:
    with pytest.raises(RateLimited):
        wire.result("rpc 1", answered(code, message))


@pytest.mark.parametrize(("code", "message"), OF_THE_CONTRACT)
def test_a_contract_that_fails_is_an_answer(code: int, message: str) -> None:
    assert wire.RpcError("rpc 1", code, message).is_of_the_contract


@pytest.mark.parametrize(("code", "message"), RANGES + OF_THE_NODE)
def test_a_node_that_fails_is_asked_again(code: int, message: str) -> None:
    assert not wire.RpcError("rpc 1", code, message).is_of_the_contract


@pytest.mark.parametrize("data", [b"<html>502 Bad Gateway</html>", b"", b'{"id": "x"}', b"[]"])
def test_what_is_not_json_rpc_is_no_answer(data: bytes) -> None:
    with pytest.raises(Unreachable, match="not JSON-RPC"):
        wire.reply("rpc 1", data)


def test_a_block_with_its_senders() -> None:
    raw = {
        "number": "0x10",
        "hash": "0xa",
        "parentHash": "0xb",
        "timestamp": "0x64",
        "logsBloom": "0x" + "00" * 256,
        "transactions": [{"hash": "0x1", "from": "0xf", "to": None}],
    }
    block = wire.decoded("rpc 1", "m", json.dumps(raw).encode(), wire.FullBlock).block()  # type: ignore[arg-type]
    assert (block.number, block.hash, block.parent, block.timestamp) == (16, "0xa", "0xb", 100)
    assert block.senders == {"0x1": "0xf"}
    assert not block.may_have


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("3", 3.0),
        ("0", 0.0),
        ("999999", 60.0),
        ("-1", 0.0),
        ("nan", 1.0),
        (None, 1.0),
        ("Wed, 21 Oct 2026", 1.0),
    ],
)
def test_retry_after(header: str | None, seconds: float) -> None:
    assert wire.pause_of(header) == seconds


def test_an_endpoint_is_named_without_its_key() -> None:
    named = wire.endpoint_name("wss://user:secret@mainnet.example.org/v3/secret?k=secret", 2)
    assert named == "rpc 2 (mainnet.example.org)"
