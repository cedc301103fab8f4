"""Snapshots of the window engine: named sections of bytes with what changed since the last one.

Sections:
- `m:<minute>`: the buckets and entries of a settled minute as of delta number `version`. Written
  when the minute settles, and again when another one does if it changed in between.
- `t:<block>`: 64 tokens (names, symbols, records) as of delta number `version`. Written with the
  minutes, for each block with a token that changed.
- `d:<number>`: a delta: the buckets and entries, and the tokens, that changed since the delta
  before. Deleted when all its minutes have settled: then `m:` and `t:` hold all of it.
- `h:<number>`: trades of minutes that have not begun. Deleted when all these minutes have begun.
- `s`: the summary: the format, the windows' lengths, and how far the state reaches.

So a snapshot costs what changed, and a partition's state is the sections together: of a minute or a
token that stands in several sections, the newest one wins, where a delta is newer than an `m:` or
`t:` whose version is not above its number. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import SWAP
from aggregator.contracts.units import MINUTE_MS
from aggregator.windows import kernels
from aggregator.windows.columns import (
    BUCKET,
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
from aggregator.windows.held import HeldSwaps

FORMAT: Final = 3
"""Raise it with any change of BUCKET, ENTRY, TOKEN, SWAP or the sections.

Snapshots of another format are not read: an owner that finds one rebuilds the state from the log.
"""

TOKENS_IN_BLOCK: Final = 64

SETTLING_MS: Final = 2 * MINUTE_MS
"""How long after its end a minute settles: most swaps have come by then."""

FOLD_AFTER: Final = 64
"""After so many deltas while no minute settles, all deltas are replaced by one.

