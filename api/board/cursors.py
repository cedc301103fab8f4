"""Cursors of the overview: the signed place after which the next page begins.

A cursor continues the query whose answer it came with: the query, except for `limit`, is part of
the signature.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec
from django.core import signing

from api.board.overview import OverviewQuery, RowPlace

Position = TypeVar("Position")


def cursor_of(place: RowPlace, query: OverviewQuery) -> str:
    """Return the cursor of the page after the place."""
    return sealed(place, _salt(query))


def place_of(cursor: str, query: OverviewQuery) -> RowPlace | None:
    """Return the place of a cursor; None if it was not issued for this query."""
    return unsealed(cursor, _salt(query), RowPlace)


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
