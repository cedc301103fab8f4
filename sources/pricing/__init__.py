"""USD prices from trusted tokens and named reference pools. Pure; the clock is the block time."""
