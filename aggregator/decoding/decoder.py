"""Decodes the records of one poll together: from bytes to the columns of a `SwapBatch`.

Compiled passes over the joined bytes read the plain events: `scan` finds the fields; `numbers`,
`names` and `identities` turn them into what the windows and the markers need. Every other event is
decoded separately by `rules`, and written into the same columns. Pure, except that the decoder
remembers names.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import MARKER_BYTES, SWAP, SwapBatch, TokenName, fill
from aggregator.contracts.event import Swap
from aggregator.decoding.plain.identities import identify
from aggregator.decoding.plain.names import UNKNOWN, Names
from aggregator.decoding.plain.numbers import fill_values
from aggregator.decoding.plain.scan import ABSENT, FIELDS, SYMBOL, TOKEN, scan
from aggregator.decoding.rules import accepted_texts, decode_swap, lower_address
from aggregator.runtime.errors import BadMessage


class Decoded(msgspec.Struct, frozen=True, gc=False):
    """The swaps of some records, in log order, and the records that are not swaps.

    `record_timestamps` (int64, ms) has one entry per swap. `rejected` holds (index among the
    records, error).
    """

    batch: SwapBatch
    record_timestamps: Array
    rejected: list[tuple[int, BadMessage]]


class BatchDecoder:
    """Decodes many records exactly as `decode_swap` does, and remembers the accepted names."""

    def __init__(self, max_future_ms: int, names: Names | None = None) -> None:
        self._max_future_ms = max_future_ms
        self._names = names or Names()

    def decode(
        self, values: Sequence[bytes | None], timestamps: Sequence[int], offsets: Sequence[int]
    ) -> Decoded:
        """Decode records; `timestamps` are the records', ms since the epoch.

        The returned batch keeps a reference to `values`, from which it decodes single swaps.
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
        """Decode records to columns with one entry per record, rejected records included."""
        events = Events(values, timestamps, self._max_future_ms)
        # The names come first: an event whose name is unknown must pass the rules anyway, so its
        # numbers and hashes are not computed twice.
        self._names.find(events.data, events.spans, events.whole, events.names)
        events.read()
        self._decode_others(events, values, timestamps)
        events.swaps["offset"] = offsets
        return events

    def _decode(self, value: bytes | None, record_timestamp: int) -> Swap:
        return decode_swap(value, record_timestamp, self._max_future_ms)

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
            events.names[i] = self._names.index_of(TokenName(swap.token_id, swap.symbol))
            if (
                events.whole[i]
                and lower_address(events.token(i)) == swap.token
                and events.symbol(i) == swap.symbol
            ):
                # Remember a name only where the compiled passes reproduce what the rules made of
                # it. They copy token and symbol as they are and lower-case addresses. A Move type
                # in another spelling, or a symbol that the rules cut or cleaned, would reach the
                # archive unchanged; the rules decode such an event every time.
                self._names.remember(events.data, events.spans[i], events.names[i])


class Events:
    """The records of one batch, joined, and the columns that they are decoded to.

    `data` holds their bytes and `spans` the fields in it, as `scan` fills them. `whole` marks the
    events that `scan` calls plain, `plain` those of them that the compiled passes decode
    completely. `others` holds the swaps that the rules decoded and `rejected` the records that are
    not swaps, each with the index of the record. `times` are the records' timestamps, `sizes` the
    lengths of their values.
    """

    def __init__(
        self, values: Sequence[bytes | None], timestamps: Sequence[int], max_future_ms: int
    ) -> None:
        present = [value or b"" for value in values]
        count = len(present)
        # Joined in a bytearray, which is writable: `lower` changes the bytes in place.
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
        """Fill the columns of the plain events whose names are known; clears `plain` elsewhere."""
        self.plain = self.whole & (self.names != UNKNOWN)
        fill_values(self.data, self.spans, self._latest, self.swaps, self.removed, self.plain)
        identify(self.data, self.spans, self.plain, self.markers, self.swaps["trader"])

    def token(self, place: int) -> str:
        """Return the token of an event that `whole` marks, as it was sent."""
        begin, end = self.spans[place, TOKEN]
        return self.data[begin:end].tobytes().decode()

    def symbol(self, place: int) -> str | None:
        """Return the symbol of an event that `whole` marks; an address is lower-cased."""
        begin, end = self.spans[place, SYMBOL].tolist()
        if begin == ABSENT:
            return None
        return lower_address(self.data[begin:end].tobytes().decode())

    @property
    def kept(self) -> Array:
        """Return the indexes of the records that are swaps."""
        return np.delete(np.arange(len(self.times)), [place for place, _ in self.rejected])


def _only(batch: SwapBatch, kept: Array) -> SwapBatch:
    """Return the swaps at the indexes `kept`."""
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
    """Compile the passes, or load them from numba's cache; takes seconds on the first start."""
    event = (
        b'{"chain":"c","tx_hash":"h","log_index":0,"timestamp":0,"token":"t","side":"buy",'
        b'"amount":"1.0","amount_usd":"1.0","trader":"a"}'
    )
    decoder = BatchDecoder(0)
    for _ in range(2):  # The compiled passes decode the event once its name is known.
        decoder.decode([event], [0], [0])
