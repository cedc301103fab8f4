"""What a member of a group does when the broker fences its KAFKA_INSTANCE_ID: join anew, or end.

A lone member can fence itself. Where no heartbeat is answered for the session timeout, as while a
broker restarts, librdkafka forgets its member id; a commit that was waiting for the broker then
goes out under the name and without the id, the broker takes it for another holder of the name, and
the client is dead. So the name is taken again, which is what a start of the process would do. Where
another process has the name, each fences the other in turn: whoever was fenced too often ends.
Pure.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from aggregator.runtime.backoff import Backoff
from aggregator.runtime.errors import Fatal

# Two processes of one name fence each other every few seconds; a broker that restarts again and
# again does it once a restart at most.
_REJOINS: Final = 3
_WITHIN_S: Final = 60.0
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = _FIRST_PAUSE_S * 2 ** (_REJOINS - 1)


class Fences:
    """How often the name of one member was taken from it of late."""

    def __init__(
        self, group: str, instance_id: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._group = group
        self._instance_id = instance_id
        self._clock = clock
        self._at: list[float] = []
        self._backoff = Backoff(_FIRST_PAUSE_S, _LONGEST_PAUSE_S, clock=clock)

    def pause_s(self) -> float:
        """The name was taken once more: the seconds to wait before joining anew.

        Raises Fatal where that happens so often that another process must have the name.
        """
        now = self._clock()
        self._at = [each for each in self._at if now - each < _WITHIN_S] + [now]
        if len(self._at) > _REJOINS:
            raise Fatal(
                f"kafka: the name KAFKA_INSTANCE_ID={self._instance_id} was taken from this member "
                f"of group {self._group} {len(self._at)} times within {_WITHIN_S:.0f} s: another "
                "process has the same name; give each a name of its own, then start this one again"
            )
        if len(self._at) == 1:
            self._backoff.reset()
        return self._backoff.pause_s()