While the clock stands still, deltas would otherwise grow without bound.
"""

T = TypeVar("T")

Name = tuple[str, str, str]
"""(token_id, chain, token)."""


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


class EngineState(NamedTuple):
    """What a snapshot is made of; `now` is a minute, `kept_from` in ms or NONE."""

    columns: WindowColumns
    now: int
    kept_from: int
    names: list[Name | None]
    symbols: list[str]
    held: HeldSwaps


class Summary(msgspec.Struct, frozen=True):
    """Section `s`.

    `spans` are the lengths of the windows in minutes, `settled` the newest settled minute (NONE
    before the first), `pairs` how many pairs were in use, `now` the minute that the windows ended
    at. `kept_from` is the instant (ms) from which a leap of the clock has left the minutes, NONE
    where none were lost.
    """

    format: int
    spans: list[int]
    settled: int
    pairs: int
    now: int
    kept_from: int


class MinutePart(msgspec.Struct, frozen=True, array_like=True):
    """Section `m:`, arrays of BUCKET and ENTRY; deltas with numbers >= `version` are newer."""

    version: int
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


class HeldPart(msgspec.Struct, frozen=True, array_like=True):
    """Section `h:`, an array of SWAP whose `symbol` is an index into `symbols`, or NONE."""

    symbols: list[str]
    swaps: bytes


_pack = msgspec.msgpack.Encoder().encode
_unpack_summary = msgspec.msgpack.Decoder(Summary).decode
_unpack_minute = msgspec.msgpack.Decoder(MinutePart).decode
_unpack_tokens = msgspec.msgpack.Decoder(TokenPart).decode
_unpack_delta = msgspec.msgpack.Decoder(DeltaPart).decode
_unpack_held = msgspec.msgpack.Decoder(HeldPart).decode


class Saver:
    """Knows what the stored sections hold, and makes the next snapshot of what they lack."""

    def __init__(self, spans: list[int]) -> None:
        self._spans = spans
        # The newest settled minute, now and when sections of minutes were last written; how many
        # deltas came since then.
        self._settled = NONE
        self._written = NONE
        self._unfolded = 0
        # The numbers of the next delta and of the next held part, and what is stored: the newest
        # minute of each, and the minutes that have a section.
        self._delta = 0
        self._deltas: dict[int, int] = {}
        self._held_part = 0
        self._held: dict[int, int] = {}
        self._minutes: set[int] = set()
        # What changed since its section was written: settled minutes, tokens. Then the numbers that
        # were given back since the last snapshot.
        self._late: set[int] = set()
        self._touched: set[int] = set()
        self._forgotten: set[int] = set()

    def settle(self, instant: int) -> None:
        """Let the minutes settle that ended SETTLING_MS or more before `instant` (ms).

        It must not lie ahead of now: a minute that has not begun has the ring place of an old one.
        """
        self._settled = max(self._settled, _newest_settled(instant))

    def forget(self, token: int) -> None:
        """Note that the number of a token was given back."""
        self._forgotten.add(token)

    def snapshot(self, state: EngineState) -> EngineSnapshot:
        """Return what changed since the last call."""
        columns, oldest = state.columns, state.now - 2 * max(self._spans)
        rows, entries, tokens = _take_rows(columns), _take_entries(columns), self._take(columns)
        parts = _TokenParts(columns, state.names, state.symbols)
        changed: dict[bytes, bytes] = {}
        for minutes in (rows["minute"], entries["minute"]):
            self._late.update(minutes[minutes <= self._written].tolist())
        dropped = self._drop_old_minutes(oldest)
        settles = self._settled > self._written
        folds = self._unfolded >= FOLD_AFTER
        if settles or folds:
            fresh = range(max(self._written, oldest) + 1, self._settled + 1)
            self._write_minutes(changed, columns, {*fresh, *self._late})
            self._write_blocks(
                changed, parts, {token // TOKENS_IN_BLOCK for token in self._touched}
            )
            # The sections hold these, and what deltas held of them.
            rows = rows[rows["minute"] > self._settled]
            entries = entries[entries["minute"] > self._settled]
            tokens = []
            if folds:
                rows, entries = self._open(columns, state.now)
            gone = [n for n, newest in self._deltas.items() if folds or newest <= self._settled]
            for number in gone:
                del self._deltas[number]
            dropped += [b"d:%d" % number for number in gone]
            self._wrote()
        self._add_delta(changed, rows, entries, parts.part(tokens, self._delta))
        dropped += self._save_held(changed, state)
        changed[b"s"] = self._summary(state)
        return EngineSnapshot(changed, dropped)

    def whole(self, state: EngineState) -> EngineSnapshot:
        """Return everything; nothing that was stored before counts any more."""
        columns, oldest = state.columns, state.now - 2 * max(self._spans)
        _take_rows(columns), _take_entries(columns), self._take(columns)
        state.held.take_unsaved()
        self._deltas, self._held, self._minutes = {}, {}, set()
        changed: dict[bytes, bytes] = {}
        parts = _TokenParts(columns, state.names, state.symbols)
        self._write_minutes(changed, columns, range(oldest + 1, self._settled + 1))
        self._write_blocks(changed, parts, range(-(-len(state.names) // TOKENS_IN_BLOCK)))
        self._wrote()
        self._add_delta(changed, *self._open(columns, state.now), parts.part([], self._delta))
        self._add_held(changed, state.held.everything(), state.symbols)
        changed[b"s"] = self._summary(state)
        return EngineSnapshot(changed, [])

    def _take(self, columns: WindowColumns) -> list[int]:
        """Return the numbers of the tokens that changed since the last snapshot."""
        tokens = sorted({*_take_tokens(columns), *self._forgotten})
        self._forgotten.clear()
        self._touched.update(tokens)
        return tokens

    def _wrote(self) -> None:
        """Note that sections hold all settled minutes and all tokens."""
        self._written = self._settled
        self._unfolded = 0
        self._late.clear()
        self._touched.clear()

    def _write_minutes(
        self, changed: dict[bytes, bytes], columns: WindowColumns, minutes: Iterable[int]
    ) -> None:
        """Write the sections of those of the minutes that have rows."""
        ring = len(columns.row_heads)
        # A minute has rows wherever it has entries.
        held = [minute for minute in minutes if columns.row_heads[minute % ring] != NONE]
        for minute in held:
            rows, entries = _of_minutes(columns, minute, minute)
            changed[b"m:%d" % minute] = _pack(
                MinutePart(self._delta, rows.tobytes(), entries.tobytes())
            )
        self._minutes.update(held)

    def _write_blocks(
        self, changed: dict[bytes, bytes], parts: _TokenParts, blocks: Iterable[int]
    ) -> None:
        # Blocks carry the number of the next delta: they hold all that the deltas before it say of
        # their tokens.
        for block in sorted(blocks):
            changed[b"t:%d" % block] = _pack(parts.block(block, self._delta))

    def _drop_old_minutes(self, oldest: int) -> list[bytes]:
        """Return the sections of minutes that no window reaches, and forget them."""
        old = [minute for minute in self._minutes if minute <= oldest]
        self._minutes.difference_update(old)
        self._late = {minute for minute in self._late if minute > oldest}
        return [b"m:%d" % minute for minute in old]

    def _open(self, columns: WindowColumns, now: int) -> tuple[Array, Array]:
        """Return a copy of the buckets and entries of all minutes that have not settled."""
        return _of_minutes(columns, max(self._settled, now - 2 * max(self._spans)) + 1, now)

    def _add_delta(
        self, changed: dict[bytes, bytes], rows: Array, entries: Array, tokens: TokenPart
    ) -> None:
        """Add a delta to `changed` where there is anything to save."""
        if len(rows) or len(entries) or tokens.tokens:
            newest = max(rows["minute"].max(initial=NONE), entries["minute"].max(initial=NONE))
            part = DeltaPart(rows.tobytes(), entries.tobytes(), tokens)
            changed[b"d:%d" % self._delta] = _pack(part)
            # A delta of tokens alone has no minute (NONE), so the next settling minute drops it:
            # its tokens are in the blocks then.
            self._deltas[self._delta] = int(newest)
            self._delta += 1
            self._unfolded += 1

    def _save_held(self, changed: dict[bytes, bytes], state: EngineState) -> list[bytes]:
        """Write what is newly held; return the sections of which every minute has begun."""
        swaps = state.held.take_unsaved()
        gone = [number for number, newest in self._held.items() if newest <= state.now]
        if len(self._held) > FOLD_AFTER:
            gone, swaps = list(self._held), state.held.everything()
        for number in gone:
            del self._held[number]
        self._add_held(changed, swaps, state.symbols)
        return [b"h:%d" % number for number in gone]

    def _add_held(self, changed: dict[bytes, bytes], swaps: Array, symbols: list[str]) -> None:
        if len(swaps):
            used, places = np.unique(swaps["symbol"], return_inverse=True)
            # NONE sorts first and takes no place in `symbols`.
            without = int(used[0] == NONE)
            part = swaps.copy()
            part["symbol"] = places - without
            texts = [symbols[number] for number in used[without:].tolist()]
            changed[b"h:%d" % self._held_part] = _pack(HeldPart(texts, part.tobytes()))
            self._held[self._held_part] = int(swaps["timestamp"].max()) // MINUTE_MS
            self._held_part += 1

    def _summary(self, state: EngineState) -> bytes:
        pairs = int(state.columns.counts[PAIRS_USED])
        return _pack(Summary(FORMAT, self._spans, self._settled, pairs, state.now, state.kept_from))

    def resume(self, saved: SavedState, now_ms: int) -> None:
        """Continue from sections that were read back; `now_ms` is the engine's now."""
        # The clock may have been ahead when they were saved. No minute ahead of now is settled: it
        # gets a section when it settles again.
        self._settled = self._written = min(saved.settled, _newest_settled(now_ms))
        self._minutes = set(saved.minutes)
        self._deltas = dict(saved.deltas)
        self._held = dict(saved.held_parts)
        self._held_part = max(self._held, default=NONE) + 1
        # Not below any version: the order of numbers says which delta or section is newer.
        self._delta = saved.next_delta
        # These stand in deltas alone, which go when their minutes settle: sections need them then.
        self._touched = {token for part in saved.changes for token in part.tokens}
        self._late = {minute for minute in saved.changed_minutes if minute <= self._written}


