"""Random logs for the tests of the decided ids, and the columns that such a log decodes to."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT, RECORD, SWAP, TEXTS, Swaps
from tests.spec.seen import BLOCK, LogRecordSpec


def columns(records: Sequence[LogRecordSpec]) -> tuple[Swaps, Array]:
    """Return the records as `Swaps`, and which are away."""
    count = len(records)
    made = Swaps(
        swaps=np.zeros(count, SWAP),
        records=np.zeros(count, RECORD),
        markers=np.zeros((count, 2), np.uint64),
        spans=np.full((count, len(TEXTS), 2), ABSENT, np.int32),
        text=np.empty(0, np.uint8),
        token_names=[],
    )
    for i, record in enumerate(records):
        made.swaps[i]["offset"] = record.offset
        made.swaps[i]["timestamp"] = record.event_time
        made.records[i]["recorded"] = record.timestamp
        made.records[i]["removed"] = record.removed
        made.records[i]["bad"] = record.bad
        made.records[i]["block_check"] = record.block
        partition, offset = record.origin or (ABSENT, ABSENT)
        made.records[i]["origin_partition"], made.records[i]["origin_offset"] = partition, offset
        made.markers[i] = np.frombuffer(record.id, np.uint64)
    return made, np.array([record.away for record in records], np.bool_)


class Streams:
    """Random logs of one partition.

    The records are mostly of a few ids that are added, retracted and added again in changing
    blocks; others come once. Timestamps are skewed, forwards are repeated, quiet times last longer
    than `ttl`, and offsets are missing, sometimes those of many blocks.
    """

    def __init__(self, seed: int, *, ttl: int, offset: int = 0) -> None:
        self._random = random.Random(seed)
        self._ttl = ttl
        self._offset = offset
        self._now = 10_000
        self._ids = [self._random.randbytes(16) for _ in range(self._random.choice((3, 12, 40)))]
        # Ids whose first 64 bits are equal lie side by side in any table.
        self._ids += [self._ids[0][:8] + self._random.randbytes(8) for _ in range(2)]
        self._sent: dict[int, int] = {}

    def batches(self, records: int) -> Iterator[list[LogRecordSpec]]:
        """Yield batches of some records, `records` in all."""
        while records > 0:
            size = min(records, self._random.choice((1, 2, 7, 50, 300)))
            yield [self._record() for _ in range(size)]
            records -= size

    def ids(self) -> list[bytes]:
        """The ids that come again and again."""
        return self._ids

    def skip(self, offsets: int) -> None:
        """Leave out so many offsets."""
        self._offset += offsets

    def _record(self) -> LogRecordSpec:
        draw = self._random
        self._offset += self._hole()
        self._now += self._pause()
        record = LogRecordSpec(
            offset=self._offset,
            id=draw.choice(self._ids) if draw.random() < 0.7 else draw.randbytes(16),
            event_time=self._now - draw.choice((0, 0, 0, 3, 30, 59, 60, 61, 90, -5)),
            timestamp=self._now + draw.choice((0, 0, 0, -8, 5)),
            removed=draw.random() < 0.4,
            block=draw.choice((0, 0, 1, 1, 2, 4095)),
            bad=draw.random() < 0.03,
            away=draw.random() < 0.05,
            origin=self._origin() if draw.random() < 0.2 else None,
        )
        self._offset += 1
        return record

    def _hole(self) -> int:
        draw = self._random
        if draw.random() < 0.9:
            return 0
        return draw.choice((1, 3, 500, 3000, BLOCK, 5 * BLOCK + 17))

    def _pause(self) -> int:
        draw = self._random
        if draw.random() < 0.97:
            return draw.choice((0, 0, 1, 1))
        return draw.choice((10, self._ttl // 2, self._ttl, self._ttl + 1, 3 * self._ttl))

    def _origin(self) -> tuple[int, int]:
        draw = self._random
        partition = draw.choice((0, 1, 7, 2**31 - 1))
        sent = self._sent.get(partition, draw.choice((-1, 2**33)))
        offset = max(0, sent + draw.choice((1, 1, 2, 9, 0, -3)))
        self._sent[partition] = max(sent, offset)
        return partition, offset
