"""What a process's loop says of itself, for the thread that answers its probes.

The loop beats once a second; whoever asks sees the last beat and how long ago it was. Knows nothing
of HTTP, and nothing of what the loop does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

# Far above any call that the loop waits for, and above compiling the engine on a busy machine.
ALIVE_WITHIN_S: Final = 120.0


class Readiness(msgspec.Struct, frozen=True):
    """The answer of `/readyz`.

    `reasons` are why the process does not do its work now, empty where it does; `degraded` is what
    is wrong beside that.
    """

    ready: bool
    reasons: list[str]
    degraded: list[str]


class Health:
    """Written by one thread, read by any."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is a clock that never jumps, in seconds."""
        self._now_s = now_s
        self._beat_at = now_s()
        self._readiness = Readiness(False, ["starting"], [])

    def beat(self, reasons: Sequence[str], degraded: Sequence[str] = ()) -> None:
        """The loop turns; `reasons` keep it from its work, `degraded` does not."""
        self._readiness = Readiness(not reasons, list(reasons), list(degraded))
        self._beat_at = self._now_s()

    @property
    def silent_for_s(self) -> float:
        """Seconds since the last beat, or since the start."""
        return self._now_s() - self._beat_at

    @property
    def alive(self) -> bool:
        """Whether the loop turns; one that stands still will not come back by itself."""
        return self.silent_for_s < ALIVE_WITHIN_S

    @property
    def readiness(self) -> Readiness:
        """What the last beat said, or that the loop stands still."""
        if self.alive:
            return self._readiness
        return Readiness(False, [f"the loop has stood still for {self.silent_for_s:.0f} s"], [])