class SavedState:
    """Sections read back, in the order in which an engine loads them."""

    def __init__(self, sections: Mapping[bytes, bytes], summary: Summary) -> None:
        self.settled = summary.settled
        self.now = summary.now
        self.kept_from = summary.kept_from
        self.pairs = summary.pairs
        self.minutes = _parts(sections, b"m:", _unpack_minute)
        self.blocks = list(_parts(sections, b"t:", _unpack_tokens).values())
        deltas = _parts(sections, b"d:", _unpack_delta)
        self.changes = [delta.tokens for delta in deltas.values()]
        self._rows = self._newer(deltas, BUCKET, lambda delta: delta.rows)
        self._entries = self._newer(deltas, ENTRY, lambda delta: delta.entries)
        self.changed_minutes = {*self._rows, *self._entries}
        self.deltas = {
            number: max(_newest_minute(delta.rows, BUCKET), _newest_minute(delta.entries, ENTRY))
            for number, delta in deltas.items()
        }
        self.next_delta = max(
            (
                *(number + 1 for number in deltas),
                *(part.version for part in self.blocks),
                *(part.version for part in self.minutes.values()),
            ),
            default=0,
        )
        self._held = _parts(sections, b"h:", _unpack_held)
        self.held_parts = {
            number: int(np.frombuffer(part.swaps, SWAP)["timestamp"].max()) // MINUTE_MS
            for number, part in self._held.items()
        }

    def _newer(
        self,
        deltas: dict[int, DeltaPart],
        kind: np.dtype[np.void],
        of: Callable[[DeltaPart], bytes],
    ) -> dict[int, Array]:
        """Return what deltas hold that no section has, by minute, as the newest delta has it."""
        arrays = [np.frombuffer(of(delta), kind) for delta in deltas.values()]
        numbers = np.repeat(list(deltas), [len(each) for each in arrays])
        found = np.concatenate([np.zeros(0, kind), *arrays])
        minutes, places = np.unique(found["minute"], return_inverse=True)
        versions = [
            self.minutes[minute].version if minute in self.minutes else NONE
            for minute in minutes.tolist()
        ]
        found = found[numbers >= np.array(versions, np.int64)[places]]
        if kind is BUCKET:
            # `unique` finds the first of equal keys, so the rows are reversed to find the last.
            keys = (found["minute"].astype(np.int64) << 32) | found["token"]
            _, from_the_end = np.unique(keys[::-1], return_index=True)
            found = found[::-1][from_the_end]
        else:
            # An entry is in one delta only.
            found = found[np.argsort(found["minute"], kind="stable")]
        minutes, starts = np.unique(found["minute"], return_index=True)
        return dict(zip(minutes.tolist(), np.split(found, starts)[1:], strict=True))

    def rows_and_entries(self) -> tuple[Array, Array]:
        """Return all buckets, and all entries, in ascending minutes.

        The loading loops rely on the order: each bucket is linked as the newest of its token.
        """
        rows, entries = [np.zeros(0, BUCKET)], [np.zeros(0, ENTRY)]
        for minute in sorted({*self.minutes, *self.changed_minutes}):
            part = self.minutes.get(minute)
            newer = self._rows.get(minute, rows[0])
            if part is not None:
                older = np.frombuffer(part.rows, BUCKET)
                rows.append(
                    older[~np.isin(older["token"], newer["token"])] if len(newer) else older
                )
                entries.append(np.frombuffer(part.entries, ENTRY))
            rows.append(newer)
            entries.append(self._entries.get(minute, entries[0]))
        return np.concatenate(rows), np.concatenate(entries)

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

    def held(self, symbol_number: Callable[[str], int]) -> Array:
        """Return the trades of minutes that had not begun; `symbol_number` numbers the symbols."""
        swaps = [np.zeros(0, SWAP)]
        for part in self._held.values():
            each = np.frombuffer(part.swaps, SWAP).copy()
            numbers = np.array([*map(symbol_number, part.symbols), NONE], np.int32)
            # The index NONE finds the last.
            each["symbol"] = numbers[each["symbol"]]
            # A section stays until its last minute begins; the swaps of its first may be counted.
            swaps.append(each[each["timestamp"] >= (self.now + 1) * MINUTE_MS])
        return np.concatenate(swaps)


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


