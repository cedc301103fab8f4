"""The stats of many tokens in one answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec
from ninja import Field, Schema

from aggregator.contracts.ids import TokenIdInvalid, canonical_token_id
from api.board.row import TokenRow
from api.http.ids import invalid_ids

MOST_TOKENS: Final = 100


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


def ids_of(given: Iterable[str], known: Callable[[str], bool]) -> list[str]:
    """Each id once, canonical, in order; raises Problem 422 that names each that cannot be one.

    A token may hold a comma: a text that is the id of a `known` token is not taken apart.
    """
    found: dict[str, None] = {}
    refused: list[tuple[str, str]] = []
    for text in given:
        whole = _canonical(text)
        if whole is not None and known(whole):
            found[whole] = None
            continue
        for each in _between_commas(text):
            try:
                found[canonical_token_id(each)] = None
            except TokenIdInvalid as error:
                refused.append((each, str(error)))
    if refused:
        raise invalid_ids("ids", refused[:MOST_TOKENS])
    return list(found)


def _canonical(text: str) -> str | None:
    try:
        return canonical_token_id(text)
    except TokenIdInvalid:
        return None


def _between_commas(text: str) -> Iterator[str]:
    """The parts that are not empty; commas in the type arguments of a Move type separate none."""
    depth = begin = 0
    for at, letter in enumerate(text):
        if letter == "," and depth == 0:
            if begin < at:
                yield text[begin:at]
            begin = at + 1
        else:
            depth = max(0, depth + (letter == "<") - (letter == ">"))
    if begin < len(text):
        yield text[begin:]
