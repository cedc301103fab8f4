"""The small parts of counting: recent swaps, the start of a rebuild, the saver's thread."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest

from aggregator.contracts.seen import NEVER, SeenHeader
from aggregator.contracts.swaps import SWAP
from aggregator.counting.commit_metadata import CommitMetadata, read_metadata
from aggregator.counting.rebuild import Rebuild, plan_rebuild, rebuild_since
from aggregator.counting.recent_swaps import RecentSwaps
from aggregator.counting.save_job import SaveJob
from aggregator.counting.saver import Outcome, SnapshotSaver
from aggregator.redis.snapshots import SnapshotHeader
from aggregator.runtime.errors import Fatal
from tests.fakes.snapshots import MemoryServer, MemorySnapshots
from tests.support.processes import wait_until

HOUR, MINUTE = 3_600_000, 60_000


def test_recent_swaps_are_found_until_newer_ones_take_their_place() -> None:
    rnd, ring = random.Random(5), RecentSwaps(50)
    counted: list[int] = []
    offset = 0
    for _ in range(300):
        letters = rnd.choices("CPDLMB", k=rnd.choice([0, 1, 7, 60]))
        swaps = np.zeros(len(letters), SWAP)
        swaps["offset"] = offset + np.arange(len(letters))
        swaps["usd"] = swaps["offset"] * 3
        ring.add(swaps, np.frombuffer("".join(letters).encode(), np.uint8))
        counted += [offset + n for n, letter in enumerate(letters) if letter in "CP"]
        offset += len(letters) + rnd.randint(0, 2)
        asked = np.array([rnd.randrange(max(1, offset)) for _ in range(20)], np.int64)
        values, found = ring.find(asked)
        assert found.tolist() == [each in counted[-50:] for each in asked.tolist()]
        assert (values["usd"][found] == asked[found] * 3).all()


BASE = {"start": 0, "end": 100_000, "committed": 100_000, "max_future_ms": 5 * MINUTE}
SINCE = 1_000 * HOUR


@pytest.mark.parametrize(
    ("given", "plan"),
    [
        # The usual case: from the block of the first record that is not older.
        ({"since": (SINCE, 20_000)}, Rebuild(16_384, SINCE + 5 * MINUTE)),
        # Records from the committed offset on may have to be forwarded.
        (
            {"since": (SINCE, 20_000), "committed": 9_000},
            Rebuild(8_192, SINCE + 5 * MINUTE),
        ),
        ({"since": (SINCE, 20_000), "committed": None}, Rebuild(0, SINCE + 5 * MINUTE, whole=True)),
        # A trimmed log reaches far enough only if its first record is older by the clocks' spread.
        (
            {"since": (SINCE, 20_000), "start": 10_000, "first_ms": SINCE - 2 * MINUTE},
            Rebuild(16_384, SINCE + 5 * MINUTE),
        ),
        (
            {"since": (SINCE, 20_000), "start": 10_000, "first_ms": SINCE - MINUTE},
            Rebuild(16_384, SINCE + 5 * MINUTE, cut=True),
        ),
        (
            {"since": (SINCE, 17_000), "start": 17_000, "first_ms": SINCE + HOUR, "committed": 9},
            Rebuild(17_000, SINCE + 5 * MINUTE, cut=True, gap=(9, 17_000)),
        ),
        # By event time everything is read.
        ({"since": None}, Rebuild(0, whole=True)),
        ({"since": None, "start": 7}, Rebuild(7, cut=True)),
        # An empty log.
        ({"since": (SINCE, 0), "end": 0, "committed": None}, Rebuild(0, whole=True)),
        ({"since": None, "start": 50, "end": 50, "committed": 50}, Rebuild(50, cut=True)),
    ],
)
def test_where_a_rebuild_begins(given: dict[str, object], plan: Rebuild) -> None:
    made = plan_rebuild(**({"first_ms": 0} | BASE | given))  # type: ignore[arg-type]
    assert made == plan


def test_a_rebuild_reaches_back_twice_the_longest_window_by_record_time() -> None:
    assert rebuild_since(SINCE, 24 * HOUR, 5 * MINUTE) == SINCE - 48 * HOUR - 5 * MINUTE


def test_metadata_of_the_version_before_has_no_homes() -> None:
    assert read_metadata('{"epoch":7}') == CommitMetadata(7)
    assert read_metadata("").epoch == 0
    written = CommitMetadata(3, 4, "crc32", "id")
    assert read_metadata(written.encode()) == written
    with pytest.raises(Fatal, match="KAFKA_GROUP"):
        read_metadata("of another program")


def job(partition: int, epoch: int, call: int, before: tuple[int, int] | None) -> SaveJob:
    seen = SeenHeader(call, None, NEVER, {}, 0, 0)
    header = SnapshotHeader(epoch, call, seen, 0, None, "")
    return SaveJob(partition, header, {b"a": b"%d" % call}, [], {}, [], before)


def test_the_saver_repeats_a_save_until_redis_has_it() -> None:
    server = MemoryServer()
    snapshots = MemorySnapshots(server)
    snapshots.take(0, 1)
    saver = SnapshotSaver(snapshots)
    server.down = True
    saver.start()
    try:
        saver.submit(job(0, 1, 1, None))
        wait_until(lambda: bool(saver.fault), 5, "a fault")
        saver.wait(0, 0.01)
        assert saver.busy(0)
        assert saver.take_ended() == []
        server.down = False
        saver.wait(0, 10)
        (saved,) = saver.take_ended()
        assert saved.outcome is Outcome.SAVED
        assert not saver.busy(0)
        wait_until(lambda: not saver.fault, 5, "no fault")
        assert server.kept(0).sections == {b"a": b"1"}
    finally:
        saver.stop()


def test_a_save_that_follows_another_one_than_redis_holds_must_be_whole() -> None:
    server = MemoryServer()
    snapshots = MemorySnapshots(server)
    snapshots.take(0, 1)
    saver = SnapshotSaver(snapshots)
    saver.submit(job(0, 1, 5, (1, 4)))
    saver.step()
    assert [each.outcome for each in saver.take_ended()] == [Outcome.WHOLE]
    snapshots.take(0, 2)
    saver.submit(job(0, 1, 6, None))
    saver.step()
    assert [each.outcome for each in saver.take_ended()] == [Outcome.FENCED]


def test_a_dropped_partition_has_no_outcome() -> None:
    server = MemoryServer()
    snapshots = MemorySnapshots(server)
    snapshots.take(0, 1)
    saver = SnapshotSaver(snapshots)
    began, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        began.set()
        assert go_on.wait(10)

    server.before_write = hold
    saver.start()
    try:
        saver.submit(job(0, 1, 1, None))
        assert began.wait(10)
        saver.drop(0)
        go_on.set()
        wait_until(lambda: server.kept(0).header is not None, 5, "the write")
        assert saver.take_ended() == []
        assert not saver.busy(0)
    finally:
        go_on.set()
        saver.stop()
