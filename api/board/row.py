"""A token's row as this node shows it: what its owner published, and what operators say of it."""

from __future__ import annotations

from aggregator.contracts.stats import TokenStats


class TokenRow(TokenStats, frozen=True, gc=False):
    """Everything known of one token.

    (epoch, seq) orders the states of a partition: a higher epoch is a newer owner, seq counts that
    owner's patches without a gap. `next_offset` is the Kafka offset up to which the numbers count.
    `as_of` is the instant that the windows end at, `watermark` the newest event time of the
    partition. `stale` tells that the partition's owner is silent. `name`, `decimals` and `flags`
    ("verified", "spam") are the operators' word from the token registry, and so is `symbol` where
    they gave one.
    """

    name: str | None = None
    decimals: int | None = None
    flags: tuple[str, ...] = ()

    @classmethod
    def of(cls, stats: TokenStats) -> TokenRow:
        """The row of a token of which operators said nothing."""
        if isinstance(stats, cls):
            return stats
        return cls(**{name: getattr(stats, name) for name in TokenStats.__struct_fields__})
