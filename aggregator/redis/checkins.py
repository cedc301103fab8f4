"""The check-in of archivers after a restart of Redis, and the restoring of lost markers.

A restarted Redis may have lost claims that the archive still has. So nothing is claimed in a new
run of Redis until the archiver of each partition has compared the two and has restored lost markers
from the rows of the archive (docs/exactly-once.md; checkin.lua, seed.lua). This module does not
know ClickHouse.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final

from aggregator.contracts.archive_rows import ArchivedMarker
from aggregator.contracts.names import archive_key, checkin_key
from aggregator.redis.session import Incarnation, NewIncarnation, RedisSession

MAX_SEEDS: Final = 2_000
_CHECKIN: Final = "checkin.lua"
_SKIP: Final = "checkin_skip.lua"
_SEED: Final = "seed.lua"


class Checkins:
    """The check-ins of one topic. Every call raises Retry and NewIncarnation."""

    def __init__(self, session: RedisSession, topic: str, marker_ttl_ms: int) -> None:
        session.use(_CHECKIN, _SKIP, _SEED)
        self._session = session
        self._bound: Incarnation | None = None
        self._topic = topic
        self._ttl = str(marker_ttl_ms)

    @property
    def _run(self) -> Incarnation:
        return self._bound or self._session.incarnation

    def bound(self) -> Checkins:
        """Return a copy whose calls reach only the run of Redis that is bound now.

        It serves a job on another thread: the markers that this run lacks are not those that a
        later run lacks.
        """
        bound = copy(self)
        bound._bound = self._run
        return bound

    def look(self, partition: int, partitions: int, frontier: int) -> int | None:
        """Check a partition in, unless claims below the offset `frontier` may be lost.

        If they may be, change nothing and return the first offset whose claim may be lost.
        """
        lost_from = int(self._check_in(partition, partitions, frontier, "look", 0))
        return None if lost_from < 0 else lost_from

    def seeded(self, partition: int, partitions: int, frontier: int, lost_from: int) -> None:
        """Check a partition in after the archive's rows of [lost_from, frontier) were seeded."""
        self._check_in(partition, partitions, frontier, "seeded", lost_from)

    def complete(self) -> bool:
        """Return whether every partition is checked in, or an operator called `skip`."""
        run = self._run
        return bool(run.read(checkin_key(self._topic)) == run.run_id.encode())

    def renew(self, partition: int, partitions: int, frontier: int) -> None:
        """Check in again a partition whose check-in key Redis lost.

        Raises NewIncarnation if Redis lost more than that key: claims may be lost too.
        """
        if partition in self.missing(partitions):
            raise NewIncarnation(f"redis lost the check-in of partition {partition}")
        if self.look(partition, partitions, frontier) is not None:
            raise NewIncarnation(f"redis lost claims of partition {partition}")

    def seed(self, rows: Sequence[ArchivedMarker]) -> None:
        """Write the markers of these archive rows, in calls of at most MAX_SEEDS."""
        for begin in range(0, len(rows), MAX_SEEDS):
            some = rows[begin : begin + MAX_SEEDS]
            kinds = "".join(["R" if row.removed else "S" for row in some])
            verdicts = "".join([row.verdict for row in some])
            positions = ",".join([f"{row.partition}:{row.offset}" for row in some])
            markers = b"".join([row.marker for row in some])
            self._run.call(_SEED, (), (self._ttl, kinds, verdicts, markers, positions))

    def missing(self, partitions: int) -> list[int]:
        """Return the partitions whose archiver has not checked in with this run of Redis."""
        incarnation = self._run
        run = incarnation.run_id.encode()
        return [
            partition
            for partition in range(partitions)
            if incarnation.read_fields(archive_key(self._topic, partition), [b"run"]) != [run]
        ]

    def skip(self) -> bool:
        """Allow claims without the archivers; return false if all of them have checked in."""
        return bool(self._run.call(_SKIP, self._keys(), ()))

    def skipped(self) -> bool:
        """Return whether `skip` was called in this run of Redis while an archiver is missing."""
        incarnation = self._run
        run = incarnation.run_id.encode()
        return bool(incarnation.read_fields(self._keys()[1], [b"skipped"]) == [run])

    def _keys(self) -> tuple[bytes, bytes]:
        return checkin_key(self._topic), f"archive:{self._topic}".encode()

    def _check_in(
        self, partition: int, partitions: int, frontier: int, step: str, lost_from: int
    ) -> int:
        keys = [archive_key(self._topic, each) for each in range(partitions)]
        answer = self._run.call(
            _CHECKIN,
            (*self._keys(), keys[partition], *keys),
            (frontier, step, lost_from, self._ttl),
        )
        return int(answer)
