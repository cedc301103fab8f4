"""What an archiver promises in the commit metadata of its group, and how its batches are cut.

Before an insert the archiver commits its position with the intent: which offsets, and what the
markers decided of each. Whoever owns the partition next does exactly that batch again, with the
same tokens (DESIGN 4 rule 9). Pure.
"""

from __future__ import annotations

import base64
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from aggregator.clickhouse.writer import Block, Span, day_of
from aggregator.contracts.archive_rows import ROW, SwapRows
from aggregator.contracts.arrays import Array
from aggregator.decoding.rows import picked
from aggregator.runtime.errors import Fatal

# What a broker takes unless told otherwise (offset.metadata.max.bytes).
MAX_METADATA: Final = 4_096
# A batch of more days is cut: each is a block of its own, and small blocks are dear.
MAX_DAYS: Final = 16
MAX_GAPS: Final = 8
_MAX_SPAN: Final = 1_000_000
_NOT_ARCHIVED: Final = "X"
# By the letter of a verdict, whether it is archived.
_ARCHIVES: Final = np.zeros(256, np.bool_)
_ARCHIVES[list(b"CLUV")] = True


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """The offsets [first, last] of a partition, about to be inserted.

    `verdicts` are a letter an offset, packed: as of `Verdict`, X where there is nothing to archive.
    `spans` are (day, first, last) of its blocks, `decided_at` is in ms since the epoch.
    """

    first: int
    last: int
    decided_at: int
    spans: list[tuple[int, int, int]]
    verdicts: str

    def letters(self) -> str:
        """A letter for each offset of [first, last]."""
        return zlib.decompress(base64.b85decode(self.verdicts)).decode()

    def places(self) -> list[Span]:
        """Where its blocks lie."""
        return [Span(*span) for span in self.spans]


class Position(msgspec.Struct, frozen=True, array_like=True):
    """How far an archiver is in a partition, beside the committed offset.

    `watermark` and `claimed_to` (the offset behind the last claim) are those behind the intent's
    batch where there is one, else those at the committed offset. `gaps` are the newest offsets
    (first, behind the last) that the log no longer held when they were to be archived.
    """

    watermark: int | None = None
    claimed_to: int = 0
    gaps: list[tuple[int, int]] = []
    intent: Intent | None = None


def pack(position: Position) -> str:
    """The commit metadata of a position: at most MAX_METADATA bytes if `cut` made its batch."""
    return _encode(position).decode()


def unpack(metadata: str) -> Position:
    """The inverse of `pack`; "" is the position of a group that has not begun."""
    if not metadata:
        return Position()
    try:
        return _decode(metadata)
    except msgspec.DecodeError as error:
        raise Fatal(
            f"the group's commit metadata is not an archiver's ({metadata[:80]!r}): {error}. "
            "Give ARCHIVER_GROUP a name of its own"
        ) from error


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Position).decode


class Held:
    """Swaps of one partition in log order, in the parts in which they came."""

    def __init__(self) -> None:
        self._parts: deque[SwapRows] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, swaps: SwapRows) -> None:
        """Swaps behind all others."""
        if len(swaps):
            self._parts.append(swaps)
            self._count += len(swaps)

    def first(self, count: int) -> list[SwapRows]:
        """The first `count` swaps, or all."""
        found = []
        for part in self._parts:
            if count <= 0:
                break
            found.append(part if len(part) <= count else part.part(0, count))
            count -= len(part)
        return found

    def take(self, count: int) -> list[SwapRows]:
        """The first `count` swaps, which are removed."""
        taken = self.first(count)
        for part in taken:
            whole = self._parts.popleft()
            self._count -= len(part)
            if len(part) < len(whole):
                self._parts.appendleft(whole.part(len(part), len(whole)))
        return taken

    def below(self, offset: int) -> int:
        """How many lie below this offset."""
        return sum(int(np.searchsorted(part.swaps["offset"], offset)) for part in self._parts)

    @property
    def first_offset(self) -> int:
        """The offset of the first swap; there must be one."""
        return int(self._parts[0].swaps["offset"][0])

    @property
    def oldest(self) -> int:
        """The timestamp of the first swap's record."""
        return int(self._parts[0].rows["recorded"][0])


def column(parts: Sequence[SwapRows], name: str) -> Array:
    """A field of SWAP or ROW of all parts."""
    of_rows = name in (ROW.names or ())
    return np.concatenate([(part.rows if of_rows else part.swaps)[name] for part in parts])


