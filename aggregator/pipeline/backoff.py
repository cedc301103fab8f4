"""Growing pauses with jitter between tries."""

from __future__ import annotations

import random
from typing import Final

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 5.0


class Backoff:
    """Pauses of 0.1 s, doubling to 5 s, each 50 to 150 % of that; `reset` after a success."""

    def __init__(self) -> None:
        self._next_s = _FIRST_S

    def pause_s(self) -> float:
        """The next pause, in seconds."""
        pause = self._next_s * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        self._next_s = min(_LONGEST_S, self._next_s * 2)
        return pause

    def reset(self) -> None:
        """Start from the shortest pause again."""
        self._next_s = _FIRST_S
