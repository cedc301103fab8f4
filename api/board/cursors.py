"""Cursors of the overview: the place behind which the next page begins, signed.

A cursor goes on with the question that it is the answer to: the question is part of the signature,
`limit` aside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from django.core import signing

from api.board.overview import OverviewQuery, Place

Position = TypeVar("Position")


def cursor_of(place: Place, query: OverviewQuery) -> str:
    """The cursor behind the place."""
    return sealed(place, _salt(query))


def place_of(cursor: str, query: OverviewQuery) -> Place | None:
    """The inverse; None for what was not given out as a cursor of this question."""
    return unsealed(cursor, _salt(query), Place)


def _salt(query: OverviewQuery) -> str:
    return msgspec.json.encode(msgspec.structs.replace(query, limit=0)).decode()


def sealed(position: Sequence[Any], salt: str) -> str:
    """Return the position as a signed text; `salt` ties it to one query."""
    return signing.dumps(list(position), salt=salt)


def unsealed(cursor: str, salt: str, kind: Callable[..., Position]) -> Position | None:
    """Return the position of a cursor; None if it was not sealed with this `salt`."""
    try:
        return kind(*signing.loads(cursor, salt=salt))
    except signing.BadSignature:
        return None
