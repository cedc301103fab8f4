"""How late an owner's heartbeats arrive: numbers that waited in a queue are old, however new they
look on arrival.

Pure. A heartbeat says when it was made, by its owner's clock (`as_of`). What arrives later after
that instant than others of the same owner did has waited on the way: in the owner's publisher, in
NATS, or in this node's own event loop.
"""

from __future__ import annotations

from collections import deque
from typing import Final

CLOCKS_AGREE_MS: Final = 10_000
"""How far the clocks of two hosts may be apart, as for tokens (JWT_LEEWAY)."""
LEARNED_OVER_MS: Final = 300_000


class Lateness:
    """The lateness of one owner's heartbeats under one epoch.

    The least delay (arrival by this node's monotonic clock minus `as_of`) of the last five minutes
    is taken for the difference of the clocks, so hosts whose clocks differ are tolerated; what a
    heartbeat exceeds it by is its lateness. The time of day bounds that: by more than
    CLOCKS_AGREE_MS the clocks do not differ, so older heartbeats are late from the first on.

    Detected: every delay that begins, grows or varies while the owner is followed, to the
    millisecond; a delay of any kind beyond CLOCKS_AGREE_MS. Not detected: a delay of up to
    CLOCKS_AGREE_MS that was there before the first heartbeat (a node that starts during a backlog),
    or that stays the same for five minutes; and longer ones as far as the owner's clock is ahead of
    this node's. Late without a queue: five minutes after an owner's clock was set back, and for as
    long as an owner's clock is more than CLOCKS_AGREE_MS behind this node's. Its windows end by
    that clock, so then the numbers are that old.
    """

    def __init__(self) -> None:
        # (arrival, delay), delays ascending: the first is the least of those not older than
        # LEARNED_OVER_MS.
        self._least: deque[tuple[int, int]] = deque()

    def heard(self, as_of: int, now_ms: int, wall_ms: int | None) -> int:
        """How late (ms) the heartbeat that arrives now is.

        `now_ms` is of a monotonic clock, `wall_ms` the time of day of this node, None where that
        is not known.
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
