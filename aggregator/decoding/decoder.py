"""Decodes the records of one poll at once: from bytes to the columns of a `SwapBatch`.

The plain events are read by compiled passes over the joined bytes: `scan` finds the fields,
`values`, `names` and `identities` make of them what the windows and the markers need. Every other
event is decoded by itself, by the rules of `decode`, and put in the same columns. Pure, its memory
of names aside.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import MARKER_BYTES, SWAP, SwapBatch, TokenName, fill
from aggregator.contracts.event import Swap
from aggregator.decoding.fast_decode import SwapDecoder, accepted_texts
from aggregator.decoding.plain.identities import identify
from aggregator.decoding.plain.names import UNKNOWN, Names
from aggregator.decoding.plain.numbers import fill_values
from aggregator.decoding.plain.scan import ABSENT, FIELDS, SYMBOL, TOKEN, scan
from aggregator.decoding.rules import lower_address
from aggregator.runtime.errors import BadMessage


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """What became of some records, in log order.

    `record_timestamps` (int64, ms) are those of the swaps; `rejected` are places among the records,
    and why there is no swap at them.
    """

    batch: SwapBatch
    record_timestamps: Array
    rejected: list[tuple[int, BadMessage]]


class BatchDecoder:
    """`decode_swap` for many records, with a memory of the names that it has accepted."""

    def __init__(self, max_future_ms: int, names: Names | None = None) -> None:
        self._max_future_ms = max_future_ms
        self._decode = SwapDecoder(max_future_ms).decode
        self._names = names or Names()

    def decode(
        self, values: Sequence[bytes | None], timestamps: Sequence[int], offsets: Sequence[int]
    ) -> Decoded:
        """The swaps of records, and the records that are none.

        `timestamps` are the records', ms since the epoch. The batch keeps `values`.
        """
        events = self.read(values, timestamps, offsets)
        batch = SwapBatch(
            swaps=events.swaps,
            offsets=offsets,
            names=events.names,
            token_names=self._names.accepted,
            removed=events.removed,
            markers=events.markers.tobytes(),
            swap=lambda place: self._decode(values[place], timestamps[place]),
            texts=lambda place: accepted_texts(values[place] or b""),
        )
        times, rejected = events.times, events.rejected
        if not rejected:
            return Decoded(batch, times, rejected)
        kept = events.kept
        return Decoded(_only(batch, kept), times[kept], rejected)

    def read(
        self, values: Sequence[bytes | None], timestamps: Sequence[int], offsets: Sequence[int]
    ) -> Events:
        """The same as one entry a record, with what the compiled passes have found."""
        events = Events(values, timestamps, self._max_future_ms)
        self._names.find(events.data, events.spans, events.whole, events.names)
        events.read()
        self._decode_others(events, values, timestamps)
        events.swaps["offset"] = offsets
        return events

    def _decode_others(
        self, events: Events, values: Sequence[bytes | None], timestamps: Sequence[int]
    ) -> None:
        for i in np.flatnonzero(~events.plain).tolist():
            try:
                swap = self._decode(values[i], timestamps[i])
            except BadMessage as error:
                events.rejected.append((i, error))
                continue
            events.others.append((i, swap))
            fill(events.swaps[i], swap)
            events.removed[i] = swap.removed
            events.markers[i] = np.frombuffer(swap.marker, np.uint64)
            events.names[i] = self._names.number(TokenName(swap.token_id, swap.symbol))
            if (
                events.whole[i]
                and lower_address(events.token(i)) == swap.token
                and events.symbol(i) == swap.symbol
            ):
                # The compiled passes copy a token and a symbol as they came and lower addresses; a
                # text that the rules spell, cut or clean otherwise is decoded by them each time.
                self._names.remember(events.data, events.spans[i], events.names[i])


class Events:
    """The records of one batch, joined, and what has been made of them.

    `data` are their bytes, `spans` the fields of the `plain` ones in it, as of `scan`; `others` are
    the swaps that were decoded by themselves, `rejected` the records that are none, with their
    places. `times` are the records' timestamps, `sizes` the bytes of each.
    """

    def __init__(
        self, values: Sequence[bytes | None], timestamps: Sequence[int], max_future_ms: int
    ) -> None:
        present = [value or b"" for value in values]
        count = len(present)
        self.data = np.frombuffer(bytearray().join(present), np.uint8)
        self.times = np.array(timestamps, np.int64)
        self.sizes = np.fromiter(map(len, present), np.int64, count)
        self.others: list[tuple[int, Swap]] = []
        self.rejected: list[tuple[int, BadMessage]] = []
        self.spans = np.full((count, len(FIELDS), 2), ABSENT, np.int32)
        self.whole = np.empty(count, np.bool_)
        self.names = np.empty(count, np.int32)
        self.swaps = np.zeros(count, SWAP)
        self.removed = np.zeros(count, np.bool_)
        self.markers = np.empty((count, MARKER_BYTES // 8), np.uint64)
        self._latest = self.times + max_future_ms
        scan(self.data, self.sizes.cumsum(), self.spans, self.whole)
        self.plain = self.whole

    def read(self) -> None:
        """Fill the columns of the plain events whose names are known."""
        self.plain = self.whole & (self.names != UNKNOWN)
        fill_values(self.data, self.spans, self._latest, self.swaps, self.removed, self.plain)
        identify(self.data, self.spans, self.plain, self.markers, self.swaps["trader"])

    def token(self, place: int) -> str:
        """The token of a whole event, as it came."""
        begin, end = self.spans[place, TOKEN]
        return self.data[begin:end].tobytes().decode()

    def symbol(self, place: int) -> str | None:
        """The symbol of a whole event as it came, an address in lower case."""
        begin, end = self.spans[place, SYMBOL].tolist()
        if begin == ABSENT:
            return None
        return lower_address(self.data[begin:end].tobytes().decode())

    @property
    def kept(self) -> Array:
        """The places of the records that are swaps."""
        return np.delete(np.arange(len(self.times)), [place for place, _ in self.rejected])


def _only(batch: SwapBatch, kept: Array) -> SwapBatch:
    """The swaps at the places `kept`."""
    markers = np.frombuffer(batch.markers, np.uint8).reshape(-1, MARKER_BYTES)
    return SwapBatch(
        swaps=batch.swaps[kept],
        offsets=[batch.offsets[place] for place in kept.tolist()],
        names=batch.names[kept],
        token_names=batch.token_names,
        removed=batch.removed[kept],
        markers=markers[kept].tobytes(),
        swap=lambda place: batch.swap(int(kept[place])),
        texts=lambda place: batch.texts(int(kept[place])),
    )


def compile_decoder() -> None:
    """Compile the passes, or read them from numba's cache: seconds on the first start."""
    event = (
        b'{"chain":"c","tx_hash":"h","log_index":0,"timestamp":0,"token":"t","side":"buy",'
        b'"amount":"1.0","amount_usd":"1.0","trader":"a"}'
    )
    decoder = BatchDecoder(0)
    for _ in range(2):  # the second time its names are known
        decoder.decode([event], [0], [0])
