"""Swaps as columns: the decoder produces a batch, the windows consume it.

One object per swap would cost more than counting the swap. A batch is therefore a few arrays, plus
functions that decode a single swap on demand. Knows nothing of Kafka, Redis or the windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import ATTOS_PER_TOKEN, Swap

UNPRICED: Final = -1
"""`usd` of a swap without a USD value."""

MARKER_BYTES: Final = 16

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
"""The numbers of one swap.

`usd` is micro-USD or UNPRICED. The three amounts are the digits, base 10^18, of the amount in
10^-18 token. `price` is NaN where unknown. `trader` comes from `trader_key`. The window engine
fills the other fields when it applies the swap: `token` and `symbol` are its own indexes, `verdict`
is the decision of the markers, and `n` numbers the trades of the token without a gap (0 where the
swap is not a trade).
"""


class TokenName(NamedTuple):
    """A token and the symbol that a swap gives it; the swaps of a batch share these pairs."""

    token_id: str
    symbol: str | None


class SwapTexts(NamedTuple):
    """The texts of a swap, as in `Swap`, with the `log_index` that completes the hash."""

    tx_hash: str
    log_index: int
    trader: str | None
    venue: str | None
    pool: str | None
    quote: str | None


class SwapBatch(msgspec.Struct, frozen=True, gc=False):
    """Swaps of one partition in log order; every column has one entry per swap.

    `swaps` has dtype SWAP, `names` (int32) holds indexes into `token_names`, `removed` is bool.
    `markers` is the concatenation of the markers, MARKER_BYTES each. `swap` returns the complete
    swap at an index by decoding it again, so call it rarely. `texts` returns only what the columns
    do not hold, at a fraction of that cost.
    """

    swaps: Array
    offsets: Sequence[int]
    names: Array
    token_names: Sequence[TokenName]
    removed: Array
    markers: bytes
    swap: Callable[[int], Swap]
    texts: Callable[[int], SwapTexts]

    def __len__(self) -> int:
        return len(self.swaps)


def trader_key(trader: str | None) -> int:
    """Return a 64-bit BLAKE2b hash; 0 means no trader.

    The hash is the same in every process, because snapshots contain it.
    """
    if trader is None:
        return 0
    digest = hashlib.blake2b(trader.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def fill(record: Any, swap: Swap) -> None:
    """Write the numbers of a swap into one record of dtype SWAP."""
    upper, low = divmod(swap.amount_attos, ATTOS_PER_TOKEN)
    record["buy"] = swap.is_buy
    record["timestamp"] = swap.timestamp
    record["usd"] = UNPRICED if swap.usd_micros is None else swap.usd_micros
    record["amount_low"] = low
    record["amount_high"], record["amount_mid"] = divmod(upper, ATTOS_PER_TOKEN)
    record["price"] = np.nan if swap.price_usd is None else swap.price_usd
    record["trader"] = trader_key(swap.trader)


def batch_of(swaps: Sequence[Swap], offsets: Sequence[int]) -> SwapBatch:
    """Convert decoded swaps to a batch."""
    columns = np.zeros(len(swaps), SWAP)
    columns["offset"] = offsets
    for record, swap in zip(columns, swaps, strict=True):
        fill(record, swap)
    return SwapBatch(
        swaps=columns,
        offsets=offsets,
        names=np.arange(len(swaps), dtype=np.int32),
        token_names=[TokenName(swap.token_id, swap.symbol) for swap in swaps],
        removed=np.array([swap.removed for swap in swaps], np.bool_),
        markers=b"".join([swap.marker for swap in swaps]),
        swap=swaps.__getitem__,
        texts=lambda place: texts_of(swaps[place]),
    )


def texts_of(swap: Swap) -> SwapTexts:
    """Return the texts of a decoded swap."""
    return SwapTexts(swap.tx_hash, swap.log_index, swap.trader, swap.venue, swap.pool, swap.quote)
