"""Shared answers of `/api/overview`: equal queries within one flush get the same bytes.

The aggregator flushes at least every 100 ms, so the numbers are read no more often than that,
whatever the number of queries. Used from one event loop only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from aggregator.contracts.intervals import FLUSH_MS
from api.board.answers import encoded, tag_of
from api.board.cursors import cursor_of
from api.board.overview import OverviewQuery, OverviewReader, RowPlace

_MOST_BYTES_KEPT: Final = 16 * 1024 * 1024


class RenderedOverview(NamedTuple):
    """Hold an overview in JSON and its ETag."""

    content: bytes
    etag: str


class OverviewAnswers:
    """Cache the answers of the present flush."""

    def __init__(self, reader: OverviewReader) -> None:
        self._reader = reader
        self._kept: dict[tuple[OverviewQuery, RowPlace | None], RenderedOverview] = {}
        self._bytes_kept = 0
        self._begun_ms: int | None = None

    def answer(self, query: OverviewQuery, after: RowPlace | None, now_ms: int) -> RenderedOverview:
        """Return the page after `after`, of numbers that are at most FLUSH_MS old."""
        fresh = self._begun_ms is None or now_ms - self._begun_ms >= FLUSH_MS
        if fresh:
            self._begun_ms = now_ms
            self._kept.clear()
            self._bytes_kept = 0
        answer = self._kept.get((query, after))
        if answer is None:
            answer = self._make(query, after, now_ms, fresh)
            self._bytes_kept += len(answer.content)
            if self._bytes_kept <= _MOST_BYTES_KEPT:
                self._kept[query, after] = answer
        return answer

    def _make(
        self, query: OverviewQuery, after: RowPlace | None, now_ms: int, fresh: bool
    ) -> RenderedOverview:
        found, last = self._reader.page(query, now_ms, after, fresh=fresh)
        if last is not None:
            found = msgspec.structs.replace(found, next_cursor=cursor_of(last, query))
        content = encoded(found)
        return RenderedOverview(content, tag_of(content))
