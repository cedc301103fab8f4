"""One schedule: producers, workers, clocks and faults, all drawn from a seed; then the drain."""

from __future__ import annotations

import random
from collections import defaultdict, deque
from collections.abc import Iterator
from typing import Any

from tests.model import aggregator, archiver
from tests.model.aggregator import CountingWorker
from tests.model.archiver import ArchivingWorker
from tests.model.backfill import backfill
from tests.model.engines import ModelClickHouse, ModelKafka, ModelRedis
from tests.model.reader import ModelReader
from tests.model.rules import AHEAD, CONDITIONS, DRIFT, MAX_FUTURE, SLOW, Record

# What happens to a swap (E added, R removed, with its block) and whether it stands in the end.
PLAIN = [("E", 1)] * 3 + [("E E", 1)] * 2 + [("E E E", 1)]
REORGANISED = [
    *(("E R E", 1), ("E R", 0), ("E R E R", 0), ("R E", 0), ("R E E", 1), ("E R R E", 1)),
    *(("E E R", 0), ("E R E R E", 1), ("EA RA EB", 1), ("EA EB RA", 1)),
    *(("EA RA EB RB EA", 1), ("RA EA EB", 1), ("EA EB RA RB", 0), ("EA RA", 0), ("RA EB", 1)),
    *(("EA RA EA RA", 0), ("EA EA RA EB EB", 1), ("EA RA RA EB RA", 1)),
]
LAGS = [0, 0, 0, 2, 8, 25, 50, 58, 70, 100, -3, -8]
FAR_AHEAD = [-15, -40]
Worker = tuple[str, int]


