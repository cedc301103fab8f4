"""The tokens of a chain that prices may come from, and the pools that price them. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Rank(IntEnum):
    """How fit a token is to be the quote of a pair: of two tokens the lower rank is the quote."""

    STABLE = 0
    NATIVE = 1
    MAJOR = 2
    OTHER = 3


@dataclass(frozen=True)
class Trusted:
    """A chain's trusted tokens and reference pools, all as lower-case addresses or pool ids.

    `stables` are worth 1 USD. `natives` are the native coin and its wrapping: one asset. `majors`
    are further tokens that rank as quotes; one has a price where reference pools trade it against a
    stable. No other token is ever a source of prices.
    """

    stables: frozenset[str] = frozenset()
    natives: frozenset[str] = frozenset()
    majors: frozenset[str] = frozenset()
    reference_pools: frozenset[str] = frozenset()

    def rank(self, token: str) -> Rank:
        """Return a token's rank."""
        if token in self.stables:
            return Rank.STABLE
        if token in self.natives:
            return Rank.NATIVE
        return Rank.MAJOR if token in self.majors else Rank.OTHER
