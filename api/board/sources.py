"""The state of the sources, which they report once a second; for status and readiness only.

Pure: time is an argument.
"""

from __future__ import annotations

from typing import Final

import msgspec

from aggregator.contracts.sources import SourceStatus

LAG_MS: Final = 60_000
"""Numbers of a source that lags by more are old."""
_SILENT_MS: Final = 5_000
# A source that was removed is shown for so long.
_KEPT_MS: Final = 86_400_000


class Sources:
    """Keep the newest report of each source's owner."""

    def __init__(self) -> None:
        self._newest: dict[str, tuple[SourceStatus, int]] = {}

    def record(self, status: SourceStatus, now_ms: int) -> None:
        """Record the report of a source's process.

        A process that stands by counts only where the owner is silent. A source that ended is no
        longer shown.
        """
        if status.state == "ended":
            self._newest.pop(status.source, None)
            return
        present = self._newest.get(status.source)
        if (
            status.state == "standby"
            and present is not None
            and present[0].state != "standby"
            and now_ms - present[1] <= _SILENT_MS
        ):
            return
        self._newest[status.source] = status, now_ms

    def status(self, now_ms: int) -> list[SourceStatus]:
        """Return the newest report of each source; one without a process is "silent".

        A source that stopped for a fault keeps its last report, which says why.
        """
        self._newest = {
            name: (status, at)
            for name, (status, at) in self._newest.items()
            if now_ms - at <= _KEPT_MS
        }
        return [
            status
            if now_ms - at <= _SILENT_MS or status.state == "stopped"
            else msgspec.structs.replace(status, state="silent")
            for _, (status, at) in sorted(self._newest.items())
        ]

    def faults(self, now_ms: int) -> list[str]:
        """Return what is wrong with the sources, one sentence for each that needs attention."""
        found = ((status.source, fault_of(status)) for status in self.status(now_ms))
        return [f"source {name}: {fault}" for name, fault in found if fault]


def fault_of(status: SourceStatus) -> str:
    """Return what is wrong with a source, "" where nothing is."""
    if status.state == "silent":
        return "no process reports; start run_source again"
    if status.state == "standby":
        return "a process stands by, and none owns the source"
    if status.state in {"stopped", "waiting"}:
        return f"{status.state}: {status.note}" if status.note else status.state
    lag_ms = lag_of(status)
    if lag_ms is not None and lag_ms > LAG_MS:
        return f"{lag_ms // 1_000:,} s of its swaps are not yet in Kafka"
    if status.unpriced_tokens:
        return f"no reference price of {', '.join(status.unpriced_tokens)}"
    return ""


def lag_of(status: SourceStatus) -> int | None:
    """Return how far a source is back by its own clock, ms; None before its first event."""
    return None if status.sent_until is None else max(0, status.as_of - status.sent_until)
