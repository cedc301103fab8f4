"""When to try again, and how fast to send. Pure: chance and time are arguments.

Exponential backoff with full jitter: a uniform draw from 0 to the doubled bound, which spreads the
return of many clients best (M. Brooker, "Exponential Backoff and Jitter", AWS, 2015).
"""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """Seconds: the bound of the first wait, the longest bound, the least wait after a limit."""

    first_s: float = 0.5
    longest_s: float = 30.0
    limited_s: float = 5.0

    def wait_s(self, attempt: int, draw: float, limited: bool = False) -> float:
        """The wait before attempt 0, 1, …; `draw` is from [0, 1).

        After a limit was hit (4008, 4029) the wait is `limited_s` longer.
        """
        bound = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return draw * bound + (self.limited_s if limited else 0.0)


class Pace:
    """A token bucket: below the 20 messages/s, 40 at once, that the service allows a client."""

    def __init__(self, now: float, rate: float = 15, burst: float = 20) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def take(self, now: float) -> float:
        """Take a place for one message; the seconds to wait before it is sent."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._left / self._rate)
