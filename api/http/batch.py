"""The stats of many tokens in one answer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec
from ninja import Field, Schema

from api.board.row import TokenRow

MOST_TOKENS: Final = 100
# A token may hold a comma, so one separates only where an id begins behind it: a chain and a colon.
_SEPARATOR: Final = re.compile(r",(?=[a-z0-9][a-z0-9-]{0,31}:)")


class TokenBatch(msgspec.Struct, frozen=True):
    """The tokens in the order in which they were asked for, each once; `missing` are unknown."""

    tokens: list[TokenRow]
    missing: list[str]


class BatchParams(Schema):
    """The parameters of `/api/tokens/stats`."""

    ids: list[str] = Field(
        ...,
        min_length=1,
        max_length=MOST_TOKENS,
        description="token ids: `ids` repeated, or with commas between; up to 100 in all",
    )


def ids_of(given: Iterable[str]) -> list[str]:
    """Each id once, in order."""
    return list(dict.fromkeys(each for text in given for each in _SEPARATOR.split(text) if each))
