"""Selects records of several batches into one: the rows of a block of the archive. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT, Swaps, TokenName, swaps_of
from aggregator.decoding.plain.ascii import gather


def picked(parts: Sequence[tuple[Swaps, Array]]) -> Swaps:
    """Return, of each part, the records at these indexes, with one buffer of just their texts."""
    spans = np.concatenate([part.spans[places] for part, places in parts])
    text = np.empty(int((spans[:, :, 1] - spans[:, :, 0]).sum()), np.uint8)
    first = at = 0
    for part, places in parts:
        at = gather(part.text, spans[first : first + len(places)], text, at)
        first += len(places)
    records = np.concatenate([part.records[places] for part, places in parts])
    records["name"], token_names = _joined_names(parts)
    return Swaps(
        swaps=np.concatenate([part.swaps[places] for part, places in parts]),
        records=records,
        markers=np.concatenate([part.markers[places] for part, places in parts]),
        spans=spans,
        text=text,
        token_names=token_names,
    )


def _joined_names(parts: Sequence[tuple[Swaps, Array]]) -> tuple[Array, Sequence[TokenName]]:
    """Return (index of each record's name, the names); the parts usually share their names."""
    columns = [part.records["name"][places] for part, places in parts]
    token_names = parts[0][0].token_names
    if all(part.token_names is token_names for part, _ in parts):
        return np.concatenate(columns), token_names
    joined: list[TokenName] = []
    for (part, _), column in zip(parts, columns, strict=True):
        used, column[column != ABSENT] = np.unique(column[column != ABSENT], return_inverse=True)
        column[column != ABSENT] += len(joined)
        joined += [part.token_names[name] for name in used.tolist()]
    return np.concatenate(columns), joined


NO_ROWS: Final = swaps_of(())
