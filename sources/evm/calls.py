"""What the parts of an EVM source ask contracts, and the words of their answers.

A contract may be hostile: an answer has any length and any content, so each reader checks what it
takes. Pure; `ContractCalls` is implemented on a node's JSON-RPC.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from aggregator.runtime.errors import Retry
from sources.evm.logs import address_in
from sources.evm.types import EvmLog

LATEST: Final = "latest"
"""The block tag for facts that cannot change: those of blocks that are final."""
CALL_GAS: Final = 1_000_000
"""The gas that a call may use. Honest answers need less; a hostile contract cannot use more."""

_WORD: Final = 64


class ContractCalls(Protocol):
    """Questions to contracts, answered by a node."""

    async def call(self, to: str, data: str, block: str) -> str | None:
        """Return the answer of `eth_call` with at most CALL_GAS, `0x` where nothing is at `to`.

        `block` is a block hash or LATEST. Returns None only where the contract itself failed
        (it reverted, or ran out of gas). Raises Retry for everything that is not the contract's
        fault: an unreachable node, a limit, a block or state that the node does not have.
        """
        ...


class LogFinder(Protocol):
    """A search in all logs of a chain."""

    async def find(self, address: str, topics: Sequence[str]) -> EvmLog | None:
        """Return the one log of `address` with these first topics; None where there is none.

        Raises Retry where the search could not be completed.
        """
        ...


def bytes_of(answer: str | None) -> bytes:
    """Return the bytes of an answer, b"" where there is none.

    Raises Retry where the answer is not hex: no contract answers so, a node in trouble may.
    """
    if answer is None:
        return b""
    try:
        return bytes.fromhex(answer.removeprefix("0x"))
    except ValueError:
        raise Retry(f"the answer to eth_call is not hex: {answer[:80]!r}") from None


def words(answer: str | None) -> list[str]:
    """Return the whole words of an answer, each `0x` and 64 lower-case digits; [] where none is.

    Raises Retry as `bytes_of` does.
    """
    answer = "0x" + bytes_of(answer).hex()
    return ["0x" + answer[at : at + _WORD] for at in range(2, len(answer) - _WORD + 1, _WORD)]


def address_of(answer: str | None) -> str | None:
    """Return the address that an answer begins with; None for another answer and for zero."""
    found = words(answer)
    address = address_in(found[0]) if found else None
    return None if address is None or int(address, 16) == 0 else address


def argument(value: str | int) -> str:
    """Return an address, a `0x` word or a number from 0 on as an argument: 64 hex digits."""
    if isinstance(value, int):
        return f"{value:064x}"
    return value[2:].rjust(_WORD, "0")
