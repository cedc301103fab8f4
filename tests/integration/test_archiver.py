"""Every swap is archived exactly once: the three tables are compared with the log."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from aggregator.archiving.intents import LogPosition, pack
from aggregator.contracts.archive_rows import ArchivedMarker
from aggregator.contracts.units import DAY_MS
from aggregator.redis.checkins import Checkins
from aggregator.redis.session import NewIncarnation, RedisSession
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.engine import Process
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.archived import (
    Archive,
    Archiver,
    LosesAnswers,
    archive,
    archiving,
    wait_archived,
)
from tests.support.namesake import take_name
from tests.support.processes import kill_with_all_written, wait_until
from tests.support.service import Service, swap

# For tests that kill a member: brokers of the other protocol remove it after 45 s only.
CLASSIC = {"KAFKA_GROUP_PROTOCOL": "classic"}


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    """A ClickHouse that a test may kill and restart."""
    with Stack(tmp_path_factory.mktemp("mortal"), only=(ClickHouse,)) as own:
        yield own.clickhouse


@pytest.fixture
def service(tmp_path: Path, stack: Stack, kept: Archive) -> Iterator[Service]:
    with archiving(tmp_path, stack, kept) as running:
        yield running


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def midnight() -> int:
    """The last UTC midnight, in ms."""
    return now_ms() // DAY_MS * DAY_MS


def mixed(count: int, seed: int) -> list[bytes]:
    """Swaps on both sides of midnight, repeats, retractions in either order, and bad messages."""
    draw = random.Random(seed)
    begin = midnight() - 30_000
    values: list[bytes] = []
    last: list[bytes] = []
    for number in range(seed * 1_000_000, seed * 1_000_000 + count):
        # Out of order by some seconds; a few are so late that no bucket takes them.
        at = begin + (number % count) * 60_000 // count + draw.randint(-5_000, 5_000)
        if draw.random() < 0.03:
            at -= 600_000
        usd = None if draw.random() < 0.05 else f"{draw.randint(1, 10**9) / 10**6:.6f}"
        event = swap(number, timestamp=at, amount_usd=usd)
        values.append(event)
        again = swap(number, timestamp=at, amount_usd=usd, removed=draw.random() < 0.7)
        chance = draw.random()
        if chance < 0.1:
            values.insert(draw.randrange(len(values)), again)
        elif chance < 0.2:
            last.append(again)
        elif chance < 0.22:
            values.append(swap(number, amount="-1"))
    return values + last


def _logged(service: Service, process: Process, event: str) -> bool:
    return bool(service.logged(process, event))


def _more_than(archive: Archive, rows: int) -> bool:
    return archive.count() > rows


def test_the_archive_is_what_the_log_says(service: Service, kept: Archive) -> None:
    """Midnight, repeats before and after, retractions in either order, late swaps, bad messages."""
    for partition in range(3):
        service.produce(mixed(400, partition), partition=partition)
    with Archiver(service.env) as archiver:
        held = wait_archived(service, kept)
        wait_until(
            lambda: archiver.all(lambda s: s.lag == 0 and s.state == "archiving"), 10, "lag 0"
        )
        archiver.stop()
    assert {sign for *_, sign in held.rows} == {-1, 0, 1}
    assert len({day for _, day in held.days}) == 2
    parts = kept.ask("SELECT uniqExact(toDate(timestamp, 'UTC')) FROM raw_swaps GROUP BY _part")
    assert parts
    assert {days for (days,) in parts} == {1}
    # All of it again, and some new swaps.
    for partition in range(3):
        service.produce(mixed(450, partition), partition=partition)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        archiver.stop()


def test_a_lost_answer_to_an_insert(service: Service, kept: Archive, stack: Stack) -> None:
    with LosesAnswers(stack.clickhouse.port) as proxy:
        url = f"clickhouse://default:@127.0.0.1:{proxy.port}/{kept.name}"
        proxy.armed.set()
        service.produce(mixed(300, 1), partition=1)
        with Archiver(service.env, CLICKHOUSE_URL=url) as archiver:
            wait_until(lambda: proxy.lost == 1, 60, "a lost answer")  # It starts first.
            wait_archived(service, kept)
            proxy.armed.set()
            service.produce(mixed(300, 2), partition=1)
            wait_until(lambda: proxy.lost == 2, 60, "another lost answer")
            wait_archived(service, kept)
            archiver.stop()


@pytest.mark.parametrize("point", ["after_intent", "after_insert"])
def test_another_archiver_takes_over_after_kill_9(
    service: Service, kept: Archive, point: str
) -> None:
    for partition in range(2):
        service.produce(mixed(200, partition), partition=partition)
    killed = service.archiver("killed", SWAPS_FAULT=f"{point}:2", **CLASSIC)
    assert killed.wait(30) == -9
    with Archiver(service.env, **CLASSIC) as archiver:
        wait_archived(service, kept)
        service.produce(mixed(200, 3), partition=0)
        wait_archived(service, kept)
        archiver.stop()


def test_two_archivers_and_a_rebalance(service: Service, kept: Archive) -> None:
    """One joins, one is killed: what moves is archived once."""
    first = service.archiver("first", **CLASSIC)
    for step in range(4):
        for partition in range(4):
            service.produce(mixed(60, 10 * step + partition), partition=partition)
        if step == 0:
            second = service.archiver("second", **CLASSIC)
            wait_until(partial(_logged, service, second, "archiving"), 30, "a second archiver")
        elif step == 2:
            first.kill()
    wait_archived(service, kept)
    second.terminate()
    assert second.wait(20) == 0


def test_a_fenced_archiver_takes_its_name_again(service: Service, kept: Archive) -> None:
    """As after a broker's restart: the archiver recovers on its own and archives nothing twice."""
    service.produce(mixed(200, 1), partition=1)
    with Archiver(service.env, **CLASSIC, KAFKA_INSTANCE_ID="archiver-1") as archiver:
        wait_archived(service, kept)
        take_name(replace(archiver.config, kafka_group=archiver.config.archiver_group))
        for partition in range(4):
            service.produce(mixed(200, 10 + partition), partition=partition)
        wait_archived(service, kept, within_s=60)
        archiver.stop()


