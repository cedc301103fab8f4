"""When to reconnect, and how fast to send. Pure: randomness and time are arguments.

Exponential backoff with full jitter: a uniform draw from 0 to a bound that doubles, which spreads
reconnecting clients best (M. Brooker, "Exponential Backoff and Jitter", AWS, 2015).
"""

from __future__ import annotations

import msgspec


class Backoff(msgspec.Struct, frozen=True):
    """In seconds: the bound of the first wait, the longest bound, the extra wait after a limit."""

    first_s: float = 0.5
    longest_s: float = 30.0
    limited_s: float = 5.0

    def wait_s(self, attempt: int, draw: float, limited: bool = False) -> float:
        """Return the wait before attempt 0, 1, …; `draw` is from [0, 1).

        After a limit (4008, 4029) the wait is `limited_s` longer.
        """
        bound = min(self.longest_s, self.first_s * 2.0 ** min(attempt, 30))
        return draw * bound + (self.limited_s if limited else 0.0)


class TokenBucket:
    """A token bucket below the service's limit of 20 messages/s with bursts of 40."""

    def __init__(self, now: float, rate: float = 15, burst: float = 20) -> None:
        self._rate = rate
        self._burst = burst
        self._left = burst
        self._at = now

    def take(self, now: float) -> float:
        """Reserve one message and return the seconds to wait before sending it."""
        self._left = min(self._burst, self._left + (now - self._at) * self._rate) - 1
        self._at = now
        return max(0.0, -self._left / self._rate)
