"""The trades of minutes that have not begun, in log order. Pure."""

from __future__ import annotations

from typing import Final

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import SWAP

_NOTHING: Final = np.zeros(0, SWAP)


class HeldSwaps:
    """Swaps and retractions (dtype SWAP) that wait for their minute, saved ones first.

    Kept in chunks: to copy all of them with each batch would cost more the more there are, and a
    clock that lags the producers holds many.
    """

    def __init__(self, saved: Array = _NOTHING) -> None:
        self._saved = [saved]
        self._new: list[Array] = []

    def add(self, swaps: Array) -> None:
        """Hold more swaps, which come later in the log."""
        self._new.append(swaps)

    def everything(self) -> Array:
        """Return a copy of all that is held."""
        return np.concatenate([*self._saved, *self._new])

    def of(self, token: int) -> Array:
        """Return a copy of what is held of a token, given by its number."""
        return np.concatenate([each[each["token"] == token] for each in (*self._saved, *self._new)])

    def tokens(self) -> Array:
        """Return the numbers of the tokens that something is held of, some repeated."""
        return np.concatenate([each["token"] for each in (*self._saved, *self._new)])

    def take_unsaved(self) -> Array:
        """Return what came since the last call; it counts as saved from now on."""
        new = np.concatenate([_NOTHING, *self._new])
        self._new = []
        if len(new):
            self._saved.append(new)
        return new

    def take_begun(self, newest: int) -> Array:
        """Take out and return the swaps of times < `newest` (ms)."""
        begun = [each[each["timestamp"] < newest] for each in (*self._saved, *self._new)]
        self._saved, self._new = _waiting(self._saved, newest), _waiting(self._new, newest)
        return np.concatenate(begun)


def _waiting(chunks: list[Array], newest: int) -> list[Array]:
    rest = [each[each["timestamp"] >= newest] for each in chunks]
    return [each for each in rest if len(each)] or [_NOTHING]