def test_an_offset_that_another_program_set_is_ignored(service: Service, kept: Archive) -> None:
    """The archive itself says how far it is, so nothing is archived twice or left out."""
    service.produce(mixed(200, 1), partition=1)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        archiver.stop()
    place = TopicPartition(service.topic, 1, 1)
    other = Consumer(
        {
            "bootstrap.servers": archiver.config.kafka_bootstrap,
            "group.id": archiver.config.archiver_group,
        }
    )
    other.commit(offsets=[place], asynchronous=False)
    other.close()
    service.produce(mixed(200, 2), partition=1)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        wait_until(lambda: archiver.all(lambda each: each.lag == 0), 20, "lag 0")
        archiver.stop()


def test_clickhouse_is_killed_while_it_inserts(mortal: ClickHouse, service: Service) -> None:
    with archive(mortal.url) as mine:
        values = [mixed(900, partition) for partition in range(4)]
        with Archiver(service.env, CLICKHOUSE_URL=mine.url, ARCHIVE_BATCH="200") as archiver:
            for begin in range(0, 900, 300):
                for partition in range(4):
                    service.produce(values[partition][begin : begin + 300], partition=partition)
                before = mine.count()
                wait_until(partial(_more_than, mine, before), 20, "an insert")
                mortal.kill()
                wait_until(
                    lambda: archiver.all(lambda s: s.state == "stalled" and s.fault is not None),
                    20,
                    "a status that names the fault",
                )
                mortal.start()
            for partition in range(4):
                service.produce(values[partition][900:], partition=partition)
            wait_archived(service, mine)
            archiver.stop()


def test_an_intent_that_the_log_no_longer_holds_is_a_gap(service: Service, kept: Archive) -> None:
    service.produce([swap(n) for n in range(30)], partition=1)
    killed = service.archiver("killed", SWAPS_FAULT="after_intent:1", **CLASSIC)
    assert killed.wait(30) == -9
    service.delete_records(1, 10)
    service.produce([swap(n) for n in range(30, 40)], partition=1)
    with Archiver(service.env, **CLASSIC) as archiver:
        # The whole batch of the intent is lost, because half of it is no longer in the log.
        wait_until(lambda: kept.count() == 10, 20, "what came after the gap")
        wait_until(lambda: archiver.all(lambda s: s.lag == 0), 10, "lag 0")
        assert archiver.statuses[1].gaps == [[0, 30]]
        archiver.stop()
    (sums,) = kept.ask("SELECT sum(trades) FROM daily_token_agg")
    assert sums == (10,)
    # The batch of the dead archiver arrives late: its token is taken, also in the views.
    poisoned = kept.ask("SELECT offset, sign FROM raw_swaps WHERE chain = '' ORDER BY sign")
    assert poisoned == [(0, -1), (0, 1)]


