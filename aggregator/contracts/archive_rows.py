"""Complete swaps as columns: what the decoder hands to the archive's tables.

Numbers are in arrays; texts are in one buffer, with an array of their spans. One object per swap
would cost more than all other work on the swap. Knows nothing of Kafka, Redis or ClickHouse.
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
"""The beginning of the span of an absent text, and an absent `block_number`."""

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
"""The text fields of `Swap`, in the order of `SwapRows.spans`."""

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
"""The numbers of a swap and of its Kafka record that SWAP does not hold.

`recorded` is the record's timestamp and `watermark` the partition's watermark after the record,
both ms since the epoch; `size` is the length of the record's value in bytes.
"""


class SwapRows(msgspec.Struct, frozen=True, gc=False):
    """Swaps of one partition in log order; the first three arrays have one entry per swap.

    `swaps` has dtype SWAP (`token`, `symbol` and `n` are not filled), `rows` has dtype ROW. `spans`
    (int32) is [swap, index in TEXTS, (begin, end)]: byte ranges in `text` (uint8, UTF-8). `text`
    may also hold bytes that no span covers.
    """

    swaps: Array
    rows: Array
    spans: Array
    text: Array

    def __len__(self) -> int:
        return len(self.swaps)

    def part(self, begin: int, end: int) -> SwapRows:
        """Return the swaps [begin, end), as views of the same memory."""
        return SwapRows(
            self.swaps[begin:end], self.rows[begin:end], self.spans[begin:end], self.text
        )

    def texts(self, place: int) -> tuple[str | None, ...]:
        """Return the texts of one swap, in the order of TEXTS."""
        return tuple(
            None if begin == ABSENT else self.text[begin:end].tobytes().decode()
            for begin, end in self.spans[place].tolist()
        )


def as_rows(swaps: Sequence[Swap]) -> SwapRows:
    """Convert decoded swaps to rows; the columns that describe the Kafka record stay 0."""
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
