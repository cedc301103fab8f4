"""Growing pauses with jitter between tries."""

from __future__ import annotations

import random
import time
from typing import Final

import structlog

from aggregator.runtime import metrics

log = structlog.get_logger(__name__)

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_WAIT_S: Final = 0.2


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


class CircuitBreaker:
    """Says whether an engine may be asked now, for a loop that has other things to do meanwhile.

    `fault` is why it is left alone, "" while it works.
    """

    def __init__(self, engine: str) -> None:
        self.fault = ""
        self._engine = engine
        self._backoff = Backoff()
        self._closed_to = 0.0

    @property
    def closed_for_s(self) -> float:
        """Seconds until the engine may be asked; 0 means now."""
        return max(0.0, self._closed_to - time.monotonic())

    def failed(self, why: str) -> None:
        """The engine could not do it: leave it alone for a while."""
        pause_s = self._backoff.pause_s()
        metrics.DEPENDENCY_UP.labels(self._engine).set(0)
        metrics.DEPENDENCY_RETRIES.labels(self._engine).inc()
        log.warning("retrying", engine=self._engine, error=why, pause_s=round(pause_s, 2))
        self.fault, self._closed_to = why, time.monotonic() + pause_s

    def waits(self, why: str) -> None:
        """The engine works, but waits for somebody else: ask again soon."""
        if why != self.fault:
            log.warning("waiting", engine=self._engine, error=why)
        self.fault, self._closed_to = why, time.monotonic() + _WAIT_S

    def worked(self) -> None:
        """The engine did it."""
        if self.fault:
            log.info("recovered", engine=self._engine)
        metrics.DEPENDENCY_UP.labels(self._engine).set(1)
        self._backoff.reset()
        self.fault, self._closed_to = "", 0.0
