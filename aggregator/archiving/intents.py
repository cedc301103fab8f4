"""The intent that an archiver commits before each insert, and how its batches are cut.

Before an insert the archiver commits its position together with the intent: the offsets of the
batch and what the markers decided about each of them. The next owner of the partition repeats
exactly that batch with the same tokens (DESIGN 4 rule 10), so ClickHouse drops whatever it already
has. This module does no input or output.
"""

from __future__ import annotations

import base64
import zlib
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from aggregator.clickhouse.writer import ArchiveBlock, Span, day_of
from aggregator.contracts.archive_rows import ROW, SwapRows
from aggregator.contracts.arrays import Array
from aggregator.decoding.rows import picked
from aggregator.runtime.errors import Fatal

# The default limit of a broker for the metadata of a commit (offset.metadata.max.bytes). A broker
# refuses a commit above it, and an insert without a committed intent could be doubled, so `cut`
# shortens the batch until the metadata fits.
MAX_METADATA: Final = 4_096
# Each day of a batch is a block of its own, and small blocks are expensive for ClickHouse.
MAX_DAYS: Final = 16
# Gaps share the 4 KB with the intent, so only the newest are kept; each is also logged.
MAX_GAPS: Final = 8
# Every offset of a span takes a letter, also where the log has no record.
_MAX_SPAN: Final = 1_000_000
_NOT_ARCHIVED: Final = "X"
# Indexed by the letter of a verdict: whether the record is archived.
_ARCHIVES: Final = np.zeros(256, np.bool_)
_ARCHIVES[list(b"CLUV")] = True


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """The offsets [first, last] of a partition that are about to be inserted.

    `verdicts` packs one letter per offset: a `Verdict`, or X where there is nothing to archive.
    `spans` holds (day, first, last) of each block, `decided_at` is in ms since the epoch.
    """

    # The records to read again. Only offsets are kept: the log holds the records themselves.
    first: int
    last: int
    # It becomes `ingested_at` of the rows, so a redo writes the same rows. It also bounds how many
    # tokens ClickHouse has noted since, and thereby whether it can still know those of this batch.
    decided_at: int
    # A block's token is made of its span. With the spans the next owner can look up every block,
    # or take its token, even after the log has deleted the records.
    spans: list[tuple[int, int, int]]
    # The next owner does not ask the markers again: an intent is redone before the check-in, when
    # Redis may have lost them.
    verdicts: str

    def letters(self) -> str:
        """Return one letter for each offset of [first, last]."""
        return zlib.decompress(base64.b85decode(self.verdicts)).decode()

    def block_spans(self) -> list[Span]:
        """Return where the blocks of the batch lie."""
        return [Span(*span) for span in self.spans]


class LogPosition(msgspec.Struct, frozen=True, array_like=True):
    """How far an archiver is in a partition; the metadata beside the committed offset.

    `watermark` and `claimed_to` (the end offset of the last claim) hold at the end of the intent's
    batch if there is an intent, else at the committed offset. `gaps` holds the newest ranges
    [first, end) that the log no longer held when they were to be archived.
    """

    # The next owner decides lateness from here, as the windows do.
    watermark: int | None = None
    # The check-in compares it with the offsets that Redis has seen.
    claimed_to: int = 0
    # Kept here so that /api/status still shows them after a takeover.
    gaps: list[tuple[int, int]] = []
    intent: Intent | None = None


def pack(position: LogPosition) -> str:
    """Return the commit metadata of a position; at most MAX_METADATA bytes for one of `cut`."""
    return _encode(position).decode()


def unpack(metadata: str) -> LogPosition:
    """Read a position from commit metadata; "" gives the position of a group without commits.

    Raises Fatal if no archiver wrote the metadata.
    """
    if not metadata:
        return LogPosition()
    try:
        return _decode(metadata)
    except msgspec.DecodeError as error:
        raise Fatal(
            f"the group's commit metadata is not an archiver's ({metadata[:80]!r}): {error}. "
            "Give ARCHIVER_GROUP a name of its own"
        ) from error


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(LogPosition).decode


class SwapQueue:
    """A queue of swaps of one partition in log order, kept in the parts in which they arrived."""

    def __init__(self) -> None:
        self._parts: deque[SwapRows] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, swaps: SwapRows) -> None:
        """Append swaps that follow all others in the log."""
        if len(swaps):
            self._parts.append(swaps)
            self._count += len(swaps)

    def first(self, count: int) -> list[SwapRows]:
        """Return the first `count` swaps, or all if there are fewer."""
        found = []
        for part in self._parts:
            if count <= 0:
                break
            found.append(part if len(part) <= count else part.part(0, count))
            count -= len(part)
        return found

    def take(self, count: int) -> list[SwapRows]:
        """Remove the first `count` swaps and return them."""
        taken = self.first(count)
        for part in taken:
            whole = self._parts.popleft()
            self._count -= len(part)
            if len(part) < len(whole):
                self._parts.appendleft(whole.part(len(part), len(whole)))
        return taken

    def below(self, offset: int) -> int:
        """Return how many swaps lie below this offset."""
        return sum(int(np.searchsorted(part.swaps["offset"], offset)) for part in self._parts)

    @property
    def first_offset(self) -> int:
        """The offset of the first swap; the queue must not be empty."""
        return int(self._parts[0].swaps["offset"][0])

    @property
    def oldest(self) -> int:
        """The timestamp (ms) of the first swap's record; the queue must not be empty."""
        return int(self._parts[0].rows["recorded"][0])


def column(parts: Sequence[SwapRows], name: str) -> Array:
    """Return a field of SWAP or ROW, joined over all parts."""
    of_rows = name in (ROW.names or ())
    return np.concatenate([(part.rows if of_rows else part.swaps)[name] for part in parts])


