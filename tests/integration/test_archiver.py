"""Every swap is archived exactly once: the three tables are compared with the log."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import Consumer, TopicPartition

from aggregator.archiving.intents import pack, unpack
from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.writer import ArchiveWriter
from aggregator.contracts.units import DAY_MS
from infra.embedded.clickhouse import ClickHouse
from infra.embedded.engine import Process
from infra.embedded.stack import Stack
from tests.support.archived import (
    Archive,
    Archiver,
    Expected,
    LosesAnswers,
    archive,
    archiving,
    expected,
    messages,
    token_at,
    wait_archived,
)
from tests.support.namesake import take_name
from tests.support.processes import wait_until
from tests.support.service import Service, swap

# For tests that kill a member: brokers of the other protocol remove it after 45 s only.
CLASSIC = {"KAFKA_GROUP_PROTOCOL": "classic"}
WITHIN_S = 90


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


def mixed(count: int, seed: int, partition: int = 1) -> list[bytes]:
    """Swaps on both sides of midnight, repeats, retractions, inclusions again, bad messages."""
    draw = random.Random(seed)
    begin = midnight() - 30_000
    values: list[bytes] = []
    last: list[bytes] = []
    for number in range(seed * 1_000_000, seed * 1_000_000 + count):
        # Out of order by some seconds; a few are late.
        at = begin + (number % count) * 60_000 // count + draw.randint(-5_000, 5_000)
        if draw.random() < 0.03:
            at -= 25 * 3_600_000
        usd = None if draw.random() < 0.05 else f"{draw.randint(1, 10**9) / 10**6:.6f}"
        block = draw.choice([None, None, "0xa1"])
        given = {"token": token_at(partition, number % 3), "timestamp": at, "amount_usd": usd}
        values.append(swap(number, **given, block_hash=block))
        again = [
            swap(number, **given, block_hash=block),
            # A retraction with other values, in the same block.
            swap(number, **given | {"amount_usd": "7"}, block_hash=block, removed=True),
            swap(number, **given, block_hash=draw.choice([block, "0xb2"])),
            swap(number, **given, block_hash="0xb2", removed=True),
        ]
        chance = draw.random()
        if chance < 0.1:
            values.insert(draw.randrange(len(values)), draw.choice(again))
        elif chance < 0.3:
            last += draw.choices(again, k=draw.randint(1, 4))
        elif chance < 0.32:
            values.append(swap(number, amount="-1"))
    return values + last


def _all_late(found: Expected) -> list[tuple[object, ...]]:
    late = str.maketrans("CNP", "Lnn")
    return [(*row[:3], row[3].translate(late), row[4]) for row in found.rows]


def _logged(service: Service, process: Process, event: str) -> bool:
    return bool(service.logged(process, event))


def _more_than(archive: Archive, rows: int) -> bool:
    return archive.count() > rows


def test_the_archive_is_what_the_log_says(service: Service, kept: Archive) -> None:
    """Midnight, repeats before and after, retractions in either order, late swaps, bad messages."""
    for partition in range(3):
        service.produce(mixed(400, partition, partition), partition=partition)
    with Archiver(service.env) as archiver:
        held = wait_archived(service, kept)
        wait_until(
            lambda: archiver.all(lambda s: s.lag == 0 and s.state == "archiving"), 10, "lag 0"
        )
        archiver.stop()
    assert {letter for *_, letter, _ in held.rows} >= set("CLUTVN")
    assert {sign for *_, sign in held.rows} == {-1, 0, 1}
    assert len({day for _, day in held.days}) == 3
    parts = kept.ask("SELECT uniqExact(toDate(timestamp, 'UTC')) FROM raw_swaps GROUP BY _part")
    assert parts
    assert {days for (days,) in parts} == {1}
    # All of it again, and some new swaps.
    for partition in range(3):
        service.produce(mixed(450, partition, partition), partition=partition)
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
        service.produce(mixed(200, partition, partition), partition=partition)
    killed = service.archiver("killed", SWAPS_FAULT=f"{point}:2", **CLASSIC)
    assert killed.wait(WITHIN_S) == -9
    with Archiver(service.env, **CLASSIC) as archiver:
        wait_archived(service, kept)
        service.produce(mixed(200, 3, 0), partition=0)
        wait_archived(service, kept)
        archiver.stop()


def test_two_archivers_and_a_rebalance(service: Service, kept: Archive) -> None:
    """One joins, one is killed: what moves is archived once."""
    first = service.archiver("first", **CLASSIC)
    for step in range(4):
        for partition in range(4):
            service.produce(mixed(60, 10 * step + partition, partition), partition=partition)
        if step == 0:
            second = service.archiver("second", **CLASSIC)
            wait_until(partial(_logged, service, second, "archiving"), 30, "a second archiver")
        elif step == 2:
            first.kill()
    wait_archived(service, kept)
    second.terminate()
    assert second.wait(WITHIN_S) == 0


def test_a_fenced_archiver_takes_its_name_again(service: Service, kept: Archive) -> None:
    """As after a broker's restart: the archiver recovers on its own and archives nothing twice."""
    service.produce(mixed(200, 1), partition=1)
    with Archiver(service.env, **CLASSIC, KAFKA_INSTANCE_ID="archiver-1") as archiver:
        wait_archived(service, kept)
        take_name(replace(archiver.config, kafka_group=archiver.config.archiver_group))
        for partition in range(4):
            service.produce(mixed(200, 10 + partition, partition), partition=partition)
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
        values = [mixed(900, partition, partition) for partition in range(4)]
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
    service.produce([swap(n, token=token_at(1)) for n in range(30)], partition=1)
    killed = service.archiver("killed", SWAPS_FAULT="after_intent:1", **CLASSIC)
    assert killed.wait(WITHIN_S) == -9
    service.delete_records(1, 10)
    service.produce([swap(n, token=token_at(1)) for n in range(30, 40)], partition=1)
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
    service.produce([swap(n, token=token_at(2)) for n in range(20)], partition=2)
    with Archiver(service.env) as archiver:
        wait_archived(service, kept)
        archiver.stop()
    service.produce([swap(n, token=token_at(2)) for n in range(20, 50)], partition=2)
    service.delete_records(2, 35)
    with Archiver(service.env) as archiver:
        wait_until(lambda: kept.count() == 35, 20, "what the log still held")
        wait_until(lambda: archiver.all(lambda s: s.lag == 0), 10, "lag 0")
        assert archiver.statuses[2].gaps == [[20, 35]]
        archiver.stop()
    assert service.manage("run_archiver", CLICKHOUSE_URL="").returncode == 1


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
    (committed,) = group.committed([TopicPartition(service.topic, 1)], timeout=10)
    position = msgspec.structs.replace(unpack(committed.metadata or ""), clock=None)
    jumped = TopicPartition(service.topic, 1, len(archived + missing), pack(position))
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
    clickhouse = ClickHouseClient(kept.url)
    writer = ArchiveWriter(clickhouse, position.topic_id)
    writer.raise_epoch(1, 5)
    refused = service.manage(*everything)
    assert refused.returncode == 1
    assert "another backfill is at work" in refused.stderr
    writer.raise_epoch(1, 6)
    filled = service.manage(*everything)
    assert filled.returncode == 0, filled.stderr
    assert "partition 1: 100 %" in filled.stderr
    held = kept.held()
    wanted = expected(messages(service.env["KAFKA_BOOTSTRAP"], service.topic))
    # What a backfill archives counts as late.
    assert _all_late(held) == _all_late(wanted)
    assert (held.candles, held.days) == (wanted.candles, wanted.days)
    assert len(held.rows) >= len(before.rows) + 150
    assert writer.epoch(1).number == 8
    clickhouse.close()
    again = service.manage(*everything)
    assert again.stdout.strip().endswith(", 0 archived"), again.stdout
    assert kept.held() == held


