"""Checks that a partition does not end before the offsets that were already read.

A broker that has just started may report an old end offset, so a short log is an error to retry at
first, and fatal only if it stays short. Receives the end offsets; queries nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aggregator.runtime.errors import Fatal, Retry

PATIENCE_S: Final = 30.0


class EndOffsetCheck:
    """Compares the end offsets of a topic's partitions with the offsets that a member has read.

    For the error texts, `taken` says what was done with the offsets ("counted") and `remedy` how an
    operator starts again.
    """

    def __init__(
        self, topic: str, taken: str, remedy: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._topic = topic
        self._taken = taken
        self._remedy = remedy
        self._clock = clock
        self._short_since: dict[int, float] = {}

    def check(self, partition: int, next_offset: int, end: int) -> None:
        """Raise where the log ends before `next_offset`: Retry for PATIENCE_S, then Fatal."""
        if next_offset <= end:
            self._short_since.pop(partition, None)
            return
        now = self._clock()
        since = self._short_since.setdefault(partition, now)
        fault = (
            f"partition {partition} of {self._topic} ends at {end}, but the offsets below "
            f"{next_offset} are {self._taken}"
        )
        if now - since < PATIENCE_S:
            raise Retry(fault)
        raise Fatal(f"{fault}: the topic was created again or lost records. {self._remedy}")
