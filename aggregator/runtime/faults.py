"""Named points at which a test kills this process (as kill -9) or stops it (as a long pause).

The command of the process arms one point at its start, from SWAPS_FAULT; nothing else does. A
disarmed point costs one look-up in an empty dict. Put a point in the path of a batch, not of an
event. This module knows nothing of the code around a point.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from aggregator.runtime.errors import ConfigError

POINTS: Final = {
    "after_judge": "a batch is decided, the windows have not applied it",
    "after_apply": "the windows have applied the batch; it is not published, saved or committed",
    "mid_snapshot": "the snapshot was taken from the windows and is not saved",
    "after_snapshot": "the snapshot is saved, the offsets are not committed",
    "after_intent": "the group has the archiver's intent, ClickHouse has no row of the batch",
    "after_insert": "ClickHouse has the batch, the group has not committed it",
    "source_has_block": "a source has read a block; its journal has no intent of the events",
    "source_wrote_intent": "the journal has the intent of a block's events, Kafka none of them",
    "source_sent_events": "Kafka has a block's events; the next block is not begun",
    "source_wrote_retraction": "the journal has the intent of retractions, Kafka none of them",
    "source_sent_retractions": "Kafka has a block's retractions; the next step is not begun",
}
_ACTIONS: Final = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}


class _Fault:
    def __init__(self, passes: int, action: signal.Signals) -> None:
        self._left = passes
        self._action = action

    def passed(self) -> None:
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), self._action)


_armed: dict[str, _Fault] = {}


def install(spec: str) -> None:
    """Arm "<point>:<pass>" or "<point>:<pass>:<action>"; "" disarms.

    The action, kill or stop (default kill), happens when the process reaches the point for the
    `pass`-th time, counted from 1. Raises ConfigError.
    """
    _armed.clear()
    if not spec:
        return
    name, _, rest = spec.partition(":")
    passes, _, action = rest.partition(":")
    if name not in POINTS or not passes.isdigit() or (action or "kill") not in _ACTIONS:
        raise ConfigError(
            [f"SWAPS_FAULT: {spec!r}: give POINT:PASS[:ACTION], POINT one of {', '.join(POINTS)}"]
        )
    _armed[name] = _Fault(int(passes), _ACTIONS[action or "kill"])


def point(name: str) -> None:
    """Mark that the process reached the point `name` of POINTS."""
    fault = _armed.get(name)
    if fault is not None:
        fault.passed()
