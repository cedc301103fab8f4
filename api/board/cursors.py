"""Cursors of the overview: the signed place after which the next page begins.

A cursor continues the query whose answer it came with: the query, except for `limit`, is part of
the signature.
"""

from __future__ import annotations

import msgspec
from django.core import signing

from api.board.overview import OverviewQuery, RowPlace


def cursor_of(place: RowPlace, query: OverviewQuery) -> str:
    """Return the cursor of the page after the place."""
    return signing.dumps(list(place), salt=_salt(query))


def place_of(cursor: str, query: OverviewQuery) -> RowPlace | None:
    """Return the place of a cursor; None if it was not issued for this query."""
    try:
        return RowPlace(*signing.loads(cursor, salt=_salt(query)))
    except signing.BadSignature:
        return None


def _salt(query: OverviewQuery) -> str:
    return msgspec.json.encode(msgspec.structs.replace(query, limit=0)).decode()
