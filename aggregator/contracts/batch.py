"""Many swaps as columns: what the decoder makes of a batch and the windows take in.

An object for every swap would cost more than all that is counted of it, so a batch is a few arrays
and a way to the whole swap for whoever needs one. Knows nothing of Kafka, Redis or the windows.
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
"""`usd` of a swap without one."""

MARKER_BYTES: Final = 16

TRADES_A_MINUTE: Final = 2**20
"""A token's trades are numbered from the minute of its first one times this.

So the numbers of a token that was forgotten and came back are above those that it had.
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
"""One swap in numbers.

`usd` is micro-USD or UNPRICED, the amounts are digits of base 10^18 of the amount in 10^-18 token,
`price` is NaN where unknown, `trader` as of `trader_key`. `token` and `symbol` are numbers of the
engine that takes the swap in, `verdict` is what the markers said, `n` numbers the trades of the
token without a gap (0 for what is none): they are filled then.
"""


class TokenName(NamedTuple):
    """What the swaps of a batch share: the token, and the symbol that they give it."""

    token_id: str
    symbol: str | None


class SwapTexts(NamedTuple):
    """What of a swap is no number, as in `Swap`, and the `log_index` beside its hash."""

    tx_hash: str
    log_index: int
    trader: str | None
    venue: str | None
    pool: str | None
    quote: str | None


class SwapBatch(msgspec.Struct, frozen=True, gc=False):
    """Swaps of one partition in log order; every column has one entry a swap.

    `swaps` is an array of SWAP, `names` (int32) places in `token_names`, `removed` bool. `markers`
    are joined, MARKER_BYTES each. `swap` gives the whole swap at a place: it is decoded again, so
    ask for few. `texts` gives what the columns lack of it, at a quarter of the cost.
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
    """A 64-bit hash (BLAKE2b), the same in every process: snapshots hold it. 0 is no trader."""
    if trader is None:
        return 0
    digest = hashlib.blake2b(trader.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def fill(record: Any, swap: Swap) -> None:
    """Write a swap's numbers into one record of SWAP."""
    upper, low = divmod(swap.amount_attos, ATTOS_PER_TOKEN)
    record["buy"] = swap.is_buy
    record["timestamp"] = swap.timestamp
    record["usd"] = UNPRICED if swap.usd_micros is None else swap.usd_micros
    record["amount_low"] = low
    record["amount_high"], record["amount_mid"] = divmod(upper, ATTOS_PER_TOKEN)
    record["price"] = np.nan if swap.price_usd is None else swap.price_usd
    record["trader"] = trader_key(swap.trader)


def batch_of(swaps: Sequence[Swap], offsets: Sequence[int]) -> SwapBatch:
    """Decoded swaps as a batch."""
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
    """The texts of a decoded swap."""
    return SwapTexts(swap.tx_hash, swap.log_index, swap.trader, swap.venue, swap.pool, swap.quote)
