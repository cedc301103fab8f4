"""How many blocks one `eth_getLogs` asks for, where every vendor has limits of its own. Pure.

Vendors limit blocks, logs or bytes, and say so in words that differ and change. No words are read:
a refused range is halved, and after three good answers the next one is a quarter longer. A length
that was refused twice is a ceiling, which is tested again only seldom.
"""

from __future__ import annotations

from typing import Final

_GOOD_ANSWERS: Final = 3
_PATIENCE: Final = 8


class RangeLength:
    """The number of blocks to ask for next: `blocks`, from 1 to `longest`.

    `most_bytes` is the size that an answer should not exceed: the next one is shortened to fit.
    Answers may be reported in any order, as they come where several questions are under way.
    """

    def __init__(
        self, longest: int = 2_000, most_bytes: int = 4 << 20, *, begin: int = 100
    ) -> None:
        self.blocks = min(begin, longest)
        self._longest = longest
        self._most_bytes = most_bytes
        self._good = self._cuts = self._cut = 0
        # The longest that was answered since the last refusal, and the shortest that was refused.
        self._answered = 0
        self._refused: int | None = None
        self._ceiling: int | None = None
        self._tested: int | None = None
        self._at_ceiling = 0
        self._patience = _PATIENCE

    def answered(self, blocks: int, size_bytes: int) -> None:
        """Note that a range of `blocks` was answered with `size_bytes`."""
        if blocks >= self._cut:
            self._cuts = 0
        if size_bytes > self._most_bytes:
            self._shorten(max(1, blocks * self._most_bytes // size_bytes))
            return
        if blocks < self.blocks:
            return
        self._answered = max(self._answered, blocks)
        if self._tested is not None and blocks > self._tested:
            self._tested, self._patience = None, _PATIENCE
        if self._ceiling is not None and self.blocks >= self._ceiling:
            self._rest()
            return
        self._good += 1
        if self._good >= _GOOD_ANSWERS:
            self._good = 0
            longer = max(self.blocks + 1, self.blocks * 5 // 4)
            self.blocks = min(longer, self._longest, self._ceiling or self._longest)

    def refused(self, blocks: int) -> None:
        """Note that a range of `blocks` was refused for its length.

        The caller asks for half of it next. A range of one block cannot be halved.
        """
        if blocks > self.blocks:
            return  # asked before another refusal shortened the range
        probed = self._answered and self._answered < blocks
        if probed and self._refused is not None and blocks <= self._refused * 5 // 4:
            self._ceiling = self._answered
            self._at_ceiling = 0
        self._refused = blocks
        self._shorten(max(1, blocks // 2))

    def cut(self, blocks: int) -> bool:
        """Note that the connection failed under a range; return whether to ask for half of it.

        One cut is not the range's fault, but some vendors refuse by cutting: two in a row are.
        """
        self._cuts += 1
        self._cut = blocks
        if self._cuts < 2:
            return False
        self.refused(blocks)
        return True

    def _shorten(self, blocks: int) -> None:
        self.blocks = min(self.blocks, blocks)
        self._good = self._answered = self._cuts = 0

    def _rest(self) -> None:
        """Stay at the ceiling; test it after many answers, and after twice as many next time."""
        self._at_ceiling += 1
        if self._at_ceiling >= self._patience:
            self._tested, self._ceiling = self._ceiling, None
            self._patience *= 2
