"""Entries of ids that come from elsewhere: the archive."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.seen.journal import (
    KnownEntries,
    new_table,
    no_entries,
    place_bits,
    process_secret,
)
from aggregator.seen.kernels import fold_rows
from aggregator.seen.words import WORD


class DecidedRows(Protocol):
    """Rows of the archive in the order of their offsets, as arrays with one entry per row.

    `markers` (uint64, [row, 2]) as in `Swaps`, `letters` (uint8), `offsets` (int64) and
    `block_checks` (uint16).
    """

    @property
    def markers(self) -> Array: ...
    @property
    def letters(self) -> Array: ...
    @property
    def offsets(self) -> Array: ...
    @property
    def block_checks(self) -> Array: ...


class Known:
    """A table of entries: the last transition of each id and its block check.

    It does not keep where a swap counted: what it knows is in the archive and need not be in the
    windows.
    """

    def __init__(self, entries: KnownEntries) -> None:
        """Use `Known.of`."""
        self.entries = entries

    @classmethod
    def of(cls, rows: DecidedRows) -> Known:
        """Fold the rows of each id as a journal does.

        A row with another letter than a transition's changes nothing. `u` is one: it takes an older
        row out of the sums of the archive. `G` leaves the id retracted. Raises ValueError unless
        the offsets ascend.
        """
        offsets = np.asarray(rows.offsets)
        if (offsets[1:] < offsets[:-1]).any():
            raise ValueError("the rows are not in the order of their offsets")
        count = len(offsets)
        if not count:
            return cls(no_entries())
        entries = KnownEntries(np.zeros(count + 1, WORD), new_table(count), place_bits(count + 1))
        used = fold_rows(
            entries,
            _plain(rows.markers, np.uint64),
            _plain(rows.letters, np.uint8),
            _plain(rows.block_checks, np.uint16),
            process_secret(),
        )
        return cls(entries._replace(words=entries.words[:used].copy()))

    def __len__(self) -> int:
        """Return how many ids have an entry."""
        return len(self.entries.words) - 1

    def copy(self) -> Known:
        """Return a table that may be changed without changing this one."""
        return Known(self.entries._replace(words=self.entries.words.copy()))


NOTHING_KNOWN = Known(no_entries())


def _plain(array: Array, kind: Any) -> Array:
    """Return the array in the one form that the loop is compiled for."""
    return np.require(array, kind, ["C", "W"])
