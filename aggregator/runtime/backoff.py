"""Growing pauses with jitter between two tries of a call that fails."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

import structlog

from aggregator.runtime import metrics

log = structlog.get_logger(__name__)


class Backoff:
    """Exponential backoff with jitter and a cap.

    A pause is drawn evenly from `spread` times its length. The length starts at `first_s` and
    doubles with each pause up to `longest_s`; `reset` starts over after a success. `draw` returns
    a number in [0, 1), `clock` seconds of a clock that never jumps: tests pass their own.
    """

    def __init__(
        self,
        first_s: float = 0.1,
        longest_s: float = 5.0,
        *,
        spread: tuple[float, float] = (0.5, 1.5),
        draw: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._least, self._most = spread
        self._draw = draw
        self._clock = clock
        self._length_s = 0.0
        self._until = 0.0

    @property
    def left_s(self) -> float:
        """Seconds until the pause of `start` or `hold` ends; 0 where none runs."""
        return max(0.0, self._until - self._clock())

    def pause_s(self, first_s: float | None = None, longest_s: float | None = None) -> float:
        """Return the next pause in seconds. `first_s` and `longest_s` bound this one pause.

        The bounds serve a caller that waits longer after one kind of failure than after another.
        """
        first_s = self._first_s if first_s is None else first_s
        longest_s = self._longest_s if longest_s is None else longest_s
        self._length_s = min(longest_s, max(first_s, 2 * self._length_s))
        return self._length_s * (self._least + (self._most - self._least) * self._draw())

    def start(self) -> float:
        """Start the next pause now; return its seconds. `left_s` counts it down."""
        pause_s = self.pause_s()
        self._until = self._clock() + pause_s
        return pause_s

    def hold(self, pause_s: float) -> None:
        """Start a pause of exactly `pause_s` seconds that does not grow the next one."""
        self._until = self._clock() + pause_s

    def reset(self) -> None:
        """End the pause that runs; the next one is the shortest."""
        self._length_s = self._until = 0.0


class CircuitBreaker:
    """Stops calls to a failing engine until a pause is over, for a loop with other work to do.

    `fault` says why the engine is not called, "" while it works.
    """

    def __init__(self, engine: str, backoff: Backoff | None = None) -> None:
        self.fault = ""
        self._engine = engine
        self._backoff = backoff or Backoff()

    @property
    def open_for_s(self) -> float:
        """Seconds until the engine may be called again; 0 means now."""
        return self._backoff.left_s

    def failed(self, why: str) -> None:
        """Note that a call failed; the next one waits for a growing pause."""
        pause_s = self._backoff.start()
        metrics.DEPENDENCY_UP.labels(self._engine).set(0)
        metrics.DEPENDENCY_RETRIES.labels(self._engine).inc()
        log.warning("retrying", engine=self._engine, error=why, pause_s=round(pause_s, 2))
        self.fault = why

    def worked(self) -> None:
        """Note that a call succeeded."""
        if self.fault:
            log.info("recovered", engine=self._engine)
        metrics.DEPENDENCY_UP.labels(self._engine).set(1)
        self._backoff.reset()
        self.fault = ""
