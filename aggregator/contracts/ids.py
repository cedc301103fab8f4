"""The one spelling of a token id, `chain:token`, which every way in and every question share.

Ingest, REST, WebSocket and the token registry call the functions here, so what is counted under an
id is found by every spelling of it. A `0x` address of 40 hexadecimal digits means the same in any
case and becomes lower case; a Move type (`0x…::module::Name`, type arguments included) gets its
addresses in lower case without leading zeros, and no white space. Everything else keeps its case,
because in base58, for one, case is part of the id. Pure.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

LONGEST_CHAIN: Final = 32
LONGEST_TOKEN: Final = 128
LONGEST_TOKEN_ID: Final = LONGEST_CHAIN + 1 + LONGEST_TOKEN
CHAIN_PATTERN: Final = rf"[a-z0-9][a-z0-9-]{{0,{LONGEST_CHAIN - 1}}}"
# A Move type is shorter after it became canonical; a text beyond this is none.
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
    """A text that cannot be the id of a token; the message says what would be accepted."""


class TokenId(NamedTuple):
    """A canonical token id in its two parts."""

    chain: str
    token: str

    def __str__(self) -> str:
        """`chain:token`."""
        return f"{self.chain}:{self.token}"


def canonical_token(text: str) -> str:
    """A token without its chain in its one spelling; raises TokenIdInvalid."""
    token = _canonical_spelling(text) if text[:2] in {"0x", "0X"} else text
    if not token:
        raise TokenIdInvalid("the token after the colon is empty")
    if len(token) > LONGEST_TOKEN:
        raise TokenIdInvalid(f"a token has at most {LONGEST_TOKEN} characters")
    if _UNPRINTABLE.search(token):
        raise TokenIdInvalid("a token holds no white space and no control characters")
    return token


def parse_token_id(text: str) -> TokenId:
    """`chain:token` in its one spelling; raises TokenIdInvalid."""
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
    """`chain:token` in its one spelling; raises TokenIdInvalid.

    >>> canonical_token_id("ethereum:0xC02aaA39b223FE8D0A0e5C4F27eAD9083C756Cc2")
    'ethereum:0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2'
    >>> canonical_token_id("sui:0x0002::sui::SUI")
    'sui:0x2::sui::SUI'
    """
    return str(parse_token_id(text))


def _canonical_spelling(token: str) -> str:
    """Of a token that begins with 0x."""
    if _ADDRESS.fullmatch(token):
        return token.lower()
    if len(token) > LONGEST_SPELLING or not _MOVE_BEGINS.match(token):
        return token
    joined = _MOVE_SEPARATOR.sub(r"\1", token)
    if not _MOVE_TYPE.fullmatch(joined):
        return token
    return _MOVE_ADDRESS.sub(lambda found: f"0x{found[1].lower()}", joined)
