"""Gives the names of tokens and symbols the numbers that the columns hold. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from aggregator.contracts.arrays import Array
from aggregator.contracts.swaps import TokenName
from aggregator.windows.columns import NONE


class Numbers(dict[str | None, int]):
    """Maps names to numbers; `new` numbers a name that is not known yet, None is `of_none`."""

    def __init__(self, new: Callable[[str], int], of_none: int | None = None) -> None:
        super().__init__()
        self._new = new
        self._of_none = of_none

    def __missing__(self, name: str | None) -> int:
        if name is None:
            assert self._of_none is not None
            return self._of_none
        number = self[name] = self._new(name)
        return number


class NameNumbers:
    """Remembers the numbers of the names that the last batches shared.

    A list of names only grows, so an index stands for the same name as long as the list is the
    same.
    """

    def __init__(self, tokens: Numbers, symbols: Numbers) -> None:
        self._tokens = tokens
        self._symbols = symbols
        self.forget()

    def forget(self) -> None:
        """Forget everything; needed when a token gives its number back."""
        self._names: Sequence[TokenName] = ()
        self._found = np.zeros((0, 2), np.int32)

    def of(self, names: Sequence[TokenName], indexes: Array) -> Array:
        """Return the numbers [token, symbol] (int32) of the names at `indexes`."""
        if names is not self._names:
            self.forget()
            self._names = names
        if len(self._found) < len(names):
            grown = np.full((2 * len(names), 2), NONE, np.int32)
            grown[: len(self._found)] = self._found
            self._found = grown
        found: Array = self._found[indexes]
        unknown = found[:, 0] == NONE
        if unknown.any():
            for index in np.unique(indexes[unknown]).tolist():
                token_id, symbol = names[index]
                self._found[index] = self._tokens[token_id], self._symbols[symbol]
            found = self._found[indexes]
        return found
