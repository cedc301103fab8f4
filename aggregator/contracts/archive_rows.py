"""Many swaps whole, as columns: what the archive keeps of each, between the decoder and its tables.

Numbers stand in arrays, texts in one buffer with their places beside them; an object for every swap
would cost more than all else that is done to it. Knows nothing of Kafka, Redis or ClickHouse.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import SWAP, fill
from aggregator.contracts.event import Swap

ABSENT: Final = -1
"""Where a text begins that is None, and the `block_number` that is."""

TEXTS: Final = (
    "chain",
    "token",
    "tx_hash",
    "block_hash",
    "symbol",
    "quote",
    "venue",
    "pool",
    "trader",
)
"""The fields of `Swap` that are texts, in the order of `SwapRows.spans`."""

ROW: Final = np.dtype(
    [
        ("log_index", np.int64),
        ("block_number", np.int64),
        ("recorded", np.int64),
        ("watermark", np.int64),
        ("size", np.int64),
        ("marker", "V16"),
        ("removed", np.bool_),
    ],
    align=True,
)
"""What SWAP lacks of a swap and of its record in the log.

`recorded` is the record's timestamp and `watermark` that of the partition behind it (ms since the
epoch), `size` the bytes of its value.
"""


class SwapRows(msgspec.Struct, frozen=True, gc=False):
    """Swaps of one partition in log order; the first three have one entry a swap.

    `swaps` is an array of SWAP, of which `token`, `symbol` and `n` are not filled, `rows` of ROW.
    `spans` (int32) are [swap, place in TEXTS, (begin, end)] of the UTF-8 in `text` (uint8), which
    may hold more.
    """

    swaps: Array
    rows: Array
    spans: Array
    text: Array

    def __len__(self) -> int:
        return len(self.swaps)

    def part(self, begin: int, end: int) -> SwapRows:
        """The swaps [begin, end), which share the memory of all."""
        return SwapRows(
            self.swaps[begin:end], self.rows[begin:end], self.spans[begin:end], self.text
        )

    def texts(self, place: int) -> tuple[str | None, ...]:
        """The texts of one swap, in the order of TEXTS."""
        return tuple(
            None if begin == ABSENT else self.text[begin:end].tobytes().decode()
            for begin, end in self.spans[place].tolist()
        )


def as_rows(swaps: Sequence[Swap]) -> SwapRows:
    """Decoded swaps as rows; what is of their records is 0."""
    numbers, rows = np.zeros(len(swaps), SWAP), np.zeros(len(swaps), ROW)
    spans = np.full((len(swaps), len(TEXTS), 2), ABSENT, np.int32)
    text = bytearray()
    for place, swap in enumerate(swaps):
        fill(numbers[place], swap)
        row = rows[place]
        row["log_index"] = swap.log_index
        row["block_number"] = ABSENT if swap.block_number is None else swap.block_number
        row["marker"] = swap.marker
        row["removed"] = swap.removed
        for field, name in enumerate(TEXTS):
            value = getattr(swap, name)
            if value is not None:
                begin = len(text)
                text += value.encode()
                spans[place, field] = begin, len(text)
    return SwapRows(numbers, rows, spans, np.frombuffer(text, np.uint8))


class ArchivedMarker(NamedTuple):
    """What the archive knows of the marker of one row; `verdict` is a letter of C, L, U, V."""

    marker: bytes
    partition: int
    offset: int
    removed: bool
    verdict: str
