"""Answers of `/api/overview`, shared: whoever asks the same within a flush gets the same bytes.

The aggregator flushes every 100 ms, so numbers need not be taken over more often than that, however
many ask and whatever they ask. Used from one event loop only.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

from api.board.answers import encoded, tag_of
from api.board.cursors import cursor_of
from api.board.overview import OverviewQuery, OverviewReader, Place

FLUSH_MS: Final = 100
_MOST_BYTES_KEPT: Final = 16 * 1024 * 1024


class Answer(NamedTuple):
    """An overview in JSON and its ETag."""

    content: bytes
    etag: str


class OverviewAnswers:
    """Keeps the answers of the running flush."""

    def __init__(self, reader: OverviewReader) -> None:
        self._reader = reader
        self._kept: dict[tuple[OverviewQuery, Place | None], Answer] = {}
        self._bytes_kept = 0
        self._begun_ms: int | None = None

    def answer(self, query: OverviewQuery, after: Place | None, now_ms: int) -> Answer:
        """The page behind `after`, of numbers that are at most FLUSH_MS old."""
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

    def _make(self, query: OverviewQuery, after: Place | None, now_ms: int, fresh: bool) -> Answer:
        found, last = self._reader.page(query, now_ms, after, fresh=fresh)
        if last is not None:
            found = msgspec.structs.replace(found, next_cursor=cursor_of(last, query))
        content = encoded(found)
        return Answer(content, tag_of(content))
