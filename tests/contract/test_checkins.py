"""After a restart nothing is claimed until the archivers agree, and lost markers are made again."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator.contracts.archive_rows import ArchivedMarker
from aggregator.redis.checkins import Checkins
from aggregator.redis.markers import RedisMarkers
from aggregator.redis.session import NewIncarnation, NotCheckedIn, RedisSession
from infra.embedded.redis import Redis
from infra.embedded.stack import Stack
from tests.support.processes import kill_with_all_written

TTL_MS = 60_000
PARTITIONS = 2


class Side:
    """An aggregator's markers, an archiver's, and the check-ins, over one session."""

    def __init__(self, url: str, topic: str) -> None:
        self.session = RedisSession(url)
        self.windows = RedisMarkers(self.session, TTL_MS, archive_topic=topic)
        self.archive = RedisMarkers(self.session, TTL_MS, archive_topic=topic, archives=True)
        self.checkins = Checkins(self.session, topic, TTL_MS)
        self.session.connect()

    def check_in(self, *frontiers: int) -> list[int | None]:
        """Return the answer to each partition's archiver, in turn."""
        return [
            self.checkins.look(partition, PARTITIONS, frontier)
            for partition, frontier in enumerate(frontiers)
        ]


@pytest.fixture
def topic() -> str:
    return f"t-{secrets.token_hex(4)}"


@pytest.fixture
def side(stack: Stack, topic: str) -> Iterator[Side]:
    made = Side(stack.redis.url, topic)
    yield made
    made.session.close()


@pytest.fixture
def key() -> bytes:
    return secrets.token_bytes(16)


def test_the_last_check_in_opens_the_barrier(side: Side, key: bytes) -> None:
    assert side.checkins.missing(PARTITIONS) == [0, 1]
    for partition in range(PARTITIONS):
        with pytest.raises(NotCheckedIn):
            side.windows.claim(0, [7], [key], "A")
        assert side.checkins.look(partition, PARTITIONS, 0) is None
    assert side.checkins.missing(PARTITIONS) == []
    assert side.windows.claim(0, [7], [key], "A") == "C"
    assert not side.checkins.skipped()


def test_without_an_archive_there_is_no_barrier(stack: Stack, key: bytes) -> None:
    session = RedisSession(stack.redis.url)
    markers = RedisMarkers(session, TTL_MS)
    markers.connect()
    assert markers.claim(0, [7], [key], "A") == "C"
    session.close()


def test_a_skip_opens_it_until_the_archivers_come(side: Side, key: bytes) -> None:
    assert side.checkins.skip()
    assert side.checkins.skipped()
    assert side.windows.claim(0, [7], [key], "A") == "C"
    assert side.check_in(0, 0) == [None, None]
    assert not side.checkins.skipped()
    assert not side.checkins.skip()


def test_a_witness_behind_the_frontier_means_lost_claims(side: Side, key: bytes) -> None:
    assert side.check_in(0, 0) == [None, None]
    assert side.archive.claim(1, [10, 11], [key, secrets.token_bytes(16)], "AA") == "CC"
    # The windows' claims say nothing of what the archive may have lost.
    assert side.windows.claim(1, [50], [secrets.token_bytes(16)], "A") == "C"
    assert side.check_in(0, 12) == [None, None]
    assert side.check_in(0, 13) == [None, 12]


def test_below_the_frontier_an_absent_claim_was_rejected(side: Side, key: bytes) -> None:
    assert side.check_in(0, 20) == [None, 0]
    seeded, absent = secrets.token_bytes(16), [secrets.token_bytes(16) for _ in range(4)]
    side.checkins.seed([ArchivedMarker(seeded, 1, 10, False, "C")])
    side.checkins.seeded(1, PARTITIONS, 20, 5)
    assert side.windows.claim(1, [10, 12], [seeded, seeded], "AA") == "CD"
    assert side.windows.claim(1, [11, 19], absent[:2], "AR") == "DD"
    # Outside [5, 20), and on another partition, it is new.
    assert side.windows.claim(1, [4, 20], absent[2:], "AA") == "CC"
    assert side.windows.claim(0, [11], [absent[0]], "A") == "C"
    # A retraction of what is known, whose own claim is absent, was rejected too.
    assert side.windows.claim(1, [13, 25], [seeded, seeded], "RR") == "DU"
    assert side.check_in(0, 20) == [None, None]


@pytest.mark.parametrize(
    ("rows", "windows", "archive"),
    [
        ([("swap", "C")], "C", "C"),
        ([("swap", "L")], "L", "L"),
        ([("swap", "C"), ("retraction", "U")], "CU", "CU"),
        ([("swap", "L"), ("retraction", "U")], "LV", "LU"),
        ([("retraction", "U"), ("swap", "L")], "LV", "LU"),
        ([("swap", "V"), ("retraction", "V")], "VV", "VV"),
        ([("retraction", "V"), ("swap", "V")], "VV", "VV"),
    ],
)
def test_a_seeded_marker_decides_as_before(
    side: Side, key: bytes, rows: list[tuple[str, str]], windows: str, archive: str
) -> None:
    """Swap at 0:5, retraction at 1:6; the rows are archived in this order."""
    side.check_in(0, 0)
    # A claim that Redis holds by mistake gives way to the archive.
    side.windows.claim(0, [99], [key], "A")
    places = {"swap": (0, 5), "retraction": (1, 6)}
    side.checkins.seed(
        [
            ArchivedMarker(key, *places[what], what == "retraction", verdict)
            for what, verdict in rows
        ]
    )
    for markers, verdicts, retraction in (
        (side.windows, windows, "R"),
        (side.archive, archive, "r"),
    ):
        assert markers.claim(0, [5, 99], [key, key], "AA") == verdicts[0] + "D"
        if len(verdicts) > 1:
            assert markers.claim(1, [6, 7], [key, key], 2 * retraction) == verdicts[1] + "D"


def test_the_archive_undoes_what_was_late(side: Side, key: bytes) -> None:
    """The windows have nothing to undo; whoever asks first, both read it back."""
    side.check_in(0, 0)
    assert side.archive.claim(0, [1], [key], "L") == "L"
    assert side.windows.claim(0, [2], [key], "R") == "V"
    assert side.archive.claim(0, [2], [key], "r") == "U"
    other = secrets.token_bytes(16)
    assert side.archive.claim(0, [3, 4], [other, other], "Lr") == "LU"
    assert side.windows.claim(0, [3, 4], [other, other], "AR") == "LV"


def test_a_new_run_of_redis_waits_again(tmp_path: Path, topic: str, key: bytes) -> None:
    with Stack(tmp_path, only=(Redis,)) as own:
        side = Side(own.redis.url, topic)
        assert side.check_in(0, 0) == [None, None]
        assert side.archive.claim(0, [4], [key], "A") == "C"
        kill_with_all_written(own.redis)
        own.redis.start()
        with pytest.raises(NewIncarnation):
            side.checkins.look(0, PARTITIONS, 5)
        side.session.connect()
        with pytest.raises(NotCheckedIn):
            side.windows.claim(0, [4], [key], "A")
        # Nothing was lost, so nobody has to make markers again.
        assert side.check_in(5, 0) == [None, None]
        assert side.windows.claim(0, [4, 9], [key, key], "AA") == "CD"
        own.redis.kill()
        shutil.rmtree(own.redis.data)
        own.redis.start()
        side.session.connect()
        assert side.check_in(5, 0) == [0, None]
        assert side.checkins.missing(PARTITIONS) == [0]
        side.session.close()
