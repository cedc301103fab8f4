"""One line of the doctor's report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from aggregator.runtime.config import Config

Level = Literal["OK", "WARN", "FAIL"]

# How long an engine may take to answer, and how far clocks may lie apart.
TIMEOUT_S: Final = 5.0
SKEW_WARN_MS: Final = 1_000
SKEW_FAIL_MS: Final = 30_000


class Finding(msgspec.Struct, frozen=True):
    """`what` was looked at, `said` is how it is, `fix` what to do; "" where nothing need be done.

    OK: as it should be. WARN: it works, but look at it. FAIL: the service cannot run right.
    """

    level: Level
    what: str
    said: str
    fix: str = ""


Check = Callable[[Config], list[Finding]]


def of_clock(what: str, ahead_ms: int) -> Finding:
    """An engine's clock that is `ahead_ms` of this machine's; negative where it is behind."""
    said = f"{abs(ahead_ms)} ms {'ahead of' if ahead_ms >= 0 else 'behind'} this machine"
    fix = "let NTP (chrony) set the clocks of both machines"
    if abs(ahead_ms) > SKEW_FAIL_MS:
        return Finding("FAIL", what, said, fix)
    if abs(ahead_ms) > SKEW_WARN_MS:
        return Finding("WARN", what, said, fix)
    return Finding("OK", what, said)
