"""The log as a member of a consumer group sees it: a port, and the values that cross it.

`member.kafka` implements it with a Kafka client, `member.memory` in memory; one contract suite
tests both. Every assigned partition starts paused, and its owner begins it at an offset that it
chooses. Only the owner commits, with metadata.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

import msgspec

from aggregator.contracts.records import LogRecord, Origin

LONGEST_METADATA: Final = 4095
"""The characters of commit metadata that a broker accepts by default.

`offset.metadata.max.bytes` is 4096, but a broker compares characters and refuses that many.
"""


class Listener(Protocol):
    """Receives the group's assignments; called from inside `poll` and `close`."""

    def on_assign(self, partitions: Sequence[int]) -> None:
        """This member now owns these partitions; they are paused until `begin`."""

    def on_revoke(self, partitions: Sequence[int]) -> None:
        """These partitions go to another member after this call: drain them and commit."""

    def on_lost(self, partitions: Sequence[int]) -> None:
        """Another member already owns these partitions: discard their state."""


class LogExtent(msgspec.Struct, frozen=True):
    """The log holds the offsets [start, end).

    `since` is the first offset at or after the requested time.
    """

    start: int
    end: int
    since: int


class Records(msgspec.Struct, gc=False):
    """The polled records of one partition in log order, as columns of equal length.

    One object per record would cost as much as decoding it. `timestamps` are the records', ms since
    the epoch. `origins` says where forwarded records come from; it is None where the run holds no
    forwarded record, which is the usual case.
    """

    partition: int
    offsets: list[int]
    timestamps: list[int]
    values: list[bytes | None]
    origins: list[Origin | None] | None
    _sources: Sequence[Any]
    _record_of: Callable[[Any], LogRecord]

    def __len__(self) -> int:
        return len(self.offsets)

    def part(self, begin: int, end: int) -> Records:
        """Return the records [begin, end) of this run."""
        return Records(
            self.partition,
            self.offsets[begin:end],
            self.timestamps[begin:end],
            self.values[begin:end],
            None if self.origins is None else self.origins[begin:end],
            self._sources[begin:end],
            self._record_of,
        )

    def since(self, offset: int) -> Records:
        """Return the records at or above `offset`.

        A log may repeat records after it sought back; a sink skips those that it has taken.
        """
        begin = bisect_left(self.offsets, offset)
        return self if begin == 0 else self.part(begin, len(self.offsets))

    def record(self, index: int) -> LogRecord:
        """Return one record, with its key and headers."""
        return self._record_of(self._sources[index])


class Polled(msgspec.Struct):
    """The result of one poll.

    `records` has at most one entry per partition. `ends` maps partitions that were read to their
    end to the end offset. `out_of_range` lists partitions whose next offset the broker does not
    hold.
    """

    records: list[Records]
    ends: dict[int, int]
    out_of_range: list[int]


class Log(Protocol):
    """A topic, read as a member of a consumer group.

    The questions (`committed`, and `extent` to `first_timestamp`) and `still_reachable` may come
    from any thread and may take seconds. All else belongs to the thread of the loop.
    """

    unreachable: str
    """Why no broker can be reached; "" while one can."""
    unreadable: dict[int, str]
    """Partitions whose next batch the client cannot read, each with a sentence that says why."""
    commit_fault: str
    """Why a commit without `wait` failed; the reader clears it."""

    def subscribe(self, listener: Listener) -> None:
        """Join the group."""

    def poll(self, limit: int, timeout_s: float) -> Polled:
        """Return up to `limit` records that arrive within `timeout_s`; calls the listener.

        Nothing is returned of a partition that is paused or was not begun. A record may come again
        after a seek back, never out of order otherwise. Raises Retry and Fatal.
        """

    def committed(self, partition: int) -> tuple[int | None, str]:
        """Return the committed offset and its metadata; (None, "") where nothing is committed.

        Raises Fenced and Retry.
        """

    def commit(self, positions: Mapping[int, tuple[int, str]], *, wait: bool = True) -> None:
        """Commit {partition: (next_offset, metadata)}.

        With `wait`, raises Fenced where this member is no longer part of the group, Retry while no
        broker can be reached, and Fatal where the metadata is too long for the broker.
        Without, a later poll stores a failure in `commit_fault`.
        """

    def extent(self, partition: int, since_ms: int | None) -> LogExtent:
        """Return the offsets that the log holds, and the first with a timestamp >= `since_ms`.

        Where no record is that new, `since` is the end. With None it is the start. Raises Retry.
        """

    def partition_count(self) -> int:
        """Return the number of partitions of the topic. Raises Retry."""

    def topic_id(self) -> str:
        """Return the id of the topic, which changes when a topic of this name is made again.

        "" where the broker has no topic ids. Raises Retry.
        """

    def read_at(self, partition: int, offsets: Sequence[int]) -> dict[int, LogRecord]:
        """Return the records at these offsets; those that the log does not hold are absent.

        Needs no assignment and moves no position. Raises Retry where the broker does not answer
        within some seconds.
        """

    def last_timestamp(self, partition: int) -> int | None:
        """Return the timestamp of the log's last record, ms; None of an empty log. Raises Retry."""

    def first_timestamp(self, partition: int) -> int | None:
        """Return the timestamp of the log's first record; see `last_timestamp`."""

    def begin(self, partition: int, offset: int) -> None:
        """Start reading an assigned partition at `offset`.

        Raises Retry while the client does not accept a seek yet.
        """

    def pause(self, partitions: Sequence[int]) -> None:
        """Pause reading; a paused partition keeps its position and its owner."""

    def resume(self, partitions: Sequence[int]) -> None:
        """Resume reading."""

    def newest_end(self, partition: int) -> int | None:
        """Return the end offset as of the last fetch, without a request to the broker."""

    def still_reachable(self) -> bool:
        """Send the broker a short request; clear `unreachable` when it answers."""

    def close(self) -> None:
        """Leave the group; calls `on_revoke` for the partitions that are still owned."""
