"""What a member of a consumer group does with the records: the port between the loop and a sink.

Counting is a sink, archiving is a sink. `member.loop` joins the group, polls, and calls the sink;
all calls come from the loop's thread. No call may block: a sink waits for its engines on threads of
its own and is asked again in the next round.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from aggregator.member.log import Records
from aggregator.runtime.errors import SwapsError


class Release(SwapsError):
    """Raised by `Sink.turn`: release these partitions without draining, and acquire them again."""

    def __init__(self, partitions: Sequence[int], reason: str) -> None:
        super().__init__(reason)
        self.partitions = list(partitions)
        self.reason = reason


class Sink(Protocol):
    """Takes partitions over and consumes their records.

    The life of a partition: `acquire` until it returns an offset; then `take` and `reached`, in
    the order of the log; then `release`. `release` comes once for every partition for which
    `acquire` was called, also where it never returned an offset. After Fenced or Fatal out of
    `acquire` it comes immediately, and `acquire` starts over later; after Retry it continues.

    Retry and Fenced out of `take` or `reached` release that partition without draining; it is
    acquired again after a pause. Fenced out of `turn` does so to all partitions. Fatal ends the
    process, except out of `acquire` while the process has other partitions (see `MemberLoop`).
    """

    def acquire(self, partition: int) -> int | None:
        """Start or continue taking the partition; return the offset to read from.

        None while that is not known yet: the loop calls again in its next round. Raises Retry
        (the loop backs off, for this partition alone), Fenced and Fatal.
        """

    def take(self, records: Records) -> None:
        """Consume a run of records of one partition.

        Offsets ascend within a run. After a hole in the log, or when the client was sought back, a
        run may begin below the sink's position: the sink skips what it has (`Records.since`). It is
        not the loop that does, because only the sink knows which offsets its state covers. A
        partition that is not ready may still be given the rest of the current poll.
        """

    def reached(self, partition: int, end: int) -> None:
        """Note that the partition was read up to its end offset `end`.

        Offsets below `end` without a record (transaction markers, compaction) are thereby passed.
        """

    def ready(self, partition: int) -> bool:
        """Return whether the partition takes records; the loop pauses it otherwise."""

    def turn(self) -> None:
        """Do what time makes due; called in every round, also before the group was joined.

        Raises Release to have partitions taken over again. A Retry becomes the fault `sink` of
        `MemberLoop.faults` until the next turn that works.
        """

    def wait_s(self) -> float:
        """Return how many seconds the next poll may wait for records."""

    def release(self, partition: int, *, drain: bool) -> None:
        """Drop a partition.

        With `drain` the partition is revoked, or the process stops: save and commit what is
        possible within seconds. Without, another member may own it already: save nothing. Raises
        Retry and Fenced where draining failed; the partition is released all the same.
        """

    def stop(self) -> None:
        """End the sink's threads; called once, after the last release and before the log closes."""