def test_a_log_that_was_cut_while_nobody_archived_is_a_gap(service: Service, kept: Archive) -> None:
    service.produce([swap(n) for n in range(20)], partition=2)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        archiver.stop()
    service.produce([swap(n) for n in range(20, 50)], partition=2)
    service.delete_records(2, 35)
    with Archiver(service.env) as archiver:
        wait_until(lambda: kept.count() == 35, 20, "what the log still held")
        wait_until(lambda: archiver.all(lambda s: s.lag == 0), 10, "lag 0")
        assert archiver.statuses[2].gaps == [[20, 35]]
        archiver.stop()
    assert service.manage("run_archiver", CLICKHOUSE_URL="").returncode == 1


def test_redis_loses_everything_and_archived_swaps_come_again(
    service: Service, kept: Archive
) -> None:
    """In one process: the archiver restores the markers before the windows count anything."""
    events = [swap(n) for n in range(200)]
    undone = [swap(n, removed=True, timestamp=json.loads(events[n])["timestamp"]) for n in range(9)]
    aggregator = service.aggregator()
    service.web()
    service.wait_ready()
    service.produce([*events, *undone], partition=1)
    service.wait_trades(191)
    wait_archived(service, kept)
    service.engines.redis.kill()
    shutil.rmtree(service.engines.redis.data)
    service.engines.redis.start()
    service.produce([*events[:50], swap(1_000), *undone], partition=1)
    service.wait_trades(192, 40)
    held = wait_archived(service, kept)
    assert len(held.rows) == 210
    assert service.logged(aggregator, "markers_made_again") != []
    overview = service.overview()
    assert overview["totals"]["trades"] == 192


def test_a_rebuild_while_claims_are_refused_neither_counts_nor_looks_well(
    service: Service, kept: Archive
) -> None:
    """Redis is empty; the archivers start late, and at first cannot reach ClickHouse."""

    def trades(partition: int, *numbers: int) -> list[bytes]:
        return [swap(100 * partition + n, token=f"P{partition}") for n in numbers]

    counted = []

    def shown() -> int:
        counted.append(service.overview()["totals"]["trades"])
        return counted[-1]

    service.aggregator("aggregator", "--no-archiver")
    service.web()
    with Archiver(service.env) as archiver:
        service.wait_ready()
        for partition in range(4):
            service.produce(trades(partition, *range(40)), partition=partition)
        service.wait_trades(160)
        wait_archived(service, kept)
        archiver.stop()
    service.engines.redis.kill()
    shutil.rmtree(service.engines.redis.data)
    service.engines.redis.start()
    for partition in range(4):
        service.produce(trades(partition, *range(20), 50), partition=partition)
    wait_until(lambda: "partitions 0, 1, 2, 3 are missing" in service.reasons(), 20, "the reason")
    nowhere = f"clickhouse://default:@127.0.0.1:{free_port()}/{kept.name}"
    with Archiver(service.env, CLICKHOUSE_URL=nowhere) as blind:
        wait_until(
            lambda: blind.all(lambda s: s.state == "checking_in" and s.fault is not None),
            20,
            "archivers that cannot compare",
        )
        assert not service.ready()
        assert shown() == 160
        blind.stop()
    with Archiver(service.env) as archiver:
        wait_until(lambda: shown() == 164, 30, "all that is new")
        service.wait_ready()
        held = wait_archived(service, kept)
        archiver.stop()
    assert len(held.rows) == 164
    # The totals never went down.
    assert counted == sorted(counted)


