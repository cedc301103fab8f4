"""Decides whether a member whose KAFKA_INSTANCE_ID the broker fenced joins again or stops.

A member can fence itself. When no heartbeat is answered for the session timeout, for example while
a broker restarts, librdkafka forgets its member id. A commit that was waiting for the broker is
then sent with the instance id and without the member id, the broker takes it for another member of
that name, and the client is dead. The member therefore joins again under its name, as a restart of
the process would. Where two processes share the name, they fence each other in turn, and the one
that is fenced too often stops. Pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aggregator.runtime.backoff import Backoff
from aggregator.runtime.errors import Fatal

# Two processes with one name fence each other every few seconds; a broker that restarts repeatedly
# causes at most one fence per restart.
_REJOINS: Final = 3
_WITHIN_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = _FIRST_PAUSE_S * 2 ** (_REJOINS - 1)


class Fences:
    """The recent fences of one member."""

    def __init__(
        self, group: str, instance_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._group = group
        self._instance_id = instance_id
        self._clock = clock
        self._at: list[float] = []
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, clock=clock)

    def pause_s(self) -> float:
        """Note one more fence and return the seconds to wait before the member joins again.

        The pause doubles with every recent fence and is jittered. Raises Fatal after so many fences
        that another process must be using the name.
        """
        now = self._clock()
        self._at = [each for each in self._at if now - each < _WITHIN_S] + [now]
        if len(self._at) > _REJOINS:
            raise Fatal(
                f"kafka: the name KAFKA_INSTANCE_ID={self._instance_id} was taken from this member "
                f"of group {self._group} {len(self._at)} times within {_WITHIN_S:.0f} s: another "
                "process has the same name; give each process its own, then start this one again"
            )
        if len(self._at) == 1:
            self._backoff.reset()
        return self._backoff.pause_s()
