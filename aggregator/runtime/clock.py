"""The time of day, checked against a clock that never jumps.

Windows end at the time of day, and a minute that has left them is freed. One wrong reading of the
host's clock would empty them, so a reading counts only where it agrees with the time that has
elapsed, or after something else has confirmed it. Pure: both clocks are arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from aggregator.runtime import metrics

AHEAD_MS: Final = 120_000
"""A step ahead of up to this is followed without confirmation: a virtual machine that paused."""
BACK_MS: Final = 10_000
"""A step back of up to this is followed slowly, without going back."""
CONFIRM_MS: Final = 60_000
"""A larger step is followed after this time, if no record contradicts it."""
NOTED_MS: Final = 600_000
"""For how long a step that time alone confirmed is named."""
_ALLOWANCE_RATE: Final = 0.1
_SLEW_RATE: Final = 0.005

log = structlog.get_logger(__name__)


def wall_clock_ms() -> int:
    """ms since the epoch by the host's clock, which may be set back or ahead at any moment."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """ms of a clock that never jumps; only differences mean something.

    On Linux it stands still while the machine is suspended.
    """
    return time.monotonic_ns() // 1_000_000


class TrustedClock:
    """`now_ms()` goes on with the monotonic clock and follows the host's clock where that is right.

    - Ahead by at most AHEAD_MS: followed immediately. Steps that add up to more than that (beyond
      a tenth of the time elapsed) are not, so a clock that runs fast is noticed too.
    - Back by at most BACK_MS: `now_ms` goes on, slower by 0.5 % until the clocks agree.
    - Any other step is doubted: `now_ms` goes on by the time elapsed, and `fault` says so.

    A doubted step is accepted CONFIRM_MS after the last record that contradicts it (`witness`), or
    CONFIRM_MS after it began where no records come. A step ahead follows the records as they show
    that it is later. `now_ms` goes back only where a step back is accepted; `take_step_back` then
    says so, once.

    A clock that is wrong when the process starts is not noticed here: there is nothing to compare
    it with (`manage.py doctor` compares it with the engines' clocks). After a suspended virtual
    machine resumes, the host's clock is ahead of the monotonic one by the time that it slept, and
    the rules for a step ahead apply. Used by one thread.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int] = wall_clock_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._read_at = monotonic_ms()
        # The time of day is the monotonic clock's plus this.
        self._offset = float(wall_ms() - self._read_at)
        self._allowance = float(AHEAD_MS)
        self._gap = 0.0
        self._doubted_since: int | None = None
        self._doubted_offset = 0.0
        self._accepted: tuple[int, float] | None = None
        self._stepped_back = False

    @property
    def fault(self) -> str | None:
        """The step that is doubted, or was accepted lately, as of the last reading; else None."""
        if self._doubted_since is not None:
            return f"{_step(self._gap)}; the time elapsed counts until the step is confirmed"
        if self._accepted is not None and self._read_at - self._accepted[0] < NOTED_MS:
            return f"{_step(self._accepted[1])}, and is followed since no record contradicted it"
        return None

    def now_ms(self) -> int:
        """ms since the epoch."""
        at = self._monotonic_ms()
        elapsed, self._read_at = at - self._read_at, at
        self._allowance = min(AHEAD_MS, self._allowance + elapsed * _ALLOWANCE_RATE)
        self._gap = self._wall_ms() - at - self._offset
        if 0 <= self._gap <= self._allowance:
            self._allowance -= self._gap
            self._offset += self._gap
            self._trust()
        elif -BACK_MS <= self._gap < 0:
            self._offset -= min(-self._gap, elapsed * _SLEW_RATE)
            self._trust()
        else:
            self._doubt(at)
        return round(at + self._offset)

    def witness(self, record_ms: int) -> None:
        """A record of this time was just read from the log's end or below it.

        A record cannot be later than the time of day, producers' skew aside, and may be older where
        the reader lags. So one that is clearly later than `now_ms` confirms a step ahead up to its
        own time; one that is not contradicts it. One nearer to `now_ms` than to the host's clock
        contradicts a step back.
        """
        if self._doubted_since is None:
            return
        ahead = record_ms - (self._read_at + self._offset)
        if self._gap > 0 and ahead > AHEAD_MS:
            self._offset += min(ahead, self._gap)
            self._gap -= min(ahead, self._gap)
        elif self._gap > 0 or ahead > self._gap / 2:
            self._doubted_since = self._read_at

    def take_step_back(self) -> bool:
        """Whether a step back was accepted since the last call."""
        stepped, self._stepped_back = self._stepped_back, False
        return stepped

    def _trust(self) -> None:
        if self._doubted_since is not None:
            log.warning("clock_trusted_again")
        self._doubted_since = None
        metrics.CLOCK_DOUBTED.set(0)

    def _doubt(self, at: int) -> None:
        offset = self._offset + self._gap
        if self._doubted_since is None or abs(offset - self._doubted_offset) > BACK_MS:
            # Only a step that stays as it is can be confirmed by time.
            self._doubted_since, self._doubted_offset = at, offset
            log.error("clock_doubted", ahead_s=round(self._gap / 1000, 3))
        metrics.CLOCK_DOUBTED.set(self._gap / 1000)
        if at - self._doubted_since < CONFIRM_MS:
            return
        direction = "ahead" if self._gap > 0 else "back"
        log.error("clock_step_accepted", direction=direction, ahead_s=round(self._gap / 1000, 3))
        metrics.CLOCK_STEPS.labels(direction).inc()
        self._accepted = at, self._gap
        self._stepped_back = self._stepped_back or self._gap < 0
        self._offset += self._gap
        self._gap, self._allowance = 0.0, float(AHEAD_MS)
        self._trust()


def _step(gap_ms: float) -> str:
    which = "ahead of" if gap_ms > 0 else "behind"
    return (
        f"clock: the host's clock was set {abs(gap_ms) / 1000:.0f} s {which} the time that has "
        "elapsed"
    )
