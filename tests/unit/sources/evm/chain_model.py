"""A chain that forks at random, as a node shows it: the oracle of the follower's tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from sources.evm.types import BlockRef


@dataclass
class ForkingChain:
    """All blocks ever mined, and which of them are canonical now, by number."""

    canonical: list[BlockRef] = field(default_factory=list)
    mined: int = 0
    left: list[list[BlockRef]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.mine()

    def mine(self, count: int = 1) -> None:
        for _ in range(count):
            parent = self.canonical[-1].hash if self.canonical else "0xgenesis"
            self.canonical.append(BlockRef(len(self.canonical), f"0x{self.mined:x}", parent))
            self.mined += 1

    def fork(self, depth: int, count: int) -> None:
        """Drop the newest `depth` blocks and mine `count` others."""
        depth = min(depth, len(self.canonical) - 1)
        self.left.append(list(self.canonical))
        del self.canonical[len(self.canonical) - depth :]
        self.mine(count)

    def flip_back(self) -> None:
        """Make a chain canonical again that was left, if it is still the one that is deepest."""
        if self.left:
            returned = self.left.pop()
            self.left.append(list(self.canonical))
            self.canonical = returned

    @property
    def head(self) -> BlockRef:
        return self.canonical[-1]

    def block(self, number: int) -> BlockRef | None:
        return self.canonical[number] if number < len(self.canonical) else None

    def by_hash(self, block_hash: str) -> BlockRef | None:
        """A block of the canonical chain: orphans are forgotten, as some nodes do."""
        return next((block for block in self.canonical if block.hash == block_hash), None)
