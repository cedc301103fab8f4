"""Snapshots of the window engine: named sections of bytes with what changed since the last one.

Sections:
- `m:<minute>`: the buckets and entries of a closed minute. Written when the watermark closes the
  minute, and again only when a retraction changes it.
- `t:<block>`: 64 tokens (names, symbols, records) as of delta number `version`. Written when a
  minute closes, for each block with a token that changed.
- `d:<number>`: a delta: the buckets and entries of open minutes, and the tokens, that changed since
  the delta before. Deleted when its minutes are closed: then `m:` and `t:` hold all of it.
- `h`: the swaps held for a minute that has not begun.
- `s`: the summary: the format, the windows' lengths, and how far the state reaches.

So a snapshot costs what changed, and a partition's state is the sections together: the `m:` of a
minute wins over its buckets in deltas, and the tokens of a delta win over a block of an earlier
version. Pure.
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
    BUCKET,
    EARLIEST,
    ENTRIES_FREE,
    ENTRY,
    NONE,
    PAIRS_USED,
    ROWS_FREE,
    TOKEN,
    UNSAVED_ENTRIES,
    UNSAVED_ROWS,
    UNSAVED_TOKENS,
    WindowColumns,
)

FORMAT: Final = 2
"""Raise it with any change of BUCKET, ENTRY, TOKEN or the sections: older snapshots are not read.

