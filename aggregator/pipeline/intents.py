"""What an archiver promises in the commit metadata of its group, and how its batches are cut.

Before an insert the archiver commits its position with the intent: which offsets, and what the
markers decided of each. Whoever owns the partition next does exactly that batch again, with the
same tokens (DESIGN 4 rule 9). Pure.
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from aggregator.contracts.event import Swap
from aggregator.errors import Fatal
from aggregator.stores.clickhouse.writer import Block, Span, day_of

# What a broker takes unless told otherwise (offset.metadata.max.bytes).
MAX_METADATA: Final = 4_096
# A batch of more days is cut: each is a block of its own, and small blocks are dear.
MAX_DAYS: Final = 16
MAX_GAPS: Final = 8
_MAX_SPAN: Final = 1_000_000
_NOT_ARCHIVED: Final = "X"
_ARCHIVED: Final = frozenset("CLUV")


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


class Decided(msgspec.Struct):
    """Records of one partition in log order, with what the markers decided, as columns.

    `watermarks` are those behind each record, `recorded` the records' timestamps, `sizes` the bytes
    of their values. Records that cannot be decoded are not here.
    """

    offsets: list[int] = []
    swaps: list[Swap] = []
    verdicts: list[str] = []
    watermarks: list[int] = []
    recorded: list[int] = []
    sizes: list[int] = []

    def __len__(self) -> int:
        return len(self.offsets)

    def _columns(self) -> tuple[list[Any], ...]:
        return (
            self.offsets,
            self.swaps,
            self.verdicts,
            self.watermarks,
            self.recorded,
            self.sizes,
        )

    def take(self, count: int) -> Decided:
        """The first `count` records, which are removed."""
        columns = self._columns()
        taken = [column[:count] for column in columns]
        for column in columns:
            del column[:count]
        return Decided(*taken)

    def blocks(self, partition: int, ingested_at: int) -> list[Block]:
        """What is to be archived, a block for each day in the order in which the days begin."""
        days: dict[int, list[int]] = {}
        for index, verdict in enumerate(self.verdicts):
            if verdict in _ARCHIVED:
                days.setdefault(day_of(self.swaps[index].timestamp), []).append(index)
        if len(days) == 1 and len(next(iter(days.values()))) == len(self):
            (day,) = days
            return [Block(partition, day, self.offsets, self.swaps, self.verdicts, ingested_at)]
        return [
            Block(
                partition,
                day,
                [self.offsets[index] for index in chosen],
                [self.swaps[index] for index in chosen],
                [self.verdicts[index] for index in chosen],
                ingested_at,
            )
            for day, chosen in days.items()
        ]


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


def span_of(block: Block) -> Span:
    """Where a block lies."""
    return Span(block.day, block.offsets[0], block.offsets[-1])


def cut(
    decided: Decided,
    partition: int,
    gaps: Sequence[tuple[int, int]],
    *,
    max_rows: int,
    now_ms: int,
) -> Batch:
    """Take a batch off the front: as many records as an intent and a block can hold.

    `decided` must not be empty.
    """
    count = _within_days(decided, min(len(decided), max_rows))
    while True:
        intent = _intent(decided, count, now_ms)
        watermark, claimed_to = decided.watermarks[count - 1], decided.offsets[count - 1] + 1
        after = Position(watermark, claimed_to, list(gaps)[-MAX_GAPS:])
        promised = msgspec.structs.replace(after, intent=intent)
        if len(pack(promised)) <= MAX_METADATA or count == 1:
            break
        count = count * 2 // 3
    taken = decided.take(count)
    blocks = taken.blocks(partition, now_ms)
    return Batch(
        intent,
        after,
        blocks,
        sum(len(block.offsets) for block in blocks),
        sum(taken.sizes),
        taken.recorded[0],
    )


def _within_days(decided: Decided, count: int) -> int:
    """How many of the first `count` records lie in at most MAX_DAYS days, and near each other."""
    first = decided.offsets[0]
    if decided.offsets[count - 1] - first >= _MAX_SPAN:
        count = next(n for n in range(count) if decided.offsets[n] - first >= _MAX_SPAN)
    days: set[int] = set()
    for index in range(count):
        days.add(day_of(decided.swaps[index].timestamp))
        if len(days) > MAX_DAYS:
            return index
    return count


def _intent(decided: Decided, count: int, now_ms: int) -> Intent:
    offsets, verdicts = decided.offsets[:count], decided.verdicts[:count]
    first, last = offsets[0], offsets[-1]
    if last - first + 1 == count:
        letters = "".join(verdicts)
    else:
        places = [_NOT_ARCHIVED] * (last - first + 1)
        for offset, verdict in zip(offsets, verdicts, strict=True):
            places[offset - first] = verdict
        letters = "".join(places)
    packed = base64.b85encode(zlib.compress(letters.encode(), 9)).decode()
    spans: dict[int, list[int]] = {}
    for offset, swap, verdict in zip(offsets, decided.swaps, verdicts, strict=False):
        if verdict in _ARCHIVED:
            spans.setdefault(day_of(swap.timestamp), [offset, offset])[1] = offset
    return Intent(
        first, last, now_ms, [(day, low, high) for day, (low, high) in spans.items()], packed
    )


def again(
    intent: Intent, partition: int, offsets: Sequence[int], swaps: Sequence[Swap]
) -> list[Block]:
    """The blocks of an intent, made again from the records of the log that it names.

    `offsets` and `swaps` are of the decodable records of [first, last]. Raises Fatal where the log
    does not hold what was decided.
    """
    letters = intent.letters()
    decided = Decided(
        list(offsets), list(swaps), [letters[offset - intent.first] for offset in offsets]
    )
    blocks = decided.blocks(partition, intent.decided_at)
    expected = sum(letter in _ARCHIVED for letter in letters)
    if [span_of(block) for block in blocks] != intent.places() or expected != sum(
        len(block.offsets) for block in blocks
    ):
        raise Fatal(
            f"partition {partition}: the records {intent.first} to {intent.last} are not those "
            "that were to be archived: MAX_FUTURE was changed, or the topic was made anew"
        )
    return blocks
