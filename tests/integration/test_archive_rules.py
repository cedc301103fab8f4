"""The rules of the archive, on a log in memory and a real ClickHouse: one test a rule."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from aggregator.archiving.intents import unpack
from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.writer import ArchiveWriter
from aggregator.contracts.units import DAY_MS
from aggregator.member.memory import MemoryTopic
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import load
from aggregator.runtime.errors import Fatal
from infra.embedded.stack import Stack
from tests.support import archive_rows
from tests.support.archived import (
    HOUR_MS,
    TTL_MS,
    Archive,
    Expected,
    MemoryArchiver,
    archive,
    expected,
    memory_messages,
    token_at,
    wait_for_rows,
)
from tests.support.processes import wait_until
from tests.support.service import swap

TOKEN = token_at(0, homes=1)


@pytest.fixture
def kept(stack: Stack) -> Iterator[Archive]:
    with archive(stack.clickhouse.url) as mine:
        yield mine


@pytest.fixture
def topic() -> MemoryTopic:
    return MemoryTopic(1)


def event(number: int, **fields: Any) -> bytes:
    return swap(number, token=TOKEN, **fields)


def again(value: bytes, **fields: Any) -> bytes:
    return json.dumps(json.loads(value) | fields).encode()


def wait(topic: MemoryTopic, kept: Archive) -> Expected:
    """Wait until the archive is what the log says."""
    homes = len(topic.partitions)
    return wait_for_rows(kept, expected(memory_messages(topic), homes), 60)


def archive_all(topic: MemoryTopic, kept: Archive, **settings: str) -> Expected:
    """Archive what the log holds, with an archiver that takes over and stops."""
    with MemoryArchiver(topic, kept, **settings) as archiver:
        held = wait(topic, kept)
        archiver.stop()
    return held


def letters(held: Expected) -> str:
    return "".join(letter for *_, letter, _ in held.rows)


def trades(kept: Archive) -> int:
    return int(kept.ask("SELECT sum(trades) FROM daily_token_agg")[0][0])


def test_a_retraction_negates_the_row_that_stands(topic: MemoryTopic, kept: Archive) -> None:
    """Across a takeover, and whatever values it carries itself."""
    for number in range(4):
        topic.append(0, event(number, amount_usd="12.5", trader="0xaa", block_number=7))
    archive_all(topic, kept)
    topic.append(0, event(0, removed=True, amount="9", amount_usd="1", timestamp=1_795_000_000_000))
    topic.append(0, event(1, removed=True, timestamp=wall_ms() * 1000))  # microseconds by mistake
    topic.append(0, event(2, removed=True))
    topic.append(0, event(2, removed=True))
    assert letters(archive_all(topic, kept)) == "CCCCUUU"
    differs = kept.ask(
        "SELECT tx_hash FROM raw_swaps GROUP BY tx_hash, timestamp, side, amount, amount_usd, "
        "trader, block_number HAVING sum(sign) NOT IN (0, 1)"
    )
    assert differs == []
    assert trades(kept) == 1


def test_a_removal_before_its_add_makes_that_add_void(topic: MemoryTopic, kept: Archive) -> None:
    topic.append(0, event(1, removed=True))
    assert letters(archive_all(topic, kept)) == "T"
    topic.append(0, event(1))
    topic.append(0, event(1))
    assert letters(archive_all(topic, kept)) == "TVC"
    assert trades(kept) == 1


def test_a_swap_that_is_included_again(topic: MemoryTopic, kept: Archive) -> None:
    """With and without block hashes, across takeovers; equal rows are never merged."""
    plain, hashed = event(1), event(2, block_hash="0xa")
    for value in (plain, again(plain, removed=True), plain, again(plain, removed=True), plain):
        topic.append(0, value)
    for value in (hashed, again(hashed, block_hash="0xb"), again(hashed, removed=True)):
        topic.append(0, value)
    assert letters(archive_all(topic, kept)) == "CUCUCCN"
    # The removal of the block that no longer stands was ignored; that of the other one is not.
    topic.append(0, again(hashed, block_hash="0xb", removed=True))
    assert letters(archive_all(topic, kept)) == "CUCUCCNU"
    kept.ask("OPTIMIZE TABLE raw_swaps FINAL")
    held = wait(topic, kept)
    assert len(held.rows) == 8
    assert trades(kept) == 1


def test_what_was_archived_long_ago_is_looked_up(topic: MemoryTopic, kept: Archive) -> None:
    """A repeat and a retraction that come after MARKER_TTL find their rows."""
    begin = wall_ms() - TTL_MS - 4 * HOUR_MS
    old = [event(n, timestamp=begin + n) for n in range(50)]
    for value in old:
        topic.append(0, value, timestamp=begin)
    archive_all(topic, kept)
    topic.append(0, event(1_000))  # the clock of the log passes MARKER_TTL
    for value in old[:20]:
        topic.append(0, value)
    for value in old[40:]:
        topic.append(0, again(value, removed=True))
    held = archive_all(topic, kept)
    assert letters(held) == "C" * 51 + "U" * 10
    assert trades(kept) == 41


def test_many_ids_are_looked_up_in_pages(topic: MemoryTopic, kept: Archive) -> None:
    count = 20_000
    begin = wall_ms() - 3 * DAY_MS
    values = [event(n, timestamp=begin + n) for n in range(count)]
    for value in values:
        topic.append(0, value)
    with MemoryArchiver(topic, kept, ARCHIVE_LINGER="1s") as archiver:
        wait_until(lambda: kept.count() == count, 60, "all late swaps")
        archiver.stop()
    for value in values:
        topic.append(0, value)
    topic.append(0, event(count))
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: kept.count() == count + 1, 60, "the last swap")
        archiver.stop()
    assert trades(kept) == count + 1


def test_another_topic_of_the_same_database_is_not_ours(kept: Archive) -> None:
    """Its rows have the same offsets; a longer and a shorter topic archive all of theirs."""
    for name, first, count in (("one", 0, 30), ("two", 100, 50), ("three", 200, 10)):
        topic = MemoryTopic(1, name=name)
        for number in range(first, first + count):
            topic.append(0, event(number))
        with MemoryArchiver(topic, kept) as archiver:
            wanted = {"one": 30, "two": 80, "three": 90}[name]
            wait_until(lambda: kept.count() == wanted, 30, "its rows")  # noqa: B023
            archiver.stop()
    assert trades(kept) == 90


def test_a_topic_that_was_made_again_is_refused(topic: MemoryTopic, kept: Archive) -> None:
    topic.append(0, event(1))
    archive_all(topic, kept)
    group = topic.group("archivers")
    committed = dict(group.committed)
    topic.make_again()
    group.committed.update(committed)
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: archiver.fault is not None, 20, "the refusal")
    assert isinstance(archiver.fault, Fatal)
    assert "created again" in str(archiver.fault)


def test_rows_that_come_in_beside_an_archiver_are_learnt(topic: MemoryTopic, kept: Archive) -> None:
    """The epoch of a partition: odd while a backfill inserts, higher afterwards.

    An archiver that is idle sees it as well, and says in the group's metadata that it waits.
    """
    topic.append(0, event(1))
    with MemoryArchiver(topic, kept) as archiver:
        wait(topic, kept)
        clickhouse = ClickHouseClient(kept.url)
        writer = ArchiveWriter(clickhouse, topic.topic_id)
        assert writer.epoch(0).number == 0
        group = topic.group("archivers")
        writer.raise_epoch(0, 1)
        assert writer.epoch(0).writing
        wait_until(lambda: unpack(group.committed[0][1]).epoch == 1, 20, "an archiver that waits")
        assert unpack(group.committed[0][1]).intent is None
        topic.append(0, event(2))
        topic.append(0, event(3))
        wait_until(lambda: archiver.statuses[0].state == "filling", 20, "its state")
        writer.raise_epoch(0, 3)
        wait_until(lambda: unpack(group.committed[0][1]).epoch == 3, 20, "the newer epoch")
        assert kept.count() == 1
        row = archive_rows.Row(number=2, timestamp=wall_ms(), token=TOKEN, topic_id=topic.topic_id)
        archive_rows.insert(load({"CLICKHOUSE_URL": kept.url}), [row], first_offset=0)
        writer.raise_epoch(0, 4)
        wait_until(lambda: kept.count() == 3, 20, "the swap that is new")
        archiver.stop()
        clickhouse.close()
    assert unpack(group.committed[0][1]).epoch == 4
    rows = kept.ask("SELECT tx_hash, sum(sign) FROM raw_swaps GROUP BY tx_hash")
    assert sorted(sums for _, sums in rows) == [1, 1, 1]


def _lag(archiver: MemoryArchiver) -> int | None:
    status = archiver.statuses.get(0)
    return None if status is None else status.lag


def test_what_archive_keep_would_take_is_not_archived(topic: MemoryTopic, kept: Archive) -> None:
    topic.append(0, event(1, timestamp=wall_ms() - 91 * DAY_MS))
    topic.append(0, event(2, timestamp=wall_ms() - 89 * DAY_MS))
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: trades(kept) == 1 if kept.count() else False, 20, "the newer one")
        wait_until(lambda: _lag(archiver) == 0, 20, "lag 0")
        archiver.stop()
    topic.append(0, event(1, timestamp=wall_ms() - 91 * DAY_MS), timestamp=wall_ms() + TTL_MS)
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: _lag(archiver) == 0, 20, "lag 0")
        archiver.stop()
    assert trades(kept) == 1


def _old_rows(kept: Archive, numbers: range, *, partition: int, first: int, at: int) -> None:
    """Insert rows as the version before did: another marker, and no topic."""
    rows = [
        archive_rows.Row(
            number=n,
            timestamp=at + n,
            token=TOKEN,
            partition=partition,
            usd="10.5",
            price=5.25,
            side="buy" if n % 2 else "sell",
            trader=None,
        )
        for n in numbers
    ]
    archive_rows.insert(load({"CLICKHOUSE_URL": kept.url}), rows, first_offset=first)


def test_the_archive_of_the_version_before_is_continued(kept: Archive) -> None:
    """Its rows are found by what makes the identity, on any partition, by repeats and removals."""
    topic, at = MemoryTopic(1), wall_ms() - 60_000
    old = [event(n, timestamp=at + n) for n in range(30)]
    for value in old[:20]:
        topic.append(0, value)
    with MemoryArchiver(MemoryTopic(1, name="first"), kept) as archiver:
        wait_until(lambda: 0 in archiver.statuses, 30, "the tables")
        archiver.stop()
    _old_rows(kept, range(20), partition=0, first=0, at=at)
    # Archived where it stood, away from home.
    _old_rows(kept, range(20, 30), partition=3, first=500, at=at)
    topic.group("archivers").committed[0] = (20, f"[{at},20,[],null]")
    for value in old[:5]:
        topic.append(0, value)
    for place, value in enumerate(old[20:25]):
        topic.append(0, value, headers=[("origin", f"3:{500 + place}:{at}".encode())])
    for value in (*old[15:20], *old[25:]):
        topic.append(0, again(value, removed=True, amount_usd="1"))
    topic.append(0, event(99))
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: kept.count() == 41, 30, "ten removals and a new swap")
        archiver.stop()
    position = unpack(topic.group("archivers").committed[0][1])
    assert position.switch is not None
    assert position.switch.offset == 20
    sums = dict(kept.ask("SELECT tx_hash, sum(sign) FROM raw_swaps GROUP BY tx_hash"))
    assert sorted(sums.values()) == [0] * 10 + [1] * 21
    assert kept.ask("SELECT sum(sign * amount_usd) FROM raw_swaps")[0][0] == 21 * 10.5
    # The next owner knows them as well.
    for value in (*old[:20], again(old[15], removed=True)):
        topic.append(0, value)
    topic.append(0, event(100))
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: trades(kept) == 26, 30, "five inclusions again, one removal, a new one")
        archiver.stop()


def test_an_intent_of_the_version_before_is_refused(topic: MemoryTopic, kept: Archive) -> None:
    topic.append(0, event(1))
    topic.group("archivers").committed[0] = (0, '[1,0,[],[0,0,1,[[1,0,0]],"x"]]')
    with MemoryArchiver(topic, kept) as archiver:
        wait_until(lambda: archiver.fault is not None, 20, "the refusal")
    assert "version's archiver" in str(archiver.fault)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_adds_and_removals(kept: Archive, seed: int) -> None:
    """Random streams with takeovers between and archivers that die, against other code's rules."""
    draw, topic = random.Random(seed), MemoryTopic(1)
    clock = wall_ms() - 40 * HOUR_MS
    for _step in range(4):
        for _ in range(150):
            clock += draw.choice([0, 0, 10, 1_000])
            number, lag = draw.randrange(40), draw.choice([0, 0, 1_000, 25 * HOUR_MS])
            block = draw.choice([None, "0xa", "0xb"])
            value = event(
                number,
                timestamp=clock - lag,
                removed=draw.random() < 0.4,
                block_hash=block,
                amount_usd=str(draw.randrange(1, 9)),
            )
            topic.append(0, value, timestamp=clock + draw.randrange(5))
        settings = {"ARCHIVE_BATCH": draw.choice(["7", "50", "5000"])}
        if draw.random() < 0.7:
            rows = kept.count() + draw.randrange(60)
            with MemoryArchiver(topic, kept, **settings) as archiver:
                wait_until(lambda: kept.count() > rows, 60, "some rows")  # noqa: B023
                archiver.kill()
        archive_all(topic, kept, **settings)
        clock += draw.choice([0, TTL_MS // 3])
