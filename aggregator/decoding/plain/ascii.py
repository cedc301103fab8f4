"""Copies the texts of many swaps from one buffer into another, compiled. Pure."""

from __future__ import annotations

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import ABSENT
from aggregator.runtime.compiled import compiled


@compiled
def gather(text: Array, spans: Array, out: Array, at: int) -> int:
    """Copy the texts at `spans` into `out` from `at` on, and update `spans` to the copies.

    Returns the end of the last copy.
    """
    for row in range(spans.shape[0]):
        for field in range(spans.shape[1]):
            begin, end = spans[row, field, 0], spans[row, field, 1]
            if begin != ABSENT:
                # Slices, so that the copy in the loop can be vectorised.
                source = text[begin:end]
                target = out[at : at + end - begin]
                for place in range(len(source)):
                    target[place] = source[place]
                spans[row, field, 0], spans[row, field, 1] = at, at + end - begin
                at += end - begin
    return at
