"""The health of a process's loop, for the thread that answers the probes.

The loop reports a beat once a second; a probe reads the last beat and its age. This module knows
neither HTTP nor what the loop does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

# Far above any call in the loop, and above compiling the window engine on a busy machine.
ALIVE_WITHIN_S: Final = 120.0


class Readiness(msgspec.Struct, frozen=True):
    """The answer of `/readyz`.

    `reasons` says why the process does not work now; it is empty while the process works.
    `degraded` names faults that do not stop the work.
    """

    ready: bool
    reasons: list[str]
    degraded: list[str]


class Health:
    """The last beat of a loop. One thread writes it, any thread may read it."""

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        """`now_s` is a clock that never jumps, in seconds."""
        self._now_s = now_s
        self._beat_at = now_s()
        self._readiness = Readiness(False, ["starting"], [])

    def beat(self, reasons: Sequence[str], degraded: Sequence[str] = ()) -> None:
        """Report that the loop runs. `reasons` stop its work, `degraded` does not."""
        self._readiness = Readiness(not reasons, list(reasons), list(degraded))
        self._beat_at = self._now_s()

    @property
    def silent_for_s(self) -> float:
        """Seconds since the last beat, or since the start."""
        return self._now_s() - self._beat_at

    @property
    def alive(self) -> bool:
        """Whether the loop runs. One that was silent for ALIVE_WITHIN_S needs a restart."""
        return self.silent_for_s < ALIVE_WITHIN_S

    @property
    def readiness(self) -> Readiness:
        """The readiness of the last beat, or not ready if the loop hangs."""
        if self.alive:
            return self._readiness
        return Readiness(False, [f"the loop has hung for {self.silent_for_s:.0f} s"], [])
