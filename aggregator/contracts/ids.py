"""The canonical form of a token id, `chain:token`.

Ingest, REST, WebSocket and the token registry all canonicalise ids here, so a token is found under
every spelling of its id. A `0x` address of 40 hexadecimal digits becomes lower case. A Move type
(`0x…::module::Name`, type arguments included) loses white space, and its addresses become lower
case without leading zeros. Everything else keeps its case, because case is significant in base58,
for example. Pure.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

LONGEST_CHAIN: Final = 32
LONGEST_TOKEN: Final = 256
LONGEST_TOKEN_ID: Final = LONGEST_CHAIN + 1 + LONGEST_TOKEN
CHAIN_PATTERN: Final = rf"[a-z0-9][a-z0-9-]{{0,{LONGEST_CHAIN - 1}}}"
# A Move type gets shorter when it becomes canonical; a longer text is not treated as a Move type.
LONGEST_SPELLING: Final = 1_024

_CHAIN: Final = re.compile(CHAIN_PATTERN)
_ADDRESS: Final = re.compile(r"0[xX][0-9a-fA-F]{40}")
_MOVE_BEGINS: Final = re.compile(r"0[xX][0-9a-fA-F]{1,64}\s*::")
_MOVE_SEPARATOR: Final = re.compile(r"\s*(::|[<>,])\s*")
_MOVE_TYPE: Final = re.compile(
    r"0[xX][0-9a-fA-F]{1,64}::[A-Za-z_][A-Za-z0-9_]*::[A-Za-z_][A-Za-z0-9_]*(?:<[A-Za-z0-9_:<>,]+>)?"
)
_MOVE_ADDRESS: Final = re.compile(r"(?<![A-Za-z0-9_:])0[xX]0*([0-9a-fA-F]{1,64})(?=::)")
_UNPRINTABLE: Final = re.compile(r"[\s\x00-\x1f\x7f]")


class TokenIdInvalid(ValueError):
    """A text that cannot be a token id; the message says what would be accepted."""


class TokenId(NamedTuple):
    """The two parts of a canonical token id."""

    chain: str
    token: str

    def __str__(self) -> str:
        """Return `chain:token`."""
        return f"{self.chain}:{self.token}"


def canonical_token(text: str) -> str:
    """Return the canonical form of a token without its chain. Raises TokenIdInvalid."""
    token = _canonical_spelling(text) if text[:2] in {"0x", "0X"} else text
    if not token:
        raise TokenIdInvalid("the token after the colon is empty")
    if len(token) > LONGEST_TOKEN:
        raise TokenIdInvalid(f"a token has at most {LONGEST_TOKEN} characters")
    if _UNPRINTABLE.search(token):
        raise TokenIdInvalid("a token holds no white space and no control characters")
    return token


def parse_token_id(text: str) -> TokenId:
    """Parse `chain:token` into its canonical parts. Raises TokenIdInvalid."""
    chain, separator, token = text.partition(":")
    if not separator:
        raise TokenIdInvalid("give an id of the form chain:token")
    if not _CHAIN.fullmatch(chain):
        lower = chain.lower()
        if _CHAIN.fullmatch(lower):
            raise TokenIdInvalid(f"write the chain in lower case: {lower}")
        raise TokenIdInvalid(
            f"give an id of the form chain:token; the chain is 1 to {LONGEST_CHAIN} of a-z, 0-9 "
            "and -, and does not begin with -"
        )
    return TokenId(chain, canonical_token(token))


def canonical_token_id(text: str) -> str:
    """Return the canonical form of `chain:token`. Raises TokenIdInvalid.

     canonical_token_id("ethereum:0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2")
    'ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2'
    >>> canonical_token_id("sui:0x0002::sui::SUI")
    'sui:0x2::sui::SUI'
    """
    return str(parse_token_id(text))


def _canonical_spelling(token: str) -> str:
    """Return the canonical form of a token that begins with 0x."""
    if _ADDRESS.fullmatch(token):
        return token.lower()
    if len(token) > LONGEST_SPELLING or not _MOVE_BEGINS.match(token):
        return token
    joined = _MOVE_SEPARATOR.sub(r"\1", token)
    if not _MOVE_TYPE.fullmatch(joined):
        return token
    return _MOVE_ADDRESS.sub(lambda found: f"0x{found[1].lower()}", joined)
