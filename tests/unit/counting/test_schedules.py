"""Random schedules of two aggregators over a log, with everything that can break, broken.

Afterwards nothing fails any more, everything is read and saved, and the windows must show what the
oracle makes of the logs.
"""

from __future__ import annotations

import random
from dataclasses import replace
from decimal import Decimal

import pytest

from aggregator.contracts.homes import Homes
from aggregator.contracts.stats import TokenStats
from aggregator.counting.commit_metadata import read_metadata
from tests.support.oracle import BLOCK, Rules, decide
from tests.unit.counting.oracle import Shown, logged_of, lost_forwards, windows_of
from tests.unit.counting.world import MINUTE, SECOND, Process, World, send

SCHEDULES = 200
SPANS = {"2m": 2, "10m": 10}
SETTINGS = {
    "WINDOWS": "2m,10m",
    "MAX_FUTURE": "1m",
    "DRIFT": "1m",
    "MARKER_TTL": "12m",
    "KAFKA_PARTITIONER": "crc32",
    "BATCH_SIZE": "7",
}
RULES = Rules(partitioner="crc32", grace_ms=10 * MINUTE, max_future_ms=MINUTE, ttl_ms=12 * MINUTE)
TOKENS = "ABCDE"


class Schedule:
    """One random schedule: what producers send, what breaks, and when."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(self.random.randint(1, 3), **SETTINGS)
        self.homes = Homes("crc32", len(self.world.topic.partitions))
        self.due: list[tuple[int, int, dict[str, object]]] = []  # (time, order, record)
        self.frozen: list[Process] = []
        self.number = 0
        self.start()

    def start(self) -> None:
        process = self.world.process()
        process.outbox.may_send = lambda: self.random.random() < 0.8
        process.outbox.may_acknowledge = lambda: self.random.random() < 0.9

    def new_swap(self) -> None:
        """Plan the records of one swap: repeats, retractions, other blocks, in any order."""
        rnd, now = self.random, self.world.now
        self.number += 1
        token = rnd.choice(TOKENS)
        at = now - rnd.choice([0, rnd.randint(0, 30) * SECOND, rnd.randint(8, 11) * MINUTE])
        at += rnd.choice([0, 0, 0, rnd.randint(0, 70) * SECOND])
        kinds = rnd.choice(["A", "A", "A", "AA", "AR", "AR", "RA", "ARA", "ARAR", "AARR", "RAA"])
        hashes = rnd.choice([[None], ["0xaa"], ["0xaa", "0xbb"]])
        home = self.homes.of(f"ethereum:{token}")
        others = list(range(len(self.world.topic.partitions)))
        when = now
        for kind in kinds:
            for _ in range(rnd.choice([1, 1, 1, 2])):
                block = rnd.choice(hashes)
                partition = home if rnd.random() < 0.7 else rnd.choice(others)
                record = {"number": self.number, "partition": partition, "token": token, "at": at}
                record |= {"block_hash": block, "side": rnd.choice(["buy", "buy", "sell"])}
                record["amount_usd"] = f"{rnd.randint(1, 999)}.{rnd.randint(0, 99):02d}"
                if kind == "R":
                    record["removed"] = True
                if rnd.random() < 0.03:
                    record["side"] = "hold"
                self.due.append((when, rnd.randrange(2**30), record))
                when += rnd.choice([0, rnd.randint(0, 20) * SECOND])

    def produce(self) -> None:
        for when, _, record in sorted(self.due, key=lambda each: each[:2]):
            if when <= self.world.now:
                stamp = self.world.now + self.random.randint(-2, 2) * SECOND
                send(self.world, stamp=stamp, **record)  # type: ignore[arg-type]
        self.due = [each for each in self.due if each[0] > self.world.now]

    def step(self) -> None:
        rnd, world = self.random, self.world
        if rnd.random() < 0.5:
            self.new_swap()
        self.produce()
        world.pass_time(rnd.choice([100, 1_000, 3_000]))
        for process in list(world.processes):
            if process in self.frozen:
                continue
            if rnd.random() < 0.9:
                process.loop.round()
            if rnd.random() < 0.7:
                process.saver.step()
        if rnd.random() < 0.25:
            self.breakage()

    def breakage(self) -> None:
        rnd, world = self.random, self.world
        match rnd.randrange(14):
            case 0 | 1:
                rnd.choice(world.processes).kill()
                self.frozen = [each for each in self.frozen if each in world.processes]
            case 2:
                rnd.choice(world.processes).stop()
                self.frozen = [each for each in self.frozen if each in world.processes]
            case 3:
                # A zombie: the group gives its partitions away, and it knows nothing of it.
                process = rnd.choice(world.processes)
                process.log.expire()
                self.frozen.append(process)
            case 4:
                self.thaw()
            case 5:
                world.server.down = True
            case 6:
                world.server.down = False
            case 7:
                writes = world.server.writes
                world.server.lose(rnd.choice([0, max(0, writes - 1), max(0, writes - 5)]))
            case 8:
                world.server.lose_answers = rnd.randint(1, 3)
            case 9:
                # To the next blocks, so that ids are forgotten.
                for partition in range(len(world.topic.partitions)):
                    world.topic.skip(partition, rnd.choice([1, BLOCK // 2, BLOCK]))
            case 10:
                world.pass_time(rnd.choice([1, 5, 13]) * MINUTE)
            case 11:
                if len(world.topic.partitions) < 4:
                    world.topic.add_partitions(1)
            case 12:
                world.topic.reachable = not world.topic.reachable
            case 13:
                kept = world.server.kept(0)
                if kept.blocks:
                    world.server.lose_block(0, rnd.choice(sorted(kept.blocks)))
        if not [each for each in world.processes if each not in self.frozen]:
            self.start()
        if len(world.processes) < 2 and rnd.random() < 0.5:
            self.start()

    def thaw(self) -> None:
        """Zombies wake: what they had begun goes on before they hear of anything."""
        for process in self.frozen:
            process.saver.step()
            process.outbox.poll()
        self.frozen = []

    def settle(self) -> None:
        """Let everything work, and wait until all is read, forwarded and saved."""
        world = self.world
        world.server.down, world.server.lose_answers, world.topic.reachable = False, 0, True
        self.thaw()
        for process in world.processes:
            process.outbox.may_send = process.outbox.may_acknowledge = lambda: True
        self.produce_all()
        count = len(world.topic.partitions)
        for _ in range(400):
            world.run(1_000, 500)
            owners = world.owners
            if len(owners) == count and all(
                owner.live
                and owner.next_offset == owner.saved_offset == world.topic.partitions[p].end
                for p, owner in owners.items()
            ):
                return
        states = {p: (o.live, o.next_offset, o.saved_offset) for p, o in world.owners.items()}
        ends = [each.end for each in world.topic.partitions]
        raise AssertionError(f"not settled: {states}, ends {ends}")

    def produce_all(self) -> None:
        while self.due:
            self.world.pass_time(SECOND)
            self.produce()

    def check(self) -> None:
        world = self.world
        logs = [world.topic.records(p) for p in range(len(world.topic.partitions))]
        committed = world.topic.group("aggregators").committed.values()
        # Partitions that the topic got before it was first read are homes as well.
        (count,) = {read_metadata(metadata).homes for _, metadata in committed}
        log = [logged_of(record) for log in logs for record in log]
        decided = decide(log, replace(RULES, homes=count))
        assert lost_forwards(decided) == []
        expected = windows_of(decided, SPANS, world.now)
        assert shown(world.readers.rows.values()) == expected
        assert counted(world) == expected
        bad = sum(each.letter == "B" for each in decided)
        letters = {(each.record.partition, each.record.offset) for each in world.letters}
        assert len(letters) == bad


def shown(rows: object) -> dict[tuple[str, str], Shown]:
    """Return what rows of tokens say, where there are trades."""
    found = {}
    for row in rows:  # type: ignore[attr-defined]
        assert isinstance(row, TokenStats)
        for name, window in row.windows.items():
            if window.trades:
                volume = Decimal(window.volume_usd)
                found[row.token_id, name] = Shown(window.trades, window.buys, volume)
    return found


def counted(world: World) -> dict[tuple[str, str], Shown]:
    """Return what the owners hold."""
    rows = [
        owner.windows.stats(token_id, epoch=1, seq=1, next_offset=1)
        for owner in world.owners.values()
        for token_id in owner.windows.token_ids()
    ]
    return shown(rows)


@pytest.mark.parametrize("part", range(10))
def test_whatever_breaks_the_windows_end_right(part: int) -> None:
    for seed in range(part * SCHEDULES // 10, (part + 1) * SCHEDULES // 10):
        schedule = Schedule(seed)
        try:
            for _ in range(schedule.random.randint(30, 120)):
                schedule.step()
            schedule.settle()
            schedule.check()
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