class ModelWorld:
    """The system of one seed, under some rules and faults."""

    def __init__(
        self,
        seed: int,
        rules: frozenset[str],
        faults: list[str],
        swaps: int | None = None,
        trace: bool = False,
    ) -> None:
        self.random = random.Random(seed)
        self.rules, self.faults, self._trace = rules, faults, trace
        self.now, self.draining = 100, False
        self.backfills_run = "backfill" in faults
        self._strikes = [fault for fault in faults if fault not in CONDITIONS] or ["none"]
        self._members = 0
        self.stopping: dict[Worker, int] = {}
        self._halted_until: dict[Worker, int] = {}
        self.partitions = self.homes = self.random.randint(1, 3)
        # LogAppendTime, else the producer's clock.
        self._append_time = self.random.random() < 0.3
        self.kafka = ModelKafka(self.partitions)
        self.clickhouse = ModelClickHouse(10 if "window" in faults else None)
        shared = self._node()
        split = "cluster" in faults and self.random.random() < 0.5
        self._nodes = [self._node() for _ in range(6)] if split else [shared] * 6
        self.gaps: dict[Worker, list[tuple[int, int]]] = defaultdict(list)
        # Ids of which rows were deleted by hand.
        self.deleted: set[tuple[int, int]] = set()
        self.truth: dict[tuple[int, int], tuple[str, int]] = {}
        self.outbox: list[tuple[int, Record, int, int]] = []
        self.readers: list[ModelReader] = []
        self._live: dict[Worker, Iterator[None]] = {}
        self._zombies: list[Iterator[None]] = []
        self._backfills: list[Iterator[None]] = []
        self._backfilled: set[int] = set()
        self._messages: deque[tuple[int, Any]] = deque()
        self._event_times: dict[tuple[int, str], int] = {}
        self._script = self._make_script(swaps or self.random.randint(3, 14))
        for partition in range(self.partitions):
            self._open(partition)

    # What the workers use.

    def redis_of(self, partition: int) -> ModelRedis:
        """Return the node of a partition's keys."""
        return self._nodes[partition]

    def saved_header(self, partition: int) -> Any:
        """Return the header as it is in Redis."""
        return self.redis_of(partition).data.get(("header", partition))

    def home(self, token: int) -> int:
        """Return the partition on which the records of a token count."""
        return token % (self.homes if "homes" in self.rules else self.partitions)

    def noticed(self) -> bool:
        """Return whether a worker notices that it is out of the group; until then it works on."""
        return self.draining or self.random.random() < 0.3

    def forward(self, record: Record, partition: int, offset: int) -> None:
        """Append a misplaced record to its home, stamped again: the log stays in order."""
        timestamp = max(record.timestamp, self._stamp())
        home = self.home(record.token)
        self._append(home, record._replace(origin=(partition, offset), timestamp=timestamp))

    def publish(self, partition: int, patch: Any) -> None:
        """Send a patch to the readers; it may get lost."""
        if "drop" in self.faults and not self.draining and self.random.random() < 0.2:
            return
        self._messages.append((partition, patch))

    def say(self, *texts: object) -> None:
        """Print a step of a traced schedule."""
        if self._trace:
            print(f"t={self.now}", *texts)

    # A schedule.

    def run(self) -> str | None:
        """Play the schedule, then drain without faults; return "stuck" where that does not end."""
        strikes = self.random.choice([0, 1, 1, 2, 3, 6, 12])
        while self._script or strikes:
            self._tick()
            if strikes and self.random.random() < 0.02:
                self._strike()
                strikes -= 1
        self.draining = True
        for node in self._nodes:
            node.recover()
        for step in range(8000):
            self._tick()
            if step % 20 == 0 and self._quiet():
                break
        else:
            return "stuck"
        for step in range(1500):
            self._tick()
            if step % 20 == 0 and self._quiet() and self._readers_are_right():
                break
        while self._messages:
            partition, patch = self._messages.popleft()
            self.readers[partition].message(patch)
        for reader in self.readers:
            reader.poll()
        return None

    def _quiet(self) -> bool:
        for partition in range(self.partitions):
            header = self.saved_header(partition)
            if not header:
                return False
            end = len(self.kafka.log[partition])
            archived, _ = self.kafka.committed[archiver.GROUP, partition]
            _, metadata = self.kafka.committed[aggregator.GROUP, partition]
            epoch = (metadata or header)["epoch"]
            if not header["next_offset"] == end == archived or header["epoch"] != epoch:
                return False
        stops = any(member == self.kafka.owner[who] for who, member in self.stopping.items())
        return not self._zombies and not self.outbox and not stops and not self._backfills

    def _readers_are_right(self) -> bool:
        return all(
            reader.minutes == self.saved_header(reader.partition)["minutes"]
            for reader in self.readers
        )

    def _tick(self) -> None:
        self.now += 1
        draw = self.random.random()
        if draw < 0.12 and self._script:
            self._produce()
        elif draw < 0.2 and self._messages:
            partition, patch = self._messages.popleft()
            self.readers[partition].message(patch)
        elif draw < 0.24:
            self.random.choice(self.readers).poll()
        elif draw < 0.27:
            for node in self._nodes[: self.partitions]:
                synced = self.random.randint(node.synced, len(node.calls))
                node.synced = max(node.synced, synced)
            if self.outbox and self.random.random() < 0.5:
                self.forward(*self.outbox.pop(0)[1:])
        elif draw < 0.34 and self._zombies and self.random.random() < 0.5:
            self._step_one_of(self._zombies)
        elif draw < 0.4 and self._backfills:
            self._step_one_of(self._backfills)
        else:
            self._step(self.random.choice(list(self._live)))

    def _step(self, who: Worker) -> None:
        if self._halted_until.get(who, 0) > self.now and not self.draining:
            return
        try:
            next(self._live[who])
        except StopIteration:
            if self.stopping.pop(who, None) == self.kafka.owner[who]:
                self._assign(*who)

    def _step_one_of(self, workers: list[Iterator[None]]) -> None:
        worker = self.random.choice(workers)
        if next(worker, "end") == "end":
            workers.remove(worker)

    def _open(self, partition: int) -> None:
        self.readers.append(ModelReader(self, partition))
        for group in (aggregator.GROUP, archiver.GROUP):
            self._assign(group, partition)

    def _assign(self, group: str, partition: int) -> None:
        self._members += 1
        self.kafka.owner[group, partition] = self._members
        kind = CountingWorker if group == aggregator.GROUP else ArchivingWorker
        self._live[group, partition] = kind(self, partition, self._members).run()

    # Producers.

    def _make_script(self, swaps: int) -> deque[tuple[Any, ...]]:
        """Return what is sent; retractions and repeats come after their first record.

        Items are (base, token, kind, block, lag, wrong) or ("quiet", for how long).
        """
        draws, script = self.random, list[tuple[Any, ...]]()
        for base in range(swaps):
            reorganised = "reorg" in self.faults and draws.random() < 0.4
            sequence, stands = draws.choice(REORGANISED if reorganised else PLAIN)
            tokens = draws.sample(range(4), 2 if draws.random() < 0.25 else 1)
            lag = draws.choice(LAGS + FAR_AHEAD * ("skew" in self.faults))
            if "R" in sequence:
                # Nothing is removed before its time.
                lag = max(lag, SLOW - MAX_FUTURE)
            begin = len(script)
            for token in tokens:
                wrong = "wrong" in self.faults and draws.random() < 0.3
                self.truth[base, token] = (sequence, stands)
                place = begin
                for each in sequence.split():
                    misplaced = wrong and draws.random() < 0.6
                    item = (base, token, each[0], each[1:] or None, lag, misplaced)
                    if draws.random() < 0.6:
                        place = min(len(script), place)
                    else:
                        place = draws.randint(min(place, len(script)), len(script))
                    script.insert(place, item)
                    place += 1
        for _ in range(draws.choice([0, 0, 1, 2]) if "quiet" in self.faults else 0):
            place = draws.randint(0, len(script))
            script.insert(place, ("quiet", draws.choice([20, 50, 70, 80, 90, 200])))
        return deque(script)

    def _produce(self) -> None:
        item, draws = self._script.popleft(), self.random
        odd = "odd" in self.faults and draws.random() < 0.3
        if item[0] == "quiet":
            self.now += item[1]
            self.say("quiet for", item[1])
            return
        base, token, kind, block, lag, misplaced = item
        first = self.now - lag
        event_time = self._event_times.setdefault((base, "B" if block == "B" else "A"), first)
        if odd:
            event_time += draws.randint(-2, DRIFT - 2) if kind == "E" else draws.randint(-30, 30)
        timestamp = self._stamp()
        unbounded = "ahead" not in self.rules and not self._append_time and "skew" in self.faults
        if unbounded and draws.random() < 0.05:
            timestamp += 150
        # A producer goes by today's number of partitions.
        right = token % self.partitions
        partition = draws.randrange(self.partitions) if misplaced else right
        value = draws.randint(1, 999) if odd else 7 + base
        record = Record(base, token, kind, block, event_time, value, timestamp, None, self.now)
        self._append(partition, record)

    def _append(self, partition: int, record: Record) -> None:
        self.kafka.log[partition].append(record)
        self.say("log", (partition, len(self.kafka.log[partition]) - 1), *record)

    def _stamp(self) -> int:
        if self._append_time or "skew" not in self.faults:
            return self.now
        return self.now + self.random.randint(-SLOW, AHEAD)

    # Faults.

    def _node(self) -> ModelRedis:
        return ModelRedis(
            lambda: self.now,
            lambda probability: self.random.random() < probability,
            lambda: "answer" in self.faults and not self.draining,
        )

    def _strike(self) -> None:
        draws = self.random
        fault = draws.choice(self._strikes)
        who = draws.choice(list(self._live))
        nodes = list({id(node): node for node in self._nodes[: self.partitions]}.values())
        hit = [draws.choice(nodes)] if draws.random() < 0.7 else nodes
        self.say("FAULT", fault, who)
        if fault in ("suffix", "failover", "empty", "old"):
            self._lose_calls(fault, who, hit)
        elif fault == "down":
            for node in hit:
                node.down_until = self.now + draws.choice([20, 60])
        elif fault == "evict":
            for node in hit:
                keys = [key for key in node.data if key[0] == "block" and node.data[key]]
                if keys:
                    node.data[draws.choice(keys)] = None
            if draws.random() < 0.5:
                self._assign(*who)
        elif fault == "trim":
            start, end = self.kafka.start[who[1]], len(self.kafka.log[who[1]])
            self.kafka.start[who[1]] = draws.randint(start, end)
        elif fault == "raise" and self.partitions < 5:
            self.kafka.add_partition()
            self.partitions += 1
            self._open(self.partitions - 1)
        elif fault == "backfill":
            self._delete_and_backfill(who[1])
        else:
            self._strike_worker(fault, who)

    def _strike_worker(self, fault: str, who: Worker) -> None:
        if fault in ("crash", "zombie"):
            member = self.kafka.owner[who]
            self.outbox = [each for each in self.outbox if each[0] != member]
            if fault == "zombie":
                self._zombies.append(self._live[who])
            self._assign(*who)
        elif fault == "rebalance":
            self.stopping[who] = self.kafka.owner[who]
        elif fault == "halt":
            self._assign(*who)
            self._halted_until[who] = self.now + self.random.choice([50, 100, 200])

    def _lose_calls(self, fault: str, who: Worker, nodes: list[ModelRedis]) -> None:
        for node in nodes:
            calls = len(node.calls)
            least = 0 if fault == "old" else max(node.synced, calls - 12)
            keep = 0 if fault == "empty" else self.random.randint(least, calls)
            node.restart(keep, fault == "failover")
        if self.random.random() < 0.4:
            self._assign(*who)

    def _delete_and_backfill(self, partition: int) -> None:
        """Delete all rows of some ids by hand, and have an operator backfill the partition.

        Once a partition: two backfills of one partition must not run together.
        """
        if partition in self._backfilled:
            return
        self._backfilled.add(partition)
        committed, _ = self.kafka.committed[archiver.GROUP, partition]
        log, start = self.kafka.log[partition], self.kafka.start[partition]
        # A batch on its way may negate a row: these ids keep theirs.
        busy = {(each.base, each.token) for each in log[committed : committed + 4]}
        places: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in self.clickhouse.rows_of(partition):
            if row.letter != archiver.POISON:
                record = log[row.offset]
                places[record.base, record.token].append(row.offset)
        for key, offsets in sorted(places.items()):
            inside = start <= min(offsets) and max(offsets) < committed
            if inside and key not in busy and self.random.random() < 0.5:
                self.deleted.add(key)
                self.clickhouse.delete(partition, set(offsets))
        if self.random.random() < 0.5:
            self._assign(archiver.GROUP, partition)
        self._backfills.append(backfill(self, partition))
