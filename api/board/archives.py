"""How far the archivers are, as they say it once a second; for status and readiness alone.

Pure: the caller tells the time.
"""

from __future__ import annotations

import msgspec

from aggregator.contracts.stats import ArchiveStatus

_SILENT_MS = 5_000


class Archives:
    """The newest word of each partition's archiver."""

    def __init__(self) -> None:
        self._heard: dict[int, tuple[ArchiveStatus, int]] = {}

    def heard(self, status: ArchiveStatus, now_ms: int) -> None:
        """An archiver has said where it is."""
        self._heard[status.partition] = status, now_ms

    def status(self, now_ms: int) -> list[ArchiveStatus]:
        """The newest of each partition; the state of one that says nothing any more is "silent"."""
        return [
            msgspec.structs.replace(status, state="silent") if now_ms - at > _SILENT_MS else status
            for _, (status, at) in sorted(self._heard.items())
        ]

    def faults(self, now_ms: int) -> list[str]:
        """What is wrong with the archive, a sentence each; the same of several partitions once."""
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
        first, behind = status.gaps[-1]
        faults.append(f"gap: Kafka no longer held the offsets {first} to {behind - 1}")
    return faults
