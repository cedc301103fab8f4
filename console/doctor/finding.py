"""One line of the report of `manage.py doctor`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from aggregator.runtime.config import Config

Level = Literal["OK", "WARN", "FAIL"]

# The time limit for an engine's answer, and the limits for clock differences.
TIMEOUT_S: Final = 5.0
SKEW_WARN_MS: Final = 1_000
SKEW_FAIL_MS: Final = 30_000


class Finding(msgspec.Struct, frozen=True):
    """`what` was checked, `said` is its state, `fix` the action to take; "" if none is needed.

    OK: as it should be. WARN: it works, but needs attention. FAIL: the service cannot work.
    """

    level: Level
    what: str
    said: str
    fix: str = ""


Check = Callable[[Config], list[Finding]]


def of_clock(what: str, ahead_ms: int) -> Finding:
    """Return the finding for an engine's clock that is `ahead_ms` fast, slow if negative."""
    said = f"{abs(ahead_ms)} ms {'fast' if ahead_ms >= 0 else 'slow'} compared with this machine"
    fix = "let NTP (chrony) set the clocks of both machines"
    if abs(ahead_ms) > SKEW_FAIL_MS:
        return Finding("FAIL", what, said, fix)
    if abs(ahead_ms) > SKEW_WARN_MS:
        return Finding("WARN", what, said, fix)
    return Finding("OK", what, said)
