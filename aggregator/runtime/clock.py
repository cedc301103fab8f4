"""The clocks of the program, and a time of day that is checked against a clock that never jumps.

Windows end at the time of day, and minutes that have left all windows are freed. One wrong reading
of the host's clock would empty the windows. So `TrustedClock` uses a reading only if it agrees with
the elapsed time, or after records or time have confirmed it. Pure: both clocks are arguments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog

from aggregator.runtime import metrics

AHEAD_MS: Final = 120_000
"""A step ahead of at most this is followed without confirmation, as after a machine's pause."""
BACK_MS: Final = 10_000
"""A step back of at most this is followed slowly, without going back."""
CONFIRM_MS: Final = 60_000
"""A larger step is followed after this time if no record contradicts it."""
NOTED_MS: Final = 600_000
"""How long `fault` names a step that only time has confirmed."""
_ALLOWANCE_RATE: Final = 0.1
_SLEW_RATE: Final = 0.005

log = structlog.get_logger(__name__)


def wall_ms() -> int:
    """Return ms since the epoch by the host's clock, which may be set back or ahead any time."""
    return time.time_ns() // 1_000_000


def monotonic_ms() -> int:
    """Return ms of a clock that never jumps; only differences have a meaning.

    On Linux this clock stops while the machine is suspended.
    """
    return time.monotonic_ns() // 1_000_000


class TrustedClock:
    """A time of day that advances with the monotonic clock and follows plausible steps of the host.

    - A step ahead of at most AHEAD_MS is followed immediately. Steps that add up to more than that
      (beyond a tenth of the elapsed time) are not, so a clock that runs fast is noticed too.
    - A step back of at most BACK_MS slows `now_ms` by 0.5 % until the clocks agree.
    - Any other step is suspect: `now_ms` advances by the elapsed time, and `fault` names the step.

    A suspect step is accepted CONFIRM_MS after the last record that contradicts it (`witness`), or
    CONFIRM_MS after its start if no records come. During a suspect step ahead, `now_ms` follows
    records that prove a later time. `now_ms` goes back only when a step back is accepted;
    `take_step_back` then reports it, once.

    This class cannot notice a clock that is wrong when the process starts, because it has nothing
    to compare it with (`manage.py doctor` compares it with the clocks of the engines). After a
    suspended virtual machine resumes, the host's clock is ahead of the monotonic clock by the time
    of the suspension, and the rules for a step ahead apply. Only one thread may use an instance.
    """

    def __init__(
        self,
        wall_ms: Callable[[], int] = wall_ms,
        monotonic_ms: Callable[[], int] = monotonic_ms,
    ) -> None:
        self._wall_ms = wall_ms
        self._monotonic_ms = monotonic_ms
        self._read_at = monotonic_ms()
        # The time of day is the monotonic clock plus this offset.
        self._offset = float(wall_ms() - self._read_at)
        self._allowance = float(AHEAD_MS)
        self._gap = 0.0
        self._suspect_since: int | None = None
        self._suspect_offset = 0.0
        self._accepted: tuple[int, float] | None = None
        self._stepped_back = False

    @property
    def fault(self) -> str | None:
        """The step that is suspect, or was accepted lately, as of the last reading; else None."""
        if self._suspect_since is not None:
            return f"{_step(self._gap)}; the elapsed time counts until the step is confirmed"
        if self._accepted is not None and self._read_at - self._accepted[0] < NOTED_MS:
            return f"{_step(self._accepted[1])}, and is followed since no record contradicted it"
        return None

    def now_ms(self) -> int:
        """Return ms since the epoch."""
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
            self._suspect(at)
        return round(at + self._offset)

    def witness(self, record_ms: int) -> None:
        """Use the time of a record that was just read from the log as evidence.

        Apart from the skew of producers, no record is later than the time of day, and records are
        older where the reader lags. So a record that is clearly later than `now_ms` confirms a step
        ahead up to its own time, and any other record contradicts the step. A record nearer to
        `now_ms` than to the host's clock contradicts a step back.
        """
        if self._suspect_since is None:
            return
        ahead = record_ms - (self._read_at + self._offset)
        if self._gap > 0 and ahead > AHEAD_MS:
            self._offset += min(ahead, self._gap)
            self._gap -= min(ahead, self._gap)
        elif self._gap > 0 or ahead > self._gap / 2:
            self._suspect_since = self._read_at

    def take_step_back(self) -> bool:
        """Return whether a step back was accepted since the last call."""
        stepped, self._stepped_back = self._stepped_back, False
        return stepped

    def _trust(self) -> None:
        if self._suspect_since is not None:
            log.warning("clock_trusted_again")
        self._suspect_since = None
        metrics.CLOCK_SUSPECT.set(0)

    def _suspect(self, at: int) -> None:
        offset = self._offset + self._gap
        if self._suspect_since is None or abs(offset - self._suspect_offset) > BACK_MS:
            # Time can confirm only a step that keeps its size.
            self._suspect_since, self._suspect_offset = at, offset
            log.error("clock_doubted", ahead_s=round(self._gap / 1000, 3))
        metrics.CLOCK_SUSPECT.set(self._gap / 1000)
        if at - self._suspect_since < CONFIRM_MS:
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
    which = "ahead of" if gap_ms > 0 else "back from"
    return f"clock: the host's clock was set {abs(gap_ms) / 1000:.0f} s {which} the elapsed time"
