"""What operators say of one token, and of all tokens: the values that travel through Redis.

Pure. `console.publish_registry` makes them from the database, `api.registry.follow` brings them
to a web node, the board shows rows accordingly.
"""

from __future__ import annotations

import msgspec

from aggregator.contracts.stats import TokenStats
from api.board.row import TokenRow


class Listing(msgspec.Struct, frozen=True, omit_defaults=True):
    """Null leaves what the swaps say. `version` is of the entry's last change, ms since the epoch.

    A hidden token is shown nowhere. `flags` are shown with its numbers.
    """

    version: int
    symbol: str | None = None
    name: str | None = None
    decimals: int | None = None
    hidden: bool = False
    flags: tuple[str, ...] = ()

    def on(self, stats: TokenStats) -> TokenRow:
        """The row with what the operators say of it."""
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
    """Every listing by token id; `revision` is ms since the epoch of the last change, unique."""

    revision: int
    listings: dict[str, Listing]
