"""The columnar engine as named sections of bytes: what changed since the last snapshot, and back.

Sections:
- `m:<minute>`: the rows and entries of a closed minute. Written once, when the watermark closes the
  minute, and again only when a retraction changes it.
- `t:<block>`: 64 tokens (names, symbols, records) as of delta number `version`. Written when a
  minute closes, where one of them changed.
- `d:<number>`: the rows and entries of open minutes and the tokens that changed since the delta
  before. Dropped when the minutes are closed: then `m:` and `t:` hold all of it.
- `h`: swaps held for a minute that has not begun. `s`: the windows' lengths, where history begins.

So a snapshot costs what changed. A minute's `m:` wins over its rows in deltas, a delta's tokens win
over a block of an earlier version. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import Swap
from aggregator.contracts.units import MINUTE_MS
from aggregator.windows import kernels
from aggregator.windows.columns import (
    EARLIEST,
    ENTRY,
    NONE,
    PAIRS_USED,
    ROW,
    TOKEN,
    UNSAVED_ENTRIES,
    UNSAVED_ROWS,
    UNSAVED_TOKENS,
    Columns,
)

FORMAT: Final = 2
"""Raise it with any change of ROW, ENTRY, TOKEN or the sections: older snapshots are not read."""

TOKENS_IN_BLOCK: Final = 64

Name = tuple[str, str, str]
"""(token_id, chain, token)."""


class Held(msgspec.Struct, frozen=True, array_like=True):
    """A swap whose minute has not begun."""

    swap: Swap
    offset: int
    verdict: str


class EngineSnapshot(msgspec.Struct, frozen=True):
    """What to write and what to delete, to bring the stored sections up to date."""

    changed: dict[bytes, bytes]
    dropped: list[bytes]

    def followed_by(self, later: EngineSnapshot) -> EngineSnapshot:
        """Both as one."""
        gone = set(later.dropped)
        kept = {name: value for name, value in self.changed.items() if name not in gone}
        dropped = [name for name in self.dropped if name not in later.changed]
        return EngineSnapshot({**kept, **later.changed}, dropped + later.dropped)


class Summary(msgspec.Struct, frozen=True):
    """Section `s`. `now` is the minute that the windows ended at, NONE in older snapshots."""

    format: int
    spans: list[int]
    earliest: int
    closed: int
    pairs: int
    now: int = NONE


class MinutePart(msgspec.Struct, frozen=True, array_like=True):
    """Section `m:`; arrays of ROW and ENTRY."""

    rows: bytes
    entries: bytes


class TokenPart(msgspec.Struct, frozen=True, array_like=True):
    """Tokens by number: names (None where the number is free), symbols, an array of TOKEN."""

    version: int
    tokens: list[int]
    names: list[Name | None]
    symbols: list[str | None]
    records: bytes


class DeltaPart(msgspec.Struct, frozen=True, array_like=True):
    """Section `d:`."""

    rows: bytes
    entries: bytes
    tokens: TokenPart


_pack = msgspec.msgpack.Encoder().encode
_unpack_held = msgspec.json.Decoder(list[Held]).decode
_unpack_summary = msgspec.msgpack.Decoder(Summary).decode
_unpack_minute = msgspec.msgpack.Decoder(MinutePart).decode
_unpack_tokens = msgspec.msgpack.Decoder(TokenPart).decode
_unpack_delta = msgspec.msgpack.Decoder(DeltaPart).decode


class Saver:
    """Knows what the stored sections hold, so that the next snapshot is what they lack."""

    def __init__(self, spans: list[int], grace_ms: int) -> None:
        self._spans = spans
        self._grace_ms = grace_ms
        self._closed = NONE
        self._delta = 0
        self._deltas: dict[int, int] = {}
        self._minutes: set[int] = set()
        self._touched: set[int] = set()
        self._forgotten: set[int] = set()
        self._held: list[Held] = []

    def forget(self, token: int) -> None:
        """The number of a token was given back."""
        self._forgotten.add(token)

    def snapshot(
        self,
        columns: Columns,
        *,
        now: int,
        watermark: int,
        names: list[Name | None],
        symbols: list[str],
        held: list[Held],
    ) -> EngineSnapshot:
        """What changed since the last call; `now` is a minute."""
        unsaved = _take_rows(columns)
        entries = _take_entries(columns)
        tokens = sorted({*_take_tokens(columns), *self._forgotten})
        self._forgotten.clear()
        self._touched.update(tokens)
        oldest = now - 2 * max(self._spans)
        changed: dict[bytes, bytes] = {}
        before = self._closed
        self._closed = max(before, (watermark - self._grace_ms) // MINUTE_MS - 1)
        for minute in self._minutes_to_write(columns, unsaved, entries, before, now):
            changed[b"m:%d" % minute] = _pack(_minute_part(columns, minute))
            self._minutes.add(minute)
        book = _Book(columns, names, symbols)
        dropped = self._drop_old_minutes(oldest)
        if self._closed > before:
            for block in sorted({token // TOKENS_IN_BLOCK for token in self._touched}):
                changed[b"t:%d" % block] = _pack(book.block(block, self._delta))
            self._touched.clear()
            dropped += self._drop_closed_deltas()
            tokens = []
        self._add_delta(changed, unsaved, entries, book.part(tokens, self._delta))
        if held != self._held:
            self._held = list(held)
            changed[b"h"] = msgspec.json.encode(held)
        earliest = int(columns.counts[EARLIEST])
        pairs = int(columns.counts[PAIRS_USED])
        changed[b"s"] = _pack(Summary(FORMAT, self._spans, earliest, self._closed, pairs, now))
        return EngineSnapshot(changed, dropped)

    def _minutes_to_write(
        self, columns: Columns, unsaved: Array, entries: Array, before: int, now: int
    ) -> list[int]:
        ring = len(columns.row_heads)
        oldest = now - 2 * max(self._spans)
        # A watermark ahead of the clock closes minutes that have not begun. In the ring such a
        # minute has the place of one that is as old as the ring is long, so it must not be looked
        # up; its rows are made when it begins, and written as changes of a closed minute.
        fresh = [
            minute
            for minute in range(max(before, oldest) + 1, min(self._closed, now) + 1)
            if columns.row_heads[minute % ring] != NONE
        ]
        again = {
            *unsaved["minute"][unsaved["minute"] <= before].tolist(),
            *entries["minute"][entries["minute"] <= before].tolist(),
        }
        return fresh + [minute for minute in again if minute > oldest]

    def _drop_old_minutes(self, oldest: int) -> list[bytes]:
        old = [minute for minute in self._minutes if minute <= oldest]
        self._minutes.difference_update(old)
        return [b"m:%d" % minute for minute in old]

    def _drop_closed_deltas(self) -> list[bytes]:
        done = [number for number, newest in self._deltas.items() if newest <= self._closed]
        for number in done:
            del self._deltas[number]
        return [b"d:%d" % number for number in done]

    def _add_delta(
        self, changed: dict[bytes, bytes], unsaved: Array, entries: Array, tokens: TokenPart
    ) -> None:
        rows = unsaved[unsaved["minute"] > self._closed]
        seen = entries[entries["minute"] > self._closed]
        if len(rows) or len(seen) or tokens.tokens:
            newest = max(rows["minute"].max(initial=NONE), seen["minute"].max(initial=NONE))
            part = DeltaPart(rows.tobytes(), seen.tobytes(), tokens)
            changed[b"d:%d" % self._delta] = _pack(part)
            self._deltas[self._delta] = int(newest)
            self._delta += 1

    def resume(self, saved: SavedState) -> None:
        """Go on from sections that were read back."""
        self._closed = saved.closed
        self._minutes = set(saved.minutes)
        self._deltas = dict(saved.deltas)
        self._delta = (
            max((*saved.deltas, *(part.version for part in saved.blocks)), default=NONE) + 1
        )
        self._touched = {token for part in saved.changes for token in part.tokens}
        self._held = list(saved.held)


class SavedState:
    """Sections read back, in the order in which an engine takes them in."""

    def __init__(self, sections: Mapping[bytes, bytes], summary: Summary) -> None:
        self.closed = summary.closed
        self.now = summary.now
        self.earliest = summary.earliest
        self.pairs = summary.pairs
        self.held = _unpack_held(sections[b"h"]) if b"h" in sections else []
        self.minutes = sorted(int(key[2:]) for key in sections if key.startswith(b"m:"))
        self.blocks = [
            _unpack_tokens(value) for key, value in sections.items() if key.startswith(b"t:")
        ]
        numbers = sorted(int(key[2:]) for key in sections if key.startswith(b"d:"))
        deltas = [_unpack_delta(sections[b"d:%d" % number]) for number in numbers]
        self.changes = [delta.tokens for delta in deltas]
        self._sections = sections
        self._open_rows = _newest_rows(deltas, self.closed)
        self._open_entries = _open_entries(deltas, self.closed)
        self.deltas = {
            number: int(max(_newest(delta.rows, ROW), _newest(delta.entries, ENTRY)))
            for number, delta in zip(numbers, deltas, strict=True)
        }

    def rows_and_entries(self) -> tuple[Array, Array]:
        """All rows, and all entries, in ascending minutes."""
        parts = [_unpack_minute(self._sections[b"m:%d" % minute]) for minute in self.minutes]
        rows = [np.frombuffer(part.rows, ROW) for part in parts]
        entries = [np.frombuffer(part.entries, ENTRY) for part in parts]
        return (
            np.concatenate([*rows, self._open_rows]),
            np.concatenate([*entries, self._open_entries]),
        )

    def tokens(self) -> list[TokenPart]:
        """Token parts, later ones to win: the blocks, and the deltas after each block's version."""
        versions = {part.tokens[0] // TOKENS_IN_BLOCK: part.version for part in self.blocks}
        newer = []
        for part in self.changes:
            keep = [
                place
                for place, token in enumerate(part.tokens)
                if part.version >= versions.get(token // TOKENS_IN_BLOCK, NONE)
            ]
            records = np.frombuffer(part.records, TOKEN)[keep]
            newer.append(
                TokenPart(
                    part.version,
                    [part.tokens[place] for place in keep],
                    [part.names[place] for place in keep],
                    [part.symbols[place] for place in keep],
                    records.tobytes(),
                )
            )
        return self.blocks + newer


def read(sections: Mapping[bytes, bytes], spans: list[int]) -> SavedState | None:
    """The state in `sections`; None where it is of another format or other windows."""
    if b"s" not in sections:
        return None
    try:
        summary = _unpack_summary(sections[b"s"])
    except msgspec.DecodeError:
        return None
    if summary.format != FORMAT or summary.spans != spans:
        return None
    return SavedState(sections, summary)


class _Book:
    """Token parts made from the columns."""

    def __init__(self, columns: Columns, names: list[Name | None], symbols: list[str]) -> None:
        self._records = columns.tokens
        self._names = names
        self._symbols = symbols

    def block(self, block: int, version: int) -> TokenPart:
        first = block * TOKENS_IN_BLOCK
        return self.part(
            list(range(first, min(first + TOKENS_IN_BLOCK, len(self._names)))), version
        )

    def part(self, tokens: list[int], version: int) -> TokenPart:
        records = self._records[tokens]
        symbols = [
            None if number == NONE else self._symbols[number]
            for number in records["symbol"].tolist()
        ]
        names = [self._names[token] for token in tokens]
        return TokenPart(version, tokens, names, symbols, records.tobytes())


def _take_rows(columns: Columns) -> Array:
    """The rows that changed since the last snapshot, copied."""
    places = columns.unsaved_rows[: columns.counts[UNSAVED_ROWS]]
    columns.row_unsaved[places] = 0
    columns.counts[UNSAVED_ROWS] = 0
    rows = columns.rows[places]
    held: Array = rows[rows["minute"] != NONE]
    return held


def _take_entries(columns: Columns) -> Array:
    entries = columns.unsaved_entries[: columns.counts[UNSAVED_ENTRIES]].copy()
    columns.counts[UNSAVED_ENTRIES] = 0
    return entries


def _take_tokens(columns: Columns) -> list[int]:
    tokens = columns.unsaved_tokens[: columns.counts[UNSAVED_TOKENS]]
    columns.tokens["unsaved"][tokens] = 0
    columns.counts[UNSAVED_TOKENS] = 0
    numbers: list[int] = tokens.tolist()
    return numbers


def _minute_part(columns: Columns, minute: int) -> MinutePart:
    rows = np.empty(len(columns.rows) - int(columns.counts[0]), np.int32)
    used = kernels.rows_of(columns, minute, rows)
    entries = np.empty(len(columns.entries) - int(columns.counts[1]), np.int32)
    seen = kernels.entries_of(columns, minute, entries)
    return MinutePart(
        columns.rows[rows[:used]].tobytes(), columns.entries[entries[:seen]].tobytes()
    )


def _newest(data: bytes, kind: np.dtype[np.void]) -> int:
    return int(np.frombuffer(data, kind)["minute"].max(initial=NONE))


def _newest_rows(deltas: list[DeltaPart], closed: int) -> Array:
    """Each open row as the last delta has it, in ascending minutes."""
    rows = np.frombuffer(b"".join(delta.rows for delta in deltas), ROW)
    rows = rows[rows["minute"] > closed]
    keys = (rows["minute"].astype(np.int64) << 32) | rows["token"]
    _, from_the_end = np.unique(keys[::-1], return_index=True)
    newest: Array = rows[::-1][from_the_end]
    return newest


def _open_entries(deltas: list[DeltaPart], closed: int) -> Array:
    entries = np.frombuffer(b"".join(delta.entries for delta in deltas), ENTRY)
    entries = entries[entries["minute"] > closed]
    ascending: Array = entries[np.argsort(entries["minute"], kind="stable")]
    return ascending