def _parts(
    sections: Mapping[bytes, bytes], prefix: bytes, unpack: Callable[[bytes], T]
) -> dict[int, T]:
    """Return the sections of one kind by number, ascending."""
    numbers = sorted(int(key[2:]) for key in sections if key.startswith(prefix))
    return {number: unpack(sections[b"%b%d" % (prefix, number)]) for number in numbers}


def _newest_settled(instant: int) -> int:
    return (instant - SETTLING_MS) // MINUTE_MS - 1


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


def _of_minutes(columns: WindowColumns, first: int, last: int) -> tuple[Array, Array]:
    """Return a copy of the buckets and of the entries of the minutes first … last, ascending."""
    rows = np.empty(len(columns.rows) - int(columns.counts[ROWS_FREE]), np.int32)
    entries = np.empty(len(columns.entries) - int(columns.counts[ENTRIES_FREE]), np.int32)
    used = seen = 0
    for minute in range(first, last + 1):
        used = kernels.rows_of_minute(columns, minute, rows, used)
        seen = kernels.entries_of_minute(columns, minute, entries, seen)
    return columns.rows[rows[:used]], columns.entries[entries[:seen]]


def _newest_minute(data: bytes, kind: np.dtype[np.void]) -> int:
    return int(np.frombuffer(data, kind)["minute"].max(initial=NONE))
