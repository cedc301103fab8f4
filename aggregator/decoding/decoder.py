"""Decodes the records of one poll together: from bytes to the columns of `Swaps`.

Compiled passes over the joined bytes read the plain events: `scan` finds the fields; `numbers`,
`names` and `identities` turn them into columns. Every other event is decoded separately by `rules`,
and written into the same columns. Pure, except that the decoder remembers names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import msgspec
import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.event import Swap
from aggregator.contracts.swaps import ABSENT, RECORD, SWAP, TEXTS, Swaps, TokenName, swaps_of
from aggregator.decoding.plain.identities import identify
from aggregator.decoding.plain.names import UNKNOWN, Names
from aggregator.decoding.plain.numbers import fill_values
from aggregator.decoding.plain.scan import FIELDS, SYMBOL, TOKEN, scan
from aggregator.decoding.rows import picked
from aggregator.decoding.rules import decode_swap, lower_address
from aggregator.runtime.errors import BadMessage


class RecordColumns(Protocol):
    """Consecutive records of one partition, a sequence per column.

    `timestamps` are ms since the epoch. `origins` holds (partition, offset) for each record that
    was forwarded from another partition, and is None where no record was.
    """

    @property
    def values(self) -> Sequence[bytes | None]: ...
    @property
    def timestamps(self) -> Sequence[int]: ...
    @property
    def offsets(self) -> Sequence[int]: ...
    @property
    def origins(self) -> Sequence[tuple[int, int] | None] | None: ...


class ReadRecords(NamedTuple):
    """`RecordColumns` of records that were read in another way than by a poll."""

    values: Sequence[bytes | None]
    timestamps: Sequence[int]
    offsets: Sequence[int]
    origins: Sequence[tuple[int, int] | None] | None = None


class Decoded(NamedTuple):
    """Records as columns, one entry per record, and why the bad ones among them are no swaps.

    `rejected` holds (index among the records, error), in order.
    """

    swaps: Swaps
    rejected: list[tuple[int, BadMessage]]


class BatchDecoder:
    """Decodes many records exactly as `decode_swap` does, and remembers the accepted names."""

    def __init__(self, max_future_ms: int, names: Names | None = None) -> None:
        self._max_future_ms = max_future_ms
        self._names = names or Names()

    def decode(self, records: RecordColumns) -> Decoded:
        """Decode records to columns; a record that is no swap is marked `bad`."""
        events = Events(records, self._max_future_ms)
        # The names come first: an event whose name is unknown must pass the rules anyway, so its
        # numbers and hashes are not computed twice.
        self._names.find(events.data, events.spans, events.whole, events.names)
        events.read()
        swaps = events.swaps(self._names.accepted)
        if events.plain.all():
            return Decoded(swaps, [])
        return self._decode_others(events, swaps, records)

    def _decode_others(self, events: Events, swaps: Swaps, records: RecordColumns) -> Decoded:
        """Decode by the rules what the compiled passes have left, into the same columns."""
        places = np.flatnonzero(~events.plain)
        found: list[Swap | None] = []
        rejected = []
        for place in places.tolist():
            forwarded = records.origins is not None and records.origins[place] is not None
            try:
                swap = decode_swap(
                    records.values[place],
                    records.timestamps[place],
                    self._max_future_ms,
                    forwarded=forwarded,
                )
            except BadMessage as error:
                rejected.append((place, error))
                found.append(None)
                continue
            found.append(swap)
            events.names[place] = self._names.index_of(TokenName(swap.token_id, swap.symbol))
            if (
                events.whole[place]
                and lower_address(events.token(place)) == swap.token
                and events.symbol(place) == swap.symbol
            ):
                # Remember a name only where the compiled passes reproduce what the rules made of
                # it. They copy token and symbol as they are and lower-case addresses. A Move type
                # in another spelling, or a symbol that the rules cut or cleaned, would reach the
                # archive unchanged; the rules decode such an event every time.
                self._names.remember(events.data, events.spans[place], events.names[place])
        offsets, recorded = swaps.offsets[places], swaps.records["recorded"][places]
        others = swaps_of(found, offsets, recorded=recorded)
        others.records["name"] = np.where(others.records["bad"], ABSENT, events.names[places])
        return Decoded(_with_others(swaps, places, others), rejected)


def _with_others(swaps: Swaps, places: Array, others: Swaps) -> Swaps:
    """Write `others` into the columns at `places`, and append their texts to the buffer."""
    for field in ("size", "origin_partition", "origin_offset"):
        others.records[field] = swaps.records[field][places]
    swaps.swaps[places] = others.swaps
    swaps.records[places] = others.records
    swaps.markers[places] = others.markers
    shift = np.int32(len(swaps.text))
    swaps.spans[places] = np.where(others.spans == ABSENT, ABSENT, others.spans + shift)
    return msgspec.structs.replace(swaps, text=np.concatenate((swaps.text, others.text)))


class Events:
    """The records of one batch, joined, and the columns that they are decoded to.

    `data` holds their bytes and `spans` the fields in it, as `scan` fills them. `whole` marks the
    events that `scan` calls plain, `plain` those of them that the compiled passes decode
    completely. `names` are indexes of names, UNKNOWN where the rules must be asked.
    """

    def __init__(self, records: RecordColumns, max_future_ms: int) -> None:
        present = [value or b"" for value in records.values]
        count = len(present)
        # Joined in a bytearray, which is writable: hashes and addresses are lower-cased in place.
        self.data = np.frombuffer(bytearray().join(present), np.uint8)
        sizes = np.fromiter(map(len, present), np.int64, count)
        self.spans = np.full((count, len(FIELDS), 2), ABSENT, np.int32)
        self.whole = np.empty(count, np.bool_)
        self.names = np.empty(count, np.int32)
        self._swaps = np.zeros(count, SWAP)
        self._swaps["offset"] = records.offsets
        self._records = np.zeros(count, RECORD)
        self._records["recorded"] = records.timestamps
        self._records["size"] = sizes
        self._markers = np.empty((count, 2), np.uint64)
        self._latest = self._records["recorded"] + max_future_ms
        self._fill_origins(records.origins)
        scan(self.data, sizes.cumsum(), self.spans, self.whole)
        self.plain = self.whole

    def _fill_origins(self, origins: Sequence[tuple[int, int] | None] | None) -> None:
        self._records["origin_partition"] = self._records["origin_offset"] = ABSENT
        for place, origin in enumerate(origins or ()):
            if origin is not None:
                record = self._records[place]
                record["origin_partition"], record["origin_offset"] = origin

    def read(self) -> None:
        """Fill the columns of the plain events whose names are known; clears `plain` elsewhere."""
        self.plain = self.whole & (self.names != UNKNOWN)
        swaps, records = self._swaps, self._records
        fill_values(self.data, self.spans, self._latest, swaps, records, self.plain)
        traders, checks = swaps["trader"], records["block_check"]
        identify(self.data, self.spans, self.plain, self._markers, traders, checks)
        records["name"] = self.names

    def swaps(self, token_names: Sequence[TokenName]) -> Swaps:
        """Return the columns; those of events that are not plain are not filled."""
        spans = self.spans[:, : len(TEXTS)]
        return Swaps(self._swaps, self._records, self._markers, spans, self.data, token_names)

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


def compile_decoder() -> None:
    """Compile the passes, or load them from numba's cache; takes seconds on the first start."""
    event = (
        b'{"chain":"c","tx_hash":"h","log_index":0,"timestamp":1700000000000,"token":"t",'
        b'"side":"buy","amount":"1.0","amount_usd":"1.0","trader":"a"}'
    )
    decoder = BatchDecoder(0)
    for _ in range(2):  # The compiled passes decode the event once its name is known.
        swaps, _rejected = decoder.decode(ReadRecords([event], [1_700_000_000_000], [0]))
    picked([(swaps, np.zeros(1, np.int64))])
