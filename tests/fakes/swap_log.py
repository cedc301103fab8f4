"""The swap topic in memory with one partition: as much of `SwapLog` as `Aggregator` uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from aggregator.member.kafka import LogExtent, Polled, Records


class MemoryLog:
    """Partition 0. A test appends records; reading begins at the offset given to `begin`."""

    unreachable = ""
    commit_fault = ""

    def __init__(self) -> None:
        self.unreadable: dict[int, str] = {}
        self.commits: list[int] = []
        self._records: list[tuple[bytes, int]] = []
        self._committed: tuple[int | None, str] = (None, "")
        self._reading_from: int | None = None

    def append(self, value: bytes, record_ms: int) -> None:
        """Append a record of this time, as a producer does."""
        self._records.append((value, record_ms))

    def poll(self, limit: int, _timeout_s: float) -> Polled:
        """See `SwapLog`; never waits."""
        if self._reading_from is None or self._reading_from >= len(self._records):
            return Polled([], {}, [])
        first = self._reading_from
        taken = self._records[first : first + limit]
        self._reading_from = first + len(taken)
        values, times = [value for value, _ in taken], [at for _, at in taken]
        offsets = list(range(first, first + len(taken)))
        return Polled([Records(0, offsets, times, list(values), [])], {}, [])

    def committed(self, _partition: int) -> tuple[int | None, str]:
        """See `SwapLog`."""
        return self._committed

    def commit(self, positions: Mapping[int, tuple[int, str]], *, wait: bool = True) -> None:
        """See `SwapLog`."""
        self._committed = positions[0]
        self.commits.append(positions[0][0])

    def extent(self, _partition: int, since_ms: int | None) -> LogExtent:
        """See `SwapLog`."""
        older = [since_ms is not None and at < since_ms for _, at in self._records]
        since = older.index(False) if False in older else len(older)
        return LogExtent(0, len(self._records), since)

    def begin(self, _partition: int, offset: int) -> None:
        """See `SwapLog`."""
        self._reading_from = offset

    def pause(self, _partitions: Sequence[int]) -> None:
        """See `SwapLog`."""
        self._reading_from = None

    def resume(self, _partitions: Sequence[int]) -> None:
        """See `SwapLog`; here reading resumes with the next `begin`."""

    def newest_end(self, _partition: int) -> int:
        """See `SwapLog`."""
        return len(self._records)

    def still_reachable(self) -> bool:
        """See `SwapLog`."""
        return True

    def close(self) -> None:
        """See `SwapLog`."""
