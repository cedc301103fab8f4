"""The batch query: the stats of many tokens in one answer."""

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
    """The rows in the order of the query, each token once; `missing` are the unknown ids."""

    tokens: list[TokenRow]
    missing: list[str]


class BatchParams(Schema):
    """The parameters of `/api/tokens/stats`."""

    ids: list[str] = Field(
        ...,
        min_length=1,
        max_length=MOST_TOKENS,
        description="token ids: repeat `ids`, or separate them by commas; up to 100 in all",
    )


def ids_of(given: Iterable[str], known: Callable[[str], bool]) -> list[str]:
    """Return each canonical id once, in order. Raises Problem 422 that names every malformed id.

    A token may contain a comma, so the id of a `known` token is not split.
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
    """Yield the non-empty parts; a comma inside the type arguments of a Move type is kept."""
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
