"""Swaps as columns: the one batch that the decoder makes and both sinks consume.

One object per swap would cost more than counting the swap. A batch is therefore a few arrays with
one entry per record, plus one buffer with the texts. Knows nothing of Kafka, Redis or the windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array

ABSENT: Final = -1
"""The beginning of the span of an absent text; an absent `block_number`; no origin partition."""

UNPRICED: Final = -1
"""`usd` of a swap without a USD value."""

TRADES_A_MINUTE: Final = 2**20
"""A token's first trade gets the number of its minute times this.

When a token is forgotten and trades again later, its new numbers are therefore above its old ones.
"""

SWAP: Final = np.dtype(
    [
        ("token", np.int32),
        ("symbol", np.int32),
        ("verdict", np.uint8),
        ("buy", np.uint8),
        ("timestamp", np.int64),
        ("block_number", np.int64),
        ("log_index", np.int64),
        ("offset", np.int64),
        ("usd", np.int64),
        ("amount_low", np.int64),
        ("amount_mid", np.int64),
        ("amount_high", np.int64),
        ("price", np.float64),
        ("trader", np.uint64),
        ("n", np.int64),
    ],
    align=True,
)
"""The numbers of one swap that the windows need.

`usd` is micro-USD or UNPRICED. The three amounts are the digits, base 10^18, of the amount in
10^-18 token. `price` is NaN where unknown, `block_number` ABSENT where unknown. `trader` is
`trader_key` of the trader. (timestamp, block_number, log_index, offset) is the order of trading.
The sinks fill the other fields: `token` and `symbol` are numbers of the window engine, `verdict` is
the letter of a `Verdict`, and `n` numbers the trades of the token without a gap (0 where the swap
is not a trade).
"""

RECORD: Final = np.dtype(
    [
        ("recorded", np.int64),
        ("origin_offset", np.int64),
        ("origin_partition", np.int32),
        ("size", np.int32),
        ("name", np.int32),
        ("block_check", np.uint16),
        ("removed", np.bool_),
        ("bad", np.bool_),
        ("leg", np.uint8),
        ("reserve_token", np.float64),
        ("reserve_quote", np.float64),
    ],
    align=True,
)
"""The other numbers of a record.

`recorded` is the record's timestamp (ms) and `size` the bytes of its value. A forwarded record has
the partition and offset that it was forwarded from, other records ABSENT. `name` is the index of
its `TokenName` (ABSENT in a bad record), `block_check` 12 bits of the block hash (0: none), `leg` 0
or 1. The reserves are NaN where unknown. `bad` marks a record that is no swap: of its other
columns only `recorded`, `size`, the origin and SWAP's `offset` mean anything.
"""

TEXTS: Final = (
    "chain",
    "token",
    "tx_hash",
    "block_hash",
    "symbol",
    "quote",
    "quote_token",
    "venue",
    "pool",
    "trader",
)
"""The text fields of `Swap`, in the order of `Swaps.spans`."""


class TokenName(NamedTuple):
    """A token and the symbol that a swap gives it; the swaps of a batch share these pairs."""

    token_id: str
    symbol: str | None


class Swaps(msgspec.Struct, frozen=True, gc=False):
    """Consecutive records of one partition in log order; every array has one entry per record.

    `swaps` has dtype SWAP, `records` dtype RECORD. `markers` (uint64, [record, 2]) are the 16 bytes
    of `Swap.marker`. `spans` (int32) is [record, index in TEXTS, (begin, end)]: byte ranges in
    `text` (uint8, UTF-8), which may also hold bytes that no span covers. `token_names` are shared
    with other batches.
    """

    swaps: Array
    records: Array
    markers: Array
    spans: Array
    text: Array
    token_names: Sequence[TokenName]

    def __len__(self) -> int:
        return len(self.swaps)

    @property
    def offsets(self) -> Array:
        """The offsets of the records, ascending (int64)."""
        offsets: Array = self.swaps["offset"]
        return offsets

    def part(self, begin: int, end: int) -> Swaps:
        """Return the records [begin, end), as views of the same memory."""
        return Swaps(
            self.swaps[begin:end],
            self.records[begin:end],
            self.markers[begin:end],
            self.spans[begin:end],
            self.text,
            self.token_names,
        )

    def texts(self, place: int) -> tuple[str | None, ...]:
        """Return the texts of one record, in the order of TEXTS."""
        return tuple(
            None if begin == ABSENT else self.text[begin:end].tobytes().decode()
            for begin, end in self.spans[place].tolist()
        )
