"""What archivers and Redis tell each other: the check-in after a restart, and markers made again.

A restarted Redis may have lost claims that the archive has kept. So nothing is claimed in a new run
until each partition's archiver has compared the two, and has made lost markers again from the
archive's rows (DESIGN 4 rule 7; checkin.lua, seed.lua). Knows nothing of ClickHouse.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Final, NamedTuple

from aggregator.contracts.names import archive_key, checkin_key
from aggregator.redis.session import Incarnation, NewIncarnation, RedisSession

MAX_SEEDS: Final = 2_000
_CHECKIN: Final = "checkin.lua"
_SKIP: Final = "checkin_skip.lua"
_SEED: Final = "seed.lua"


class Seed(NamedTuple):
    """One row of the archive as a marker knows it; `verdict` is a letter of C, L, U, V."""

    marker: bytes
    partition: int
    offset: int
    removed: bool
    verdict: str


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
        """The same in the run of Redis that is bound now, and in none after it.

        For a job on another thread: what it was told to make again is not what a later run lacks.
        """
        bound = copy(self)
        bound._bound = self._run
        return bound

    def look(self, partition: int, partitions: int, frontier: int) -> int | None:
        """Check a partition in, unless claims below `frontier` may be lost.

        Then nothing is changed, and the first offset whose claim may be lost is the answer.
        """
        lost_from = int(self._check_in(partition, partitions, frontier, "look", 0))
        return None if lost_from < 0 else lost_from

    def seeded(self, partition: int, partitions: int, frontier: int, lost_from: int) -> None:
        """Check a partition in: what the archive has of [lost_from, frontier) is seeded."""
        self._check_in(partition, partitions, frontier, "seeded", lost_from)

    def complete(self) -> bool:
        """Whether every partition is checked in, or somebody did `skip`."""
        run = self._run
        return bool(run.read(checkin_key(self._topic)) == run.run_id.encode())

    def renew(self, partition: int, partitions: int, frontier: int) -> None:
        """Check in again a partition that is checked in, where Redis lost the key that says so.

        Raises NewIncarnation where Redis lost more than that key: claims may be lost too.
        """
        if partition in self.missing(partitions):
            raise NewIncarnation(f"redis lost the check-in of partition {partition}")
        if self.look(partition, partitions, frontier) is not None:
            raise NewIncarnation(f"redis lost claims of partition {partition}")

    def seed(self, rows: Sequence[Seed]) -> None:
        """Make the markers of rows of the archive."""
        for begin in range(0, len(rows), MAX_SEEDS):
            some = rows[begin : begin + MAX_SEEDS]
            kinds = "".join(["R" if row.removed else "S" for row in some])
            verdicts = "".join([row.verdict for row in some])
            positions = ",".join([f"{row.partition}:{row.offset}" for row in some])
            markers = b"".join([row.marker for row in some])
            self._run.call(_SEED, (), (self._ttl, kinds, verdicts, markers, positions))

    def missing(self, partitions: int) -> list[int]:
        """The partitions whose archiver has not checked in with this run of Redis."""
        incarnation = self._run
        run = incarnation.run_id.encode()
        return [
            partition
            for partition in range(partitions)
            if incarnation.read_fields(archive_key(self._topic, partition), [b"run"]) != [run]
        ]

    def skip(self) -> bool:
        """Let claims go on without the archivers; false where they have all checked in."""
        return bool(self._run.call(_SKIP, self._keys(), ()))

    def skipped(self) -> bool:
        """Whether somebody did `skip` in this run of Redis, and an archiver is missing still."""
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
