"""Decodes records to `SwapRows`, the complete swaps that the archive stores, and selects rows.

The numbers come from `BatchDecoder`; a compiled pass copies the texts from the events. Pure, except
that the decoder remembers names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from aggregator.contracts.archive_rows import ROW, TEXTS, SwapRows, as_rows
from aggregator.contracts.arrays import Array
from aggregator.decoding.decoder import BatchDecoder, Events
from aggregator.decoding.plain.ascii import gather
from aggregator.decoding.plain.identities import lower
from aggregator.decoding.plain.names import Names
from aggregator.decoding.plain.numbers import fill_wholes
from aggregator.decoding.plain.scan import FIELDS

_FIELDS: Final = [FIELDS.index(name) for name in TEXTS]


class RowDecoder:
    """Decodes many records exactly as `decode_swap` does, and skips those that it refuses."""

    def __init__(self, max_future_ms: int, names: Names | None = None) -> None:
        self._decoder = BatchDecoder(max_future_ms, names)

    def decode(
        self, values: Sequence[bytes | None], timestamps: Sequence[int], offsets: Sequence[int]
    ) -> SwapRows:
        """Decode records; `timestamps` are the records', ms since the epoch."""
        events = self._decoder.read(values, timestamps, offsets)
        rows = np.zeros(len(events.times), ROW)
        fill_wholes(
            events.data, events.spans, events.plain, rows["log_index"], rows["block_number"]
        )
        lower(events.data, events.spans, events.plain)
        rows["removed"] = events.removed
        rows["marker"] = events.markers.view(ROW["marker"]).reshape(-1)
        found = SwapRows(events.swaps, rows, events.spans[:, _FIELDS], events.data)
        if events.others:
            found = _with_others(found, events)
        rows["recorded"], rows["size"] = events.times, events.sizes
        return picked([(found, events.kept)])


def _with_others(found: SwapRows, events: Events) -> SwapRows:
    """Add the texts and rows of the swaps that the rules decoded; their numbers are in place."""
    places = [place for place, _ in events.others]
    others = as_rows([swap for _, swap in events.others])
    found.rows[places] = others.rows
    found.spans[places] = np.where(others.spans < 0, others.spans, others.spans + len(found.text))
    return msgspec.structs.replace(found, text=np.concatenate((found.text, others.text)))


def picked(parts: Sequence[tuple[SwapRows, Array]]) -> SwapRows:
    """Return, of each part, the swaps at these indexes, with one buffer of just their texts."""
    spans = np.concatenate([part.spans[places] for part, places in parts])
    text = np.empty(int((spans[:, :, 1] - spans[:, :, 0]).sum()), np.uint8)
    first = at = 0
    for part, places in parts:
        at = gather(part.text, spans[first : first + len(places)], text, at)
        first += len(places)
    return SwapRows(
        np.concatenate([part.swaps[places] for part, places in parts]),
        np.concatenate([part.rows[places] for part, places in parts]),
        spans,
        text,
    )


NO_ROWS: Final = as_rows(())


def compile_rows() -> None:
    """Compile the passes, or load them from numba's cache; takes seconds on the first start."""
    event = b'{"chain":"c","tx_hash":"h","log_index":0,"timestamp":0,"token":"t","side":"buy"'
    decoder = RowDecoder(0)
    for _ in range(2):  # The compiled passes decode the event once its name is known.
        decoder.decode([event + b',"amount":"1.0"}'], [0], [0])
