"""A token's row as this node shows it: the published numbers and the registry's values."""

from __future__ import annotations

from aggregator.contracts.stats import TokenStats


class TokenRow(TokenStats, frozen=True, gc=False):
    """Everything that is known of one token.

    (epoch, seq) orders the states of a partition: a higher epoch is a newer owner, seq numbers that
    owner's patches without holes. The numbers count the log up to, but not including,
    `next_offset`. `as_of` is the instant at which the windows end, `watermark` the log clock of
    the partition: the newest timestamp of its Kafka records. `stale` says that the partition's
    numbers may be old. `name`, `decimals` and `flags` ("verified", "spam") come from the token
    registry, and so does `symbol` if the operators set one.
    """

    name: str | None = None
    decimals: int | None = None
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, stats: TokenStats) -> TokenRow:
        """Return the row of a token without an entry in the registry."""
        if isinstance(stats, cls):
            return stats
        return cls(**{name: getattr(stats, name) for name in TokenStats.__struct_fields__})
