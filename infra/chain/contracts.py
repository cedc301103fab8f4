"""Contracts by their ABI: transactions and calls as Python functions.

A transaction is a value that `Rpc` can send, so callers decide when and in which order. Accounts
are anvil's, which it signs for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from eth_abi.abi import decode, encode
from eth_hash.auto import keccak

from infra.chain.errors import NodeRefused
from infra.chain.rpc import Rpc

_GAS: Final = 8_000_000
_DEPLOY_GAS: Final = 29_000_000

Abi = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Transaction:
    """A transaction before it has a nonce; `value` in wei, `to` None deploys `data`."""

    sender: str
    to: str | None
    data: str
    value: int = 0
    gas: int = _GAS

    def call(self) -> tuple[object, ...]:
        """Return the JSON-RPC call that sends it."""
        fields = {
            "from": self.sender,
            "data": self.data,
            "value": hex(self.value),
            "gas": hex(self.gas),
        }
        return ("eth_sendTransaction", fields if self.to is None else {**fields, "to": self.to})


def selector(signature: str) -> bytes:
    """Return the four bytes that select a function (docs.soliditylang.org, ABI specification)."""
    return bytes(keccak(signature.encode())[:4])


def topic(signature: str) -> str:
    """Return topic 0 of an event's signature."""
    return "0x" + keccak(signature.encode()).hex()


class Contract:
    """A deployed contract. `address` is lower-case."""

    def __init__(self, address: str, abi: Abi) -> None:
        self.address = address.lower()
        self.abi = abi

    def transact(
        self, sender: str, function: str, *arguments: object, value: int = 0
    ) -> Transaction:
        """Return the transaction that calls `function`."""
        data = self.encode(function, *arguments)
        return Transaction(sender, self.address, data, value)

    def encode(self, function: str, *arguments: object) -> str:
        """Return the calldata of `function`."""
        types = [_type(each) for each in self._entry(function, len(arguments))["inputs"]]
        chosen = selector(f"{function}({','.join(types)})")
        return "0x" + (chosen + encode(types, arguments)).hex()

    def read(self, rpc: Rpc, function: str, *arguments: object) -> Any:
        """Return what `function` returns at the newest block; a tuple where there are several."""
        question = {"to": self.address, "data": self.encode(function, *arguments)}
        answer = rpc("eth_call", question, "latest")
        types = [_type(each) for each in self._entry(function, len(arguments))["outputs"]]
        values = decode(types, bytes.fromhex(answer[2:]))
        return values[0] if len(values) == 1 else values

    def _entry(self, function: str, arguments: int) -> dict[str, Any]:
        for entry in self.abi:
            named = entry["type"] == "function" and entry["name"] == function
            if named and len(entry["inputs"]) == arguments:
                return entry
        raise KeyError(f"{function} with {arguments} arguments is not in the contract's ABI")


def deployment(
    sender: str, artifact: dict[str, Any], *arguments: object, abi: Abi | None = None
) -> Transaction:
    """Return the transaction that deploys a compiler's artifact with constructor `arguments`."""
    code = artifact["bytecode"]
    code = code["object"] if isinstance(code, dict) else code
    constructors = [e for e in (abi or artifact["abi"]) if e["type"] == "constructor"]
    types = [_type(each) for each in constructors[0]["inputs"]] if constructors else []
    data = "0x" + code.removeprefix("0x") + encode(types, arguments).hex()
    return Transaction(sender, None, data, gas=_DEPLOY_GAS)


def send(rpc: Rpc, transactions: Iterable[Transaction]) -> list[dict[str, Any]]:
    """Send transactions, mine them, and return their receipts.

    Raises NodeRefused if one of them reverts.
    """
    # One by one: the node works on the calls of a batch concurrently, and gives two one nonce.
    hashes = [rpc(*each.call()) for each in transactions]
    receipts: list[Any] = [None]
    while None in receipts:
        rpc("evm_mine")
        receipts = rpc.batch([("eth_getTransactionReceipt", each) for each in hashes])
    for place, receipt in enumerate(receipts):
        if receipt["status"] != "0x1":
            raise NodeRefused(f"transaction {place} of {len(receipts)} reverted: {receipt}")
    return receipts


def created(receipts: Sequence[dict[str, Any]]) -> list[str]:
    """Return the addresses of the contracts that deployments made."""
    return [str(receipt["contractAddress"]).lower() for receipt in receipts]


def _type(parameter: dict[str, Any]) -> str:
    kind: str = parameter["type"]
    if not kind.startswith("tuple"):
        return kind
    inner = ",".join(_type(each) for each in parameter["components"])
    return f"({inner}){kind.removeprefix('tuple')}"
