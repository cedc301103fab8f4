"""Named points at which a test ends this process as kill -9 does, or stops it as a long pause does.

The command that runs the aggregator arms one of them at its start, from SWAPS_FAULT; nothing else
does. Disarmed, a point costs one look-up in an empty dict. Pass a point once a batch, not once an
event. Knows nothing of what lies before and behind it.
"""

from __future__ import annotations

import os
import signal
from typing import Final

from aggregator.runtime.errors import ConfigError

POINTS: Final = {
    "after_claim": "the markers have decided a batch, the windows do not have it yet",
    "after_apply": "the windows have the batch, nothing was published, saved or committed",
    "mid_snapshot": "the snapshot was taken from the windows and is not saved",
    "after_snapshot": "the snapshot is saved, the offsets are not committed",
    "after_intent": "the group has the archiver's intent, ClickHouse has nothing of it",
    "after_insert": "ClickHouse has the batch, the group does not know it",
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

    The action, kill or stop (default kill), happens at the `pass`-th time that the point is passed,
    counted from 1. Raises ConfigError.
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
    """The process has come to the point `name` of POINTS."""
    fault = _armed.get(name)
    if fault is not None:
        fault.passed()
