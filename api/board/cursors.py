"""Cursors of the overview: the place behind which the next page begins, signed.

A cursor goes on with the question that it is the answer to: the question is part of the signature,
`limit` aside.
"""

from __future__ import annotations

import msgspec
from django.core import signing

from api.board.overview import OverviewQuery, Place


def cursor_of(place: Place, query: OverviewQuery) -> str:
    """The cursor behind the place."""
    return signing.dumps(list(place), salt=_salt(query))


def place_of(cursor: str, query: OverviewQuery) -> Place | None:
    """The inverse; None for what was not given out as a cursor of this question."""
    try:
        return Place(*signing.loads(cursor, salt=_salt(query)))
    except signing.BadSignature:
        return None


def _salt(query: OverviewQuery) -> str:
    return msgspec.json.encode(msgspec.structs.replace(query, limit=0)).decode()