An owner that finds an older snapshot rebuilds the state from the log.
"""

TOKENS_IN_BLOCK: Final = 64

Name = tuple[str, str, str]
"""(token_id, chain, token)."""


class HeldSwap(msgspec.Struct, frozen=True, array_like=True):
    """A swap whose minute has not begun, with its offset and its verdict."""

    swap: Swap
    offset: int
    verdict: str


class EngineSnapshot(msgspec.Struct, frozen=True):
    """What to write and what to delete to bring the stored sections up to date."""

    changed: dict[bytes, bytes]
    dropped: list[bytes]

    def followed_by(self, later: EngineSnapshot) -> EngineSnapshot:
        """Return one snapshot that does what this one and then the later one would do."""
        # The later one decides: what it deletes need not be written, what it writes must not be
        # deleted.
        gone = set(later.dropped)
        kept = {name: value for name, value in self.changed.items() if name not in gone}
        dropped = [name for name in self.dropped if name not in later.changed]
        return EngineSnapshot({**kept, **later.changed}, dropped + later.dropped)


class Summary(msgspec.Struct, frozen=True):
    """Section `s`.

    `spans` are the lengths of the windows in minutes, `earliest` the earliest event time counted
    (ms), `closed` the newest closed minute, `pairs` how many pairs were in use. `now` is the
    minute that the windows ended at, NONE in older snapshots.
    """

    format: int
    spans: list[int]
    earliest: int
    closed: int
    pairs: int
    now: int = NONE


class MinutePart(msgspec.Struct, frozen=True, array_like=True):
    """Section `m:`, arrays of BUCKET and ENTRY."""

    rows: bytes
    entries: bytes


class TokenPart(msgspec.Struct, frozen=True, array_like=True):
    """Section `t:`, and part of `d:`.

    `tokens` are their numbers, which buckets and entries refer to; `records` is an array of TOKEN.
    A name is None where the number is free. Symbols are written as text, since their numbers are
    those of one process.
    """

    version: int
    tokens: list[int]
    names: list[Name | None]
    symbols: list[str | None]
    records: bytes


class DeltaPart(msgspec.Struct, frozen=True, array_like=True):
    """Section `d:`, arrays of BUCKET and ENTRY, and the tokens."""

    rows: bytes
    entries: bytes
    tokens: TokenPart


_pack = msgspec.msgpack.Encoder().encode
# JSON, since a swap's amount may exceed the 64 bits of an integer in MessagePack.
_unpack_held = msgspec.json.Decoder(list[HeldSwap]).decode
_unpack_summary = msgspec.msgpack.Decoder(Summary).decode
_unpack_minute = msgspec.msgpack.Decoder(MinutePart).decode
_unpack_tokens = msgspec.msgpack.Decoder(TokenPart).decode
_unpack_delta = msgspec.msgpack.Decoder(DeltaPart).decode


class Saver:
    """Knows what the stored sections hold, and makes the next snapshot of what they lack."""

    def __init__(self, spans: list[int], grace_ms: int) -> None:
        self._spans = spans
        self._grace_ms = grace_ms
        # The newest closed minute, the number of the next delta, and what is stored: the newest
        # minute of each delta, and the minutes that have a section.
        self._closed = NONE
        self._delta = 0
        self._deltas: dict[int, int] = {}
        self._minutes: set[int] = set()
        # Tokens that changed since the blocks were written, and numbers given back since the last
        # snapshot.
        self._touched: set[int] = set()
        self._forgotten: set[int] = set()
        self._held: list[HeldSwap] = []

    def forget(self, token: int) -> None:
        """Note that the number of a token was given back."""
        self._forgotten.add(token)

    def snapshot(
        self,
        columns: WindowColumns,
        *,
        now: int,
        watermark: int,
        names: list[Name | None],
        symbols: list[str],
        held: list[HeldSwap],
    ) -> EngineSnapshot:
        """Return what changed since the last call; `now` is a minute, `watermark` in ms."""
        unsaved = _take_rows(columns)
        entries = _take_entries(columns)
        tokens = sorted({*_take_tokens(columns), *self._forgotten})
        self._forgotten.clear()
        self._touched.update(tokens)
        oldest = now - 2 * max(self._spans)
        changed: dict[bytes, bytes] = {}
        before = self._closed
        # The newest minute that ended at or before watermark - grace: `kernels.observe` calls every
        # later swap of it late, so from here on only a retraction or a held swap changes it.
        self._closed = max(before, (watermark - self._grace_ms) // MINUTE_MS - 1)
        for minute in self._minutes_to_write(columns, unsaved, entries, before, now):
            changed[b"m:%d" % minute] = _pack(_minute_part(columns, minute))
            self._minutes.add(minute)
        parts = _TokenParts(columns, names, symbols)
        dropped = self._drop_old_minutes(oldest)
        if self._closed > before:
            # Blocks come with the minutes that replace the deltas, and carry the number of the next
            # delta: they hold all that the deltas before it say of these tokens.
            for block in sorted({token // TOKENS_IN_BLOCK for token in self._touched}):
                changed[b"t:%d" % block] = _pack(parts.block(block, self._delta))
            self._touched.clear()
            dropped += self._drop_closed_deltas()
            tokens = []
        self._add_delta(changed, unsaved, entries, parts.part(tokens, self._delta))
        if held != self._held:
            self._held = list(held)
            changed[b"h"] = msgspec.json.encode(held)
        earliest = int(columns.counts[EARLIEST])
        pairs = int(columns.counts[PAIRS_USED])
        changed[b"s"] = _pack(Summary(FORMAT, self._spans, earliest, self._closed, pairs, now))
        return EngineSnapshot(changed, dropped)

    def _minutes_to_write(
        self, columns: WindowColumns, unsaved: Array, entries: Array, before: int, now: int
    ) -> list[int]:
        """Return the minutes that closed, and the closed ones that changed since they were written.

        `before` is the newest minute that was closed at the last snapshot.
        """
        ring = len(columns.row_heads)
        oldest = now - 2 * max(self._spans)
        # A watermark ahead of the clock closes minutes that have not begun. Such a minute must not
        # be looked up: in the ring it has the place of one that is as old as the ring is long. Its
        # rows are made when it begins, and then written as changes of a closed minute.
        fresh = [
            minute
            for minute in range(max(before, oldest) + 1, min(self._closed, now) + 1)
            if columns.row_heads[minute % ring] != NONE
        ]
        changed = {
            *unsaved["minute"][unsaved["minute"] <= before].tolist(),
            *entries["minute"][entries["minute"] <= before].tolist(),
        }
        return fresh + [minute for minute in changed if minute > oldest]

    def _drop_old_minutes(self, oldest: int) -> list[bytes]:
        """Return the sections of minutes that no window reaches, and forget them."""
        old = [minute for minute in self._minutes if minute <= oldest]
        self._minutes.difference_update(old)
        return [b"m:%d" % minute for minute in old]

    def _drop_closed_deltas(self) -> list[bytes]:
        """Return the deltas whose minutes are all closed, and forget them."""
        done = [number for number, newest in self._deltas.items() if newest <= self._closed]
        for number in done:
            del self._deltas[number]
        return [b"d:%d" % number for number in done]

    def _add_delta(
        self, changed: dict[bytes, bytes], unsaved: Array, entries: Array, tokens: TokenPart
    ) -> None:
        """Add a delta to `changed` where anything of an open minute, or a token, changed."""
        # Closed minutes have a section each, which holds these rows already.
        rows = unsaved[unsaved["minute"] > self._closed]
        seen = entries[entries["minute"] > self._closed]
        if len(rows) or len(seen) or tokens.tokens:
            newest = max(rows["minute"].max(initial=NONE), seen["minute"].max(initial=NONE))
            part = DeltaPart(rows.tobytes(), seen.tobytes(), tokens)
            changed[b"d:%d" % self._delta] = _pack(part)
            # A delta of tokens alone has no minute (NONE), so the next closing minute drops it: its
            # tokens are in the blocks then.
            self._deltas[self._delta] = int(newest)
            self._delta += 1

    def resume(self, saved: SavedState) -> None:
        """Continue from sections that were read back."""
        self._closed = saved.closed
        self._minutes = set(saved.minutes)
        self._deltas = dict(saved.deltas)
        # Above every number in use: the order of numbers says which delta or block is newer.
        self._delta = (
            max((*saved.deltas, *(part.version for part in saved.blocks)), default=NONE) + 1
        )
        # These are in deltas only, which go when their minutes close: the next blocks need them.
        self._touched = {token for part in saved.changes for token in part.tokens}
        self._held = list(saved.held)


class SavedState:
    """Sections read back, in the order in which an engine loads them."""

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
            number: int(
                max(_newest_minute(delta.rows, BUCKET), _newest_minute(delta.entries, ENTRY))
            )
            for number, delta in zip(numbers, deltas, strict=True)
        }

    def rows_and_entries(self) -> tuple[Array, Array]:
        """Return all buckets, and all entries, in ascending minutes.

        The loading loops rely on the order: each bucket is linked as the newest of its token.
        """
        # Every minute with a section is closed, and every row left in a delta is of an open one, so
        # the parts need no sorting.
        parts = [_unpack_minute(self._sections[b"m:%d" % minute]) for minute in self.minutes]
        rows = [np.frombuffer(part.rows, BUCKET) for part in parts]
        entries = [np.frombuffer(part.entries, ENTRY) for part in parts]
        return (
            np.concatenate([*rows, self._open_rows]),
            np.concatenate([*entries, self._open_entries]),
        )

    def tokens(self) -> list[TokenPart]:
        """Return the token parts in the order in which the later one wins.

        First come the blocks, then the deltas. A delta that is older than the block of a token must
        not win over it, so its record of that token is left out.
        """
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
    """Return the state in `sections`, or None where its format or its windows are others."""
    if b"s" not in sections:
        return None
    try:
        summary = _unpack_summary(sections[b"s"])
    except msgspec.DecodeError:
        return None
    if summary.format != FORMAT or summary.spans != spans:
        return None
    return SavedState(sections, summary)


class _TokenParts:
    """Makes token parts from the columns."""

    def __init__(
        self, columns: WindowColumns, names: list[Name | None], symbols: list[str]
    ) -> None:
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


def _take_rows(columns: WindowColumns) -> Array:
    """Return a copy of the buckets that changed since the last snapshot."""
    places = columns.unsaved_rows[: columns.counts[UNSAVED_ROWS]]
    columns.row_unsaved[places] = 0
    columns.counts[UNSAVED_ROWS] = 0
    rows = columns.rows[places]
    # Rows that were freed since they changed have no minute.
    in_use: Array = rows[rows["minute"] != NONE]
    return in_use


def _take_entries(columns: WindowColumns) -> Array:
    """Return a copy of the entries that were made since the last snapshot."""
    entries = columns.unsaved_entries[: columns.counts[UNSAVED_ENTRIES]].copy()
    columns.counts[UNSAVED_ENTRIES] = 0
    return entries


def _take_tokens(columns: WindowColumns) -> list[int]:
    """Return the numbers of the tokens that changed since the last snapshot."""
    tokens = columns.unsaved_tokens[: columns.counts[UNSAVED_TOKENS]]
    columns.tokens["unsaved"][tokens] = 0
    columns.counts[UNSAVED_TOKENS] = 0
    numbers: list[int] = tokens.tolist()
    return numbers


def _minute_part(columns: WindowColumns, minute: int) -> MinutePart:
    rows = np.empty(len(columns.rows) - int(columns.counts[ROWS_FREE]), np.int32)
    used = kernels.rows_of_minute(columns, minute, rows)
    entries = np.empty(len(columns.entries) - int(columns.counts[ENTRIES_FREE]), np.int32)
    seen = kernels.entries_of_minute(columns, minute, entries)
    return MinutePart(
        columns.rows[rows[:used]].tobytes(), columns.entries[entries[:seen]].tobytes()
    )


def _newest_minute(data: bytes, kind: np.dtype[np.void]) -> int:
    return int(np.frombuffer(data, kind)["minute"].max(initial=NONE))


def _newest_rows(deltas: list[DeltaPart], closed: int) -> Array:
    """Return each bucket of an open minute as the last delta has it, in ascending minutes."""
    rows = np.frombuffer(b"".join(delta.rows for delta in deltas), BUCKET)
    rows = rows[rows["minute"] > closed]
    # The minute in the upper half sorts by it. `unique` finds the first of equal keys, so the rows
    # are reversed to find the last.
    keys = (rows["minute"].astype(np.int64) << 32) | rows["token"]
    _, from_the_end = np.unique(keys[::-1], return_index=True)
    newest: Array = rows[::-1][from_the_end]
    return newest


def _open_entries(deltas: list[DeltaPart], closed: int) -> Array:
    """Return the entries of open minutes in ascending minutes; an entry is in one delta only."""
    entries = np.frombuffer(b"".join(delta.entries for delta in deltas), ENTRY)
    entries = entries[entries["minute"] > closed]
    ascending: Array = entries[np.argsort(entries["minute"], kind="stable")]
    return ascending
