"""The progress of the archivers, which they report once a second; for status and readiness only.

Pure: time is an argument.
"""

from __future__ import annotations

import msgspec

from aggregator.contracts.stats import ArchiveStatus

_SILENT_MS = 5_000


class Archives:
    """Keep the newest report of each partition's archiver."""

    def __init__(self) -> None:
        self._newest: dict[int, tuple[ArchiveStatus, int]] = {}

    def record(self, status: ArchiveStatus, now_ms: int) -> None:
        """Record the report of an archiver."""
        self._newest[status.partition] = status, now_ms

    def status(self, now_ms: int) -> list[ArchiveStatus]:
        """Return the newest report of each partition; an archiver that has stopped is "silent"."""
        return [
            msgspec.structs.replace(status, state="silent") if now_ms - at > _SILENT_MS else status
            for _, (status, at) in sorted(self._newest.items())
        ]

    def faults(self, now_ms: int) -> list[str]:
        """Return what is wrong with the archive, one sentence per fault and its partitions."""
        found: dict[str, list[int]] = {}
        for status in self.status(now_ms):
            for fault in _faults_of(status):
                found.setdefault(fault, []).append(status.partition)
        return [
            f"archive: {fault} (partitions {', '.join(map(str, partitions))})"
            for fault, partitions in found.items()
        ]


def _faults_of(status: ArchiveStatus) -> list[str]:
    faults = []
    if status.state == "silent":
        faults.append("its archiver is silent")
    elif status.fault is not None:
        faults.append(status.fault)
    elif status.state != "archiving":
        faults.append(status.state)
    if status.gaps:
        first, end = status.gaps[-1]
        faults.append(f"gap: Kafka no longer held the offsets {first} to {end - 1}")
    return faults