def test_a_job_of_one_run_of_redis_does_not_check_in_with_the_next(service: Service) -> None:
    redis = service.engines.redis
    session = RedisSession(service.env["REDIS_URL"])
    checkins = Checkins(session, service.topic, 60_000)
    session.connect()
    before = checkins.bound()
    before.seeded(0, 1, 10, 5)
    assert checkins.missing(1) == []
    redis.kill()
    shutil.rmtree(redis.data)
    redis.start()
    session.connect()
    with pytest.raises(NewIncarnation):
        before.seed([ArchivedMarker(bytes(16), 0, 7, False, "C")])
    with pytest.raises(NewIncarnation):
        before.seeded(0, 1, 10, 5)
    assert checkins.missing(1) == [0]
    assert checkins.look(0, 1, 10) == 0
    session.close()


def test_nothing_is_counted_before_the_check_in_unless_it_is_skipped(
    service: Service, kept: Archive
) -> None:
    service.aggregator("aggregator", "--no-archiver")
    service.web()
    service.produce([swap(1)], partition=3)
    wait_until(lambda: "partitions 0, 1, 2, 3 are missing" in service.reasons(), 20, "the reason")
    assert not service.ready()
    asked = service.manage("checkin")
    assert (asked.returncode, asked.stdout) == (1, "not checked in: partitions 0, 1, 2, 3\n")
    skipped = service.manage("checkin", "--skip")
    assert skipped.returncode == 0, skipped.stderr
    service.wait_ready()
    service.wait_trades(1)
    wait_until(lambda: "check-in was skipped" in service.reasons(), 10, "the note")
    # An archiver starts after all: it checks in, and the note disappears.
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        wait_until(lambda: "check-in was skipped" not in service.reasons(), 10, "no note")
        archiver.stop()
    assert service.manage("checkin").stdout == "every archiver has checked in\n"


def test_windows_do_not_wait_for_clickhouse_when_redis_restarts(
    mortal: ClickHouse, service: Service
) -> None:
    """Redis has lost nothing, so the archiver can check in without the archive."""
    with archive(mortal.url) as mine:
        service.aggregator("aggregator", CLICKHOUSE_URL=mine.url)
        service.web()
        service.wait_ready()
        service.produce([swap(n) for n in range(20)], partition=1)
        service.wait_trades(20)
        wait_archived(service, mine)
        mortal.kill()
        service.produce([swap(n) for n in range(20, 30)], partition=1)
        service.wait_trades(30)
        kill_with_all_written(service.engines.redis)
        service.engines.redis.start()
        service.produce([swap(n) for n in range(25, 40)], partition=1)
        service.wait_trades(40, 40)
        mortal.start()
        wait_archived(service, mine)


def test_a_backfill_archives_what_is_missing_and_nothing_twice(
    service: Service, kept: Archive
) -> None:
    """The archivers have skipped a part of the log, as an operator may have made them do."""
    archived, missing, after = mixed(150, 4), mixed(150, 5), mixed(50, 6)
    service.produce(archived, partition=1)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        archiver.stop()
    group = Consumer(
        {
            "bootstrap.servers": service.env["KAFKA_BOOTSTRAP"],
            "group.id": service.env["ARCHIVER_GROUP"],
            "enable.auto.commit": False,
        }
    )
    service.produce([*missing, *after], partition=1)
    jumped = TopicPartition(service.topic, 1, len(archived + missing), pack(LogPosition()))
    group.commit(offsets=[jumped], asynchronous=False)
    group.close()
    with Archiver(service.env) as archiver:
        end = len(archived + missing + after)
        wait_until(lambda: archiver.all(lambda s: s.lag == 0), 20, "lag 0")
        wait_until(lambda: archiver.statuses[1].next_offset == end, 20, "the log's end")
        archiver.stop()
    before = kept.held()
    everything = ["backfill", "--from", "2020-01-01", "--to", str(now_ms() + 60_000)]
    tried = service.manage(*everything, "--dry-run")
    assert tried.returncode == 0, tried.stderr
    assert kept.held() == before
    filled = service.manage(*everything)
    assert filled.returncode == 0, filled.stderr
    assert "partition 1: 100 %" in filled.stderr
    held = wait_archived(service, kept, within_s=5)
    assert len(held.rows) >= len(before.rows) + 150
    again = service.manage(*everything)
    assert again.stdout.strip().endswith(", 0 archived"), again.stdout
    assert kept.held() == held