def test_a_backfill_and_dying_archivers_archive_no_swap_twice(
    service: Service, kept: Archive
) -> None:
    """Both meet the same swaps: the backfill as missing ones, the archivers as repeats."""
    values = [swap(number, token=token_at(1)) for number in range(300)]
    service.produce(values, partition=1)
    with Archiver(service.env, **CLASSIC) as archiver:
        wait_archived(service, kept)
        archiver.stop()
    command = ["backfill", "--from", "2020-01-01", "--to", str(now_ms() + 60_000)]
    settings = {"ARCHIVE_BATCH": "10", **CLASSIC}
    for step, fault in enumerate(("after_intent", "after_insert", "after_intent")):
        kept.ask(
            f"ALTER TABLE raw_swaps DELETE WHERE cityHash64(tx_hash) % 3 = {step} "
            "SETTINGS mutations_sync = 2"
        )
        dying = service.archiver(f"dying-{step}", SWAPS_FAULT=f"{fault}:{step + 2}", **settings)
        wait_until(partial(_logged, service, dying, "archiving"), 30, "an archiver")
        with ThreadPoolExecutor(1) as pool:
            filling = pool.submit(service.manage, *command)
            deadline = time.monotonic() + 30
            draw = random.Random(step)
            while dying.running and time.monotonic() < deadline:
                service.produce(draw.sample(values, 10), partition=1)
                time.sleep(0.05)
            assert dying.wait(1) == -9
            with Archiver(service.env, **settings) as archiver:
                filled = filling.result(timeout=120)
                wait_until(lambda: archiver.all(lambda each: each.lag == 0), 30, "lag 0")
                archiver.stop()
        assert filled.returncode == 0, filled.stderr
        sums = kept.ask("SELECT tx_hash, toInt64(sum(sign)) FROM raw_swaps GROUP BY tx_hash")
        assert {count for _, count in sums} == {1}
        assert len(sums) == len(values)
