"""Measure how late an owner's heartbeats arrive: numbers that waited in a queue are old.

Pure. A heartbeat states when it was made, by its owner's clock (`as_of`). One that arrives longer
after that instant than others of the same owner has waited on the way: in the owner's publisher, in
NATS, or in this node's own event loop.
"""

from __future__ import annotations

from collections import deque
from typing import Final

CLOCKS_AGREE_MS: Final = 10_000
"""How far the clocks of two hosts may differ, as for JWTs (JWT_LEEWAY)."""
LEARNED_OVER_MS: Final = 300_000


class Lateness:
    """Measure the lateness of one owner's heartbeats under one epoch.

    The delay of a heartbeat is its arrival by this node's monotonic clock minus `as_of`. The least
    delay of the last five minutes counts as the difference of the two clocks, so hosts with
    different clocks are tolerated; the lateness of a heartbeat is its delay beyond that. The time
    of day bounds the difference: clocks are assumed to agree within CLOCKS_AGREE_MS, so heartbeats
    older than that are late from the first one on.

    Detected: every delay that begins, grows or varies while the owner is followed, to the
    millisecond, and every delay beyond CLOCKS_AGREE_MS. Not detected: a delay of up to
    CLOCKS_AGREE_MS that was there before the first heartbeat (a node that starts during a backlog)
    or that stays constant for five minutes, and a longer delay as far as the owner's clock is ahead
    of this node's. Reported as late although nothing has waited: heartbeats for five minutes after
    an owner's clock was set back, and as long as an owner's clock lags this node's by more than
    CLOCKS_AGREE_MS. The owner's windows end by that clock, so the numbers are that old.
    """

    def __init__(self) -> None:
        # (arrival, delay), delays ascending: the first is the least of those not older than
        # LEARNED_OVER_MS.
        self._least: deque[tuple[int, int]] = deque()

    def observe(self, as_of: int, now_ms: int, wall_ms: int | None) -> int:
        """Record a heartbeat that arrives now and return its lateness in ms.

        `now_ms` comes from a monotonic clock; `wall_ms` is this node's time of day, None if it is
        unknown.
        """
        delay = now_ms - as_of
        while self._least and self._least[-1][1] >= delay:
            self._least.pop()
        self._least.append((now_ms, delay))
        while self._least[0][0] < now_ms - LEARNED_OVER_MS:
            self._least.popleft()
        late = delay - self._least[0][1]
        if wall_ms is not None:
            late = max(late, wall_ms - as_of - CLOCKS_AGREE_MS)
        return late
