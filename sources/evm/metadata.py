"""Symbol and decimals of tokens, from contracts that may be hostile.

Decimals are what the contract says or unknown, never a guess: a guess of 18 for a token of 6 makes
an amount a trillion times too small. A symbol is for people only and never identifies a token.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Final

from sources.evm.calls import ContractCalls, bytes_of
from sources.evm.once import AskedOnce
from sources.evm.types import MOST_DECIMALS, Token

LONGEST_SYMBOL: Final = 32
"""Characters of a symbol, as in the registry of tokens."""

# The first four bytes of Keccak-256 of each signature.
_SYMBOL: Final = "0x95d89b41"  # symbol()
_DECIMALS: Final = "0x313ce567"  # decimals()
_WORD: Final = 32
_REPLACEMENT: Final = "\ufffd"


class Metadata:
    """The metadata of a chain's tokens. `clock` is in seconds and never jumps."""

    def __init__(self, calls: ContractCalls, clock: Callable[[], float] = time.monotonic) -> None:
        self._calls = calls
        self._tokens: AskedOnce[str, Token] = AskedOnce(self._ask, clock)

    async def of(self, addresses: Iterable[str], block: str) -> dict[str, Token]:
        """Return the token at each address. Raises Retry where a call was not answered.

        A token that does not say its decimals is asked again after a while: a proxy may learn them.
        """
        answers = await self._tokens.answers(addresses, block)
        return {at: token or Token(at, None, None) for at, token in answers.items()}

    async def _ask(self, address: str, block: str) -> Token | None:
        symbol, decimals = await asyncio.gather(
            self._calls.call(address, _SYMBOL, block), self._calls.call(address, _DECIMALS, block)
        )
        known = decimals_in(bytes_of(decimals))
        return None if known is None else Token(address, symbol_in(bytes_of(symbol)), known)


def decimals_in(answer: bytes) -> int | None:
    """Return the number in the answer of decimals(), None where it is none or above 77."""
    if len(answer) < _WORD:
        return None
    decimals = int.from_bytes(answer[:_WORD])
    return decimals if decimals <= MOST_DECIMALS else None


def symbol_in(answer: bytes) -> str | None:
    """Return the printable text in the answer of symbol(): an ABI string, or bytes32 as of MKR.

    Line breaks, direction overrides and other invisible characters are removed, and the rest is cut
    to LONGEST_SYMBOL. None where nothing is left.
    """
    if len(answer) == _WORD:
        raw = answer.rstrip(b"\0")
    elif len(answer) >= 2 * _WORD and int.from_bytes(answer[:_WORD]) == _WORD:
        length = int.from_bytes(answer[_WORD : 2 * _WORD])
        raw = answer[2 * _WORD : 2 * _WORD + length]
    else:
        return None
    # A character has at most four bytes; a hostile symbol may have a megabyte of them.
    text = raw[: 64 * LONGEST_SYMBOL].decode(errors="replace")
    shown = "".join(each for each in text if each.isprintable() and each != _REPLACEMENT)
    return shown.strip()[:LONGEST_SYMBOL].rstrip() or None
