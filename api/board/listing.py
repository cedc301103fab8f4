"""The entries of the token registry, as they travel through Redis.

Pure. `console.publish_registry` makes them from the database, `api.registry.follow` brings them to
a web node, and the board shows rows accordingly.
"""

from __future__ import annotations

import msgspec

from aggregator.contracts.stats import TokenStats
from api.board.row import TokenRow


class Listing(msgspec.Struct, frozen=True, omit_defaults=True):
    """One token's entry; a null field keeps the value from the swaps.

    `version` is the instant of the entry's last change, ms since the epoch. A hidden token is shown
    nowhere. `flags` are shown with the token's numbers.
    """

    version: int
    symbol: str | None = None
    name: str | None = None
    decimals: int | None = None
    hidden: bool = False
    flags: tuple[str, ...] = ()

    def on(self, stats: TokenStats) -> TokenRow:
        """Return the row with this entry's values."""
        published = {
            name: getattr(stats, name) for name in TokenStats.__struct_fields__ if name != "symbol"
        }
        return TokenRow(
            **published,
            symbol=self.symbol or stats.symbol,
            name=self.name,
            decimals=self.decimals,
            flags=self.flags,
        )


class RegistryState(msgspec.Struct, frozen=True):
    """Every entry by token id; `revision` is the unique instant (ms) of the last change."""

    revision: int
    listings: dict[str, Listing]