def blocks_of(parts: Sequence[SwapRows], partition: int, ingested_at: int) -> list[Block]:
    """What is to be archived, a block for each day in the order in which the days begin."""
    days: dict[int, list[tuple[SwapRows, Array]]] = {}
    for part in parts:
        archived, day = _ARCHIVES[part.swaps["verdict"]], day_of(part.swaps["timestamp"])
        for each in dict.fromkeys(day[archived].tolist()):
            places = np.flatnonzero(archived & (day == each))
            days.setdefault(each, []).append((part, places))
    return [Block(partition, day, picked(those), ingested_at) for day, those in days.items()]


class Batch(msgspec.Struct, frozen=True):
    """What one intent covers; `after` is the position behind it.

    `size` is the bytes of its records' values, `oldest` the timestamp of its first record.
    """

    intent: Intent
    after: Position
    blocks: list[Block]
    rows: int
    size: int
    oldest: int

    @property
    def promised(self) -> Position:
        """The position to commit before the batch is inserted."""
        return msgspec.structs.replace(self.after, intent=self.intent)

    @property
    def next_offset(self) -> int:
        """The offset behind the batch."""
        return self.intent.last + 1


def batch_of(
    intent: Intent, after: Position, parts: Sequence[SwapRows], blocks: list[Block]
) -> Batch:
    """The batch of these records."""
    return Batch(
        intent,
        after,
        blocks,
        sum(len(block.swaps) for block in blocks),
        sum(int(part.rows["size"].sum()) for part in parts),
        int(parts[0].rows["recorded"][0]) if parts else intent.decided_at,
    )


def span_of(block: Block) -> Span:
    """Where a block lies."""
    offsets = block.swaps.swaps["offset"]
    return Span(block.day, int(offsets[0]), int(offsets[-1]))


def cut(
    decided: Held,
    partition: int,
    gaps: Sequence[tuple[int, int]],
    *,
    max_rows: int,
    now_ms: int,
) -> Batch:
    """Take a batch off the front: as many swaps as an intent and a block can hold.

    `decided` must not be empty.
    """
    parts = decided.first(max_rows)
    offsets, verdicts = column(parts, "offset"), column(parts, "verdict")
    days, watermarks = day_of(column(parts, "timestamp")), column(parts, "watermark")
    count = _within_days(offsets, days)
    while True:
        intent = _intent(offsets[:count], days[:count], verdicts[:count], now_ms)
        after = Position(
            int(watermarks[count - 1]), int(offsets[count - 1]) + 1, list(gaps)[-MAX_GAPS:]
        )
        promised = msgspec.structs.replace(after, intent=intent)
        if len(pack(promised)) <= MAX_METADATA or count == 1:
            break
        count = count * 2 // 3
    taken = decided.take(count)
    return batch_of(intent, after, taken, blocks_of(taken, partition, now_ms))


def _within_days(offsets: Array, days: Array) -> int:
    """How many of the first swaps lie in at most MAX_DAYS days, and near each other."""
    count = int(np.searchsorted(offsets, offsets[0] + _MAX_SPAN))
    _, begins = np.unique(days[:count], return_index=True)
    return count if len(begins) <= MAX_DAYS else int(np.sort(begins)[MAX_DAYS])


def _intent(offsets: Array, days: Array, verdicts: Array, now_ms: int) -> Intent:
    first, last = int(offsets[0]), int(offsets[-1])
    letters = np.full(last - first + 1, ord(_NOT_ARCHIVED), np.uint8)
    letters[offsets - first] = verdicts
    packed = base64.b85encode(zlib.compress(letters.tobytes(), 9)).decode()
    archived = _ARCHIVES[verdicts]
    offsets, days = offsets[archived], days[archived]
    spans = []
    for day in dict.fromkeys(days.tolist()):
        of_day = offsets[days == day]
        spans.append((day, int(of_day[0]), int(of_day[-1])))
    return Intent(first, last, now_ms, spans, packed)


def again(intent: Intent, partition: int, parts: Sequence[SwapRows]) -> list[Block]:
    """The blocks of an intent, made again from the records of the log that it names.

    `parts` are the decodable records of [first, last]. Raises Fatal where the log does not hold
    what was decided.
    """
    letters = np.frombuffer(intent.letters().encode(), np.uint8)
    for part in parts:
        part.swaps["verdict"] = letters[part.swaps["offset"] - intent.first]
    blocks = blocks_of(parts, partition, intent.decided_at)
    rows = sum(len(block.swaps) for block in blocks)
    if [span_of(block) for block in blocks] != intent.places() or rows != _ARCHIVES[letters].sum():
        raise Fatal(
            f"partition {partition}: the records {intent.first} to {intent.last} are not those "
            "that were to be archived: MAX_FUTURE was changed, or the topic was made anew"
        )
    return blocks
