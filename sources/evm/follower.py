"""Decides how a source follows a chain: which block to ask for, to read, to retract. Pure.

A notification of a node only says that something changed. What is canonical is found by numbers,
hashes and parent hashes: a block follows another only if it names it as its parent. So a
reorganisation is found whether or not the node announces it, and however it comes: to a longer
chain, to a shorter one, or back to a chain that was left before.

The caller asks `decide` what to do next, does it, and reports it: an answer goes into `answers`, a
read block to `added`, a retracted one to `retracted`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from aggregator.runtime.errors import Fatal
from sources.evm.types import BlockRef


class Ask(NamedTuple):
    """Ask the node for the canonical block of this number and decide again."""

    number: int


class Read(NamedTuple):
    """Read this block, the child of the newest one that is kept, and send its events."""

    block: BlockRef


class Retract(NamedTuple):
    """Take back the events of this block, the newest one that is kept."""

    block: BlockRef


class Wait(NamedTuple):
    """Nothing to do, or nothing that is certain, until the node has news: forget the answers."""

    why: str


Action = Ask | Read | Retract | Wait


class TooDeep(Fatal):
    """The chain dropped more blocks than are kept, so not all of their events can be retracted."""

    def __init__(self, oldest: int, expected: str, found: str) -> None:
        super().__init__(
            f"the chain was reorganised below block {oldest}, the oldest that is kept: its parent "
            f"was {expected} and is {found}"
        )
        self.oldest = oldest


class Follower:
    """The blocks whose events were sent, newest last, as far back as a chain may be reorganised.

    `first` is the number of the oldest block in `kept`, or of the next block where none is kept.
    `root` is the hash of the block before it; None where a source began there: nothing older was
    sent, so any parent will do. At most `keep` blocks are kept.
    """

    def __init__(
        self, first: int, root: str | None, kept: Iterable[BlockRef] = (), *, keep: int
    ) -> None:
        self.first = first
        self.root = root
        self.kept = deque(kept)
        self._keep = keep

    @property
    def next_number(self) -> int:
        """The number of the next block to read."""
        return self.first + len(self.kept)

    def added(self, block: BlockRef) -> None:
        """Note that a block's events were sent; forget the oldest one where too many are kept."""
        self.kept.append(block)
        if len(self.kept) > self._keep:
            self.root = self.kept.popleft().hash
            self.first += 1

    def retracted(self) -> None:
        """Note that the events of the newest block were taken back."""
        self.kept.pop()

    def decide(self, head: BlockRef, answers: Mapping[int, BlockRef | None]) -> Action:
        """Return what to do next, given the node's newest block and its answers since.

        `answers` has what the node said to each `Ask`, None where it has no such block. They may
        be of different moments: what does not fit together only leads to a `Wait`.

        Raises TooDeep where the newest block in common is older than what is kept.
        """
        answers = {head.number: head, **answers}
        newest = self.next_number - 1
        # Blocks above the node's head are no evidence: the node may lag.
        top = min(newest, head.number)
        if top < self.first - 1:
            return Wait("the node's head is older than all that is kept")
        fork = self._fork(top, head.number, answers)
        if not isinstance(fork, int):
            return fork
        if fork < top:
            return Retract(self.kept[-1])
        if newest >= head.number:
            return Wait("nothing is newer")
        return self._next(answers)

    def _fork(
        self, top: int, head: int, answers: Mapping[int, BlockRef | None]
    ) -> int | Ask | Wait:
        """Return the number of the newest block in common, at most `top`.

        A block's hash is learned from its child where there is one: that is the block to read next.
        """
        for number in range(top, self.first - 2, -1):
            ours = self._hash(number)
            if ours is None:
                return number
            asked = min(number + 1, head)
            theirs = _canonical(number, answers)
            if theirs is None:
                if asked in answers:
                    return Wait("the node has not got a block below its head")
                return Ask(asked)
            if theirs == ours:
                return number
        raise TooDeep(self.first, self.root or "", _canonical(self.first - 1, answers) or "")

    def _hash(self, number: int) -> str | None:
        return self.root if number < self.first else self.kept[number - self.first].hash

    def _next(self, answers: Mapping[int, BlockRef | None]) -> Action:
        number = self.next_number
        if number not in answers:
            return Ask(number)
        block = answers[number]
        if block is None:
            return Wait("the node has not got a block below its head")
        ours = self._hash(number - 1)
        if ours is not None and block.parent != ours:
            return Wait("the chain changed between two answers")
        return Read(block)


def _canonical(number: int, answers: Mapping[int, BlockRef | None]) -> str | None:
    """Return the hash of the canonical block of a number as the answers have it, else None."""
    if block := answers.get(number):
        return block.hash
    if child := answers.get(number + 1):
        return child.parent
    return None
