"""Swaps as columns: the one batch that the decoder makes and both sinks consume.

One object per swap would cost more than counting the swap. A batch is therefore a few arrays with
one entry per record, plus one buffer with the texts. Knows nothing of Kafka, Redis or the windows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import ATTOS_PER_TOKEN, Swap

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


def trader_key(trader: str | None) -> int:
    """Return a 64-bit BLAKE2b hash; 0 means no trader.

    The hash is the same in every process, because snapshots contain it.
    """
    if trader is None:
        return 0
    digest = hashlib.blake2b(trader.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1


def swaps_of(
    swaps: Sequence[Swap | None],
    offsets: Sequence[int] | Array | None = None,
    *,
    recorded: Sequence[int] | Array | None = None,
) -> Swaps:
    """Convert decoded swaps to columns; None makes a bad record.

    `offsets` count from 0 unless they are given. `recorded` are the records' timestamps, by default
    the swaps' own (0 for a bad record). `size` stays 0, and no record is forwarded.
    """
    good = [(place, swap) for place, swap in enumerate(swaps) if swap is not None]
    count, places = len(swaps), [place for place, _ in good]
    made = Swaps(
        swaps=np.zeros(count, SWAP),
        records=np.zeros(count, RECORD),
        markers=np.zeros((count, 2), np.uint64),
        spans=np.full((count, len(TEXTS), 2), ABSENT, np.int32),
        text=np.empty(0, np.uint8),
        token_names=[TokenName(swap.token_id, swap.symbol) for _, swap in good],
    )
    decoded = [swap for _, swap in good]
    made.swaps["offset"] = range(count) if offsets is None else offsets
    made.records["origin_partition"] = made.records["origin_offset"] = ABSENT
    made.records["name"], made.records["bad"] = ABSENT, True
    _fill_numbers(made, places, decoded)
    made.records["recorded"] = made.swaps["timestamp"] if recorded is None else recorded
    return msgspec.structs.replace(made, text=_fill_spans(made.spans, places, decoded))


def _fill_numbers(made: Swaps, places: list[int], swaps: list[Swap]) -> None:
    """Fill the numbers and markers of the records at `places`."""
    attos = [divmod(swap.amount_attos, ATTOS_PER_TOKEN) for swap in swaps]
    upper = [divmod(whole, ATTOS_PER_TOKEN) for whole, _ in attos]
    numbers: dict[str, Sequence[float]] = {
        "buy": [swap.is_buy for swap in swaps],
        "timestamp": [swap.timestamp for swap in swaps],
        "block_number": [_or(swap.block_number, ABSENT) for swap in swaps],
        "log_index": [swap.log_index for swap in swaps],
        "usd": [_or(swap.usd_micros, UNPRICED) for swap in swaps],
        "amount_low": [low for _, low in attos],
        "amount_mid": [mid for _, mid in upper],
        "amount_high": [high for high, _ in upper],
        "price": [_or(swap.price_usd, np.nan) for swap in swaps],
    }
    for field, column in numbers.items():
        made.swaps[field][places] = column
    # An array of its own: numpy would round a list of such large integers to floats.
    made.swaps["trader"][places] = np.array([trader_key(swap.trader) for swap in swaps], np.uint64)
    record: dict[str, Sequence[float]] = {
        "name": range(len(swaps)),
        "block_check": [swap.block_check for swap in swaps],
        "removed": [swap.removed for swap in swaps],
        "bad": [False] * len(swaps),
        "leg": [swap.leg for swap in swaps],
        "reserve_token": [_or(swap.reserve_token, np.nan) for swap in swaps],
        "reserve_quote": [_or(swap.reserve_quote, np.nan) for swap in swaps],
    }
    for field, values in record.items():
        made.records[field][places] = values
    joined = b"".join(swap.marker for swap in swaps)
    made.markers[places] = np.frombuffer(joined, np.uint64).reshape(-1, 2)


def _or(value: float | None, absent: float) -> float:
    return absent if value is None else value


def _fill_spans(spans: Array, places: list[int], swaps: list[Swap]) -> Array:
    """Fill the spans of the records at `places`; return the buffer that they point into."""
    text = bytearray()
    for place, swap in zip(places, swaps, strict=True):
        for field, name in enumerate(TEXTS):
            value = getattr(swap, name)
            if value is not None:
                begin = len(text)
                text += value.encode()
                spans[place, field] = begin, len(text)
    return np.frombuffer(text, np.uint8)