def blocks_of(parts: Sequence[SwapRows], partition: int, ingested_at: int) -> list[ArchiveBlock]:
    """Group the swaps that are archived into one block per UTC day.

    The days come in the order in which they first occur in the log.
    """
    # A UTC day is a partition of the table. ClickHouse splits a block that spans two of them, and
    # one token cannot cover both halves.
    days: dict[int, list[tuple[SwapRows, Array]]] = {}
    for part in parts:
        archived, day = _ARCHIVES[part.swaps["verdict"]], day_of(part.swaps["timestamp"])
        for each in dict.fromkeys(day[archived].tolist()):
            places = np.flatnonzero(archived & (day == each))
            days.setdefault(each, []).append((part, places))
    return [ArchiveBlock(partition, day, picked(those), ingested_at) for day, those in days.items()]


class InsertBatch(msgspec.Struct, frozen=True):
    """What one intent covers; `after` is the position once the batch is archived.

    `size` is the bytes of the records' values, `oldest` the timestamp of the first record in ms
    since the epoch.
    """

    intent: Intent
    after: LogPosition
    blocks: list[ArchiveBlock]
    rows: int
    size: int
    oldest: int

    @property
    def promised(self) -> LogPosition:
        """The position to commit before the batch is inserted."""
        return msgspec.structs.replace(self.after, intent=self.intent)

    @property
    def next_offset(self) -> int:
        """The end offset of the batch."""
        return self.intent.last + 1


def batch_of(
    intent: Intent, after: LogPosition, parts: Sequence[SwapRows], blocks: list[ArchiveBlock]
) -> InsertBatch:
    """Build the batch of these records."""
    return InsertBatch(
        intent,
        after,
        blocks,
        sum(len(block.swaps) for block in blocks),
        sum(int(part.rows["size"].sum()) for part in parts),
        int(parts[0].rows["recorded"][0]) if parts else intent.decided_at,
    )


def span_of(block: ArchiveBlock) -> Span:
    """Return where a block lies."""
    offsets = block.swaps.swaps["offset"]
    return Span(block.day, int(offsets[0]), int(offsets[-1]))


def cut(
    decided: SwapQueue,
    partition: int,
    gaps: Sequence[tuple[int, int]],
    *,
    max_rows: int,
    now_ms: int,
) -> InsertBatch:
    """Take a batch off the front: as many swaps as an intent and a block can hold.

    `decided` must not be empty. `gaps` are those of the partition so far; the newest travel with
    the position.
    """
    parts = decided.first(max_rows)
    offsets, verdicts = column(parts, "offset"), column(parts, "verdict")
    days, watermarks = day_of(column(parts, "timestamp")), column(parts, "watermark")
    count = _within_days(offsets, days)
    # How far the letters compress depends on the verdicts: equal ones take a few bytes for 50,000
    # offsets, random ones fill 4 KB after some thousands. So measure, and shorten until it fits;
    # a single swap always does.
    while True:
        intent = _intent(offsets[:count], days[:count], verdicts[:count], now_ms)
        after = LogPosition(
            int(watermarks[count - 1]), int(offsets[count - 1]) + 1, list(gaps)[-MAX_GAPS:]
        )
        promised = msgspec.structs.replace(after, intent=intent)
        if len(pack(promised)) <= MAX_METADATA or count == 1:
            break
        count = count * 2 // 3
    taken = decided.take(count)
    return batch_of(intent, after, taken, blocks_of(taken, partition, now_ms))


def _within_days(offsets: Array, days: Array) -> int:
    """Return how many of the first swaps lie in at most MAX_DAYS days and _MAX_SPAN offsets."""
    count = int(np.searchsorted(offsets, offsets[0] + _MAX_SPAN))
    _, begins = np.unique(days[:count], return_index=True)
    return count if len(begins) <= MAX_DAYS else int(np.sort(begins)[MAX_DAYS])


def _intent(offsets: Array, days: Array, verdicts: Array, now_ms: int) -> Intent:
    first, last = int(offsets[0]), int(offsets[-1])
    # One letter for every offset of the range: its place alone says which offset it is about.
    letters = np.full(last - first + 1, ord(_NOT_ARCHIVED), np.uint8)
    letters[offsets - first] = verdicts
    # The alphabet of base85 has neither a quote nor a backslash, so JSON adds no escapes.
    packed = base64.b85encode(zlib.compress(letters.tobytes(), 9)).decode()
    archived = _ARCHIVES[verdicts]
    offsets, days = offsets[archived], days[archived]
    spans = []
    for day in dict.fromkeys(days.tolist()):
        of_day = offsets[days == day]
        spans.append((day, int(of_day[0]), int(of_day[-1])))
    return Intent(first, last, now_ms, spans, packed)


def rebuild_blocks(intent: Intent, partition: int, parts: Sequence[SwapRows]) -> list[ArchiveBlock]:
    """Build the blocks of an intent again from the records that it names.

    `parts` are the decodable records of [first, last]. Raises Fatal if the log does not hold what
    was decided.
    """
    letters = np.frombuffer(intent.letters().encode(), np.uint8)
    for part in parts:
        part.swaps["verdict"] = letters[part.swaps["offset"] - intent.first]
    blocks = blocks_of(parts, partition, intent.decided_at)
    # ClickHouse drops a block by its token without a look at its rows. Other rows under a token
    # that is taken would be lost without notice, so stop here if the records changed.
    spans, rows = [span_of(block) for block in blocks], sum(len(block.swaps) for block in blocks)
    if spans != intent.block_spans() or rows != _ARCHIVES[letters].sum():
        raise Fatal(
            f"partition {partition}: the records {intent.first} to {intent.last} are not those "
            "that were to be archived: MAX_FUTURE was changed, or the topic was created again"
        )
    return blocks
