"""One run: plays the steps of a schedule one after the other, waits for the end, and judges."""

from __future__ import annotations

import random
import shutil
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from aggregator.contracts.stats import TokenStats
from infra.embedded.stack import Stack
from tests.chaos.cluster import Broken, Cluster, Member
from tests.chaos.expected import Expected, logged_of
from tests.chaos.host_clock import set_clock
from tests.chaos.reader import Reader
from tests.chaos.schedule import (
    PARTITIONS,
    Burst,
    Committed,
    CopyRedis,
    Counted,
    CutRedis,
    Dropped,
    Fill,
    Fired,
    Freeze,
    JumpClock,
    Kill,
    KillNats,
    KillRedis,
    Live,
    MendClocks,
    MendRedis,
    RestartBroker,
    RestoreRedis,
    Saved,
    Schedule,
    Start,
    StartNats,
    StartRedis,
    Step,
    Terminate,
    Thaw,
)
from tests.chaos.traffic import Traffic
from tests.chaos.verdict import Findings, judge_owners, judge_shown
from tests.support.oracle import Logged

STUCK_S = 90
POLL_S = 0.03


@dataclass
class Result:
    """The result of one run. `done` counts the faults that happened, by kind.

    `letters` counts the verdicts of the log; `directory` has the evidence of a failed run.
    """

    schedule: Schedule
    directory: Path
    seconds: float = 0.0
    events: int = 0
    done: Counter[str] = field(default_factory=Counter)
    letters: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)

    @property
    def failed(self) -> bool:
        """Whether anything was wrong."""
        return bool(self.findings.violations)


def run(schedule: Schedule, directory: Path, broker: Stack) -> Result:
    """Play `schedule` on `broker`; leaves the logs and the evidence of a failure in `directory`."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    result = Result(schedule, directory)
    begun = time.monotonic()
    name = f"chaos-{schedule.seed}-{time.time_ns() // 1_000_000}"
    settings = {"KAFKA_PARTITIONER": schedule.rules.partitioner, **dict(schedule.settings)}
    with (
        Cluster(directory, broker, name, settings) as cluster,
        Reader(cluster.engines.nats.url) as reader,
    ):
        play = _Play(schedule, cluster, reader)
        try:
            for step in schedule.steps:
                play.do(step)
            owners = play.settle()
            play.judge(owners, result)
        except Broken as broken:
            result.findings.violations.append(str(broken))
        except Exception:
            # The harness failed: this seed proves nothing, and the others must continue.
            result.findings.violations.append(traceback.format_exc())
        result.done = cluster.done
    result.seconds = time.monotonic() - begun
    if not result.failed:
        shutil.rmtree(directory)
    return result


class _Play:
    def __init__(self, schedule: Schedule, cluster: Cluster, reader: Reader) -> None:
        self._cluster = cluster
        self._reader = reader
        self._rng = random.Random(schedule.seed)
        self._schedule = schedule
        self._traffic = Traffic(
            schedule.seed,
            time.time_ns() // 1_000_000,
            schedule.span_ms,
            sum(isinstance(step, Burst) for step in schedule.steps),
            PARTITIONS,
            schedule.rules.partitioner,
            stamped=schedule.stamped,
        )

    def do(self, step: Step) -> None:
        """Do one step. Raises Broken."""
        cluster = self._cluster
        cluster.bury()
        match step:
            case Burst():
                self._burst(step)
            case Fill():
                cluster.produce(self._traffic.filler(step.size))
                cluster.flush()
            case Saved():
                self._wait_a_while(cluster.saved, 3)
            case Counted():
                self._counted()
            case Live():
                self._wait(self._live, "all partitions live with nothing left to read")
            case Start():
                self._start(step)
            case Fired():
                self._fired(step)
            case Kill():
                if (member := self._pick(step.pick)) is not None:
                    cluster.kill(member)
                    cluster.done["kill"] += 1
            case Terminate():
                if (member := self._pick(step.pick)) is not None:
                    self._terminate(member)
            case Freeze():
                if (member := self._pick(step.pick)) is not None:
                    cluster.freeze(member)
            case Dropped():
                self._wait_dropped()
            case Thaw():
                frozen = sum(member.frozen for member in cluster.members)
                cluster.done["woken_zombie"] += frozen
                cluster.thaw()
            case JumpClock():
                if (member := self._pick(step.pick)) is not None:
                    set_clock(member.clock, step.ahead_ms)
                    cluster.done["clock_ahead" if step.ahead_ms > 0 else "clock_back"] += 1
            case MendClocks():
                cluster.mend_clocks()
            case Committed():
                self._wait(self._all_committed, "all of the log saved and committed")
            case KillRedis():
                cluster.kill_redis(step.lost)
                loss = "kept_all" if step.lost == 0 else "empty" if step.lost == 1 else "lost_tail"
                cluster.done[f"redis_{loss}"] += 1
            case StartRedis():
                cluster.engines.redis.start()
            case CutRedis():
                cluster.cut_redis(replica=step.replica)
                cluster.done["redis_replica" if step.replica else "redis_read_only"] += 1
            case MendRedis():
                cluster.mend_redis()
            case CopyRedis():
                cluster.copy_redis()
            case RestoreRedis():
                cluster.restore_redis()
                cluster.done["redis_restored"] += 1
            case RestartBroker():
                cluster.restart_broker()
                cluster.done["broker"] += 1
            case KillNats():
                cluster.engines.nats.kill()
                cluster.done["nats"] += 1
            case StartNats():
                cluster.engines.nats.start()

    def _burst(self, step: Burst) -> None:
        self._cluster.produce(self._traffic.burst(step.size, step.partitions))
        if step.acked:
            self._cluster.flush()

    def _start(self, step: Start) -> None:
        if step.fault and len(self._cluster.members) >= PARTITIONS:
            # The armed aggregator needs a partition to meet its fault.
            self._terminate(self._cluster.running[0])
        before = len(self._cluster.members)
        self._cluster.start(step.fault)
        self._cluster.done["start"] += before > 0 and len(self._cluster.members) > before

    def _terminate(self, member: Member) -> None:
        self._cluster.terminate(member)
        self._cluster.done["terminate"] += 1

    def _pick(self, pick: float) -> Member | None:
        running = self._cluster.running
        return running[int(pick * len(running))] if running else None

    def _fired(self, step: Fired) -> None:
        """Send swaps until the armed aggregator meets its fault, or kill it after some bursts.

        It may receive partitions late and batches seldom.
        """
        cluster = self._cluster
        armed = next((m for m in reversed(cluster.members) if m.fault), None)

        def joined() -> bool:
            return cluster.group_members() == len(cluster.running)

        if armed is not None:
            # On a busy machine a process takes its time to start.
            self._wait_a_while(lambda: self._met(armed) or joined(), 30)
        for _ in range(4):
            if armed is None or self._wait_a_while(lambda: self._met(armed), 3):
                break
            self._burst(Burst(100))
        if armed is None or not armed.process.running:
            return
        if armed.stopped_itself():
            armed.frozen = True
            cluster.done[step.kind] += 1
        else:
            cluster.kill(armed)
            cluster.done["kill"] += 1

    def _met(self, armed: Member) -> bool:
        return not armed.process.running or armed.stopped_itself()

    def _wait_dropped(self) -> None:
        """Wait until the group drops the silent member, after its session timeout (6 s)."""
        if not any(member.frozen for member in self._cluster.members):
            return
        if not self._cluster.running:
            self._cluster.start()
        running = len(self._cluster.running)
        self._wait(lambda: self._cluster.group_members() == running, "the frozen member dropped")

    def _wait(self, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + STUCK_S
        if all(member.fault for member in self._cluster.running):
            self._cluster.start()
        while not holds():
            self._cluster.bury()
            if not self._cluster.running:
                self._cluster.start()
            if time.monotonic() > deadline:
                raise Broken(f"stuck: {what}: not within {STUCK_S} s; {self._positions()}")
            time.sleep(POLL_S)

    def _wait_a_while(self, holds: Callable[[], bool], within_s: float) -> bool:
        """Wait for a condition that may not come true, since there may be no owner now."""
        deadline = time.monotonic() + within_s
        while not (held := holds()) and time.monotonic() < deadline:
            time.sleep(POLL_S / 10)
        return held

    def _positions(self) -> str:
        status = self._reader.status()
        members = [(m.name, m.process.running, m.frozen) for m in self._cluster.members]
        return f"ends {self._cluster.ends()}, {members}, {list(status.values())}"

    def _counted(self) -> None:
        """Wait until every partition that has an owner is read to its end and published.

        Redis takes nothing, so no partition can be taken over: one that loses its owner waits.
        """
        owned: dict[int, bool] = {}

        def counted() -> bool:
            ends, status = self._cluster.ends(), self._reader.status()
            owned.clear()
            owned.update({p: each.state == "live" for p, each in status.items()})
            return all(
                each.in_sync and (each.owner_next_offset or 0) >= ends[p]
                for p, each in status.items()
                if owned[p]
            )

        self._wait(counted, "all of the log counted without Redis")
        self._cluster.done["redis_not_needed"] += sum(owned.values())

    def _all_committed(self) -> bool:
        """Whether all is saved, forwarded and sent to the dead letters: commits follow that."""
        ends, committed = self._cluster.ends(), self._cluster.committed()
        return all(committed.get(p, -1) >= end for p, end in ends.items())

    def _live(self) -> bool:
        status = self._reader.status()
        if len(status) < PARTITIONS or any(
            each.state != "live" or not each.in_sync for each in status.values()
        ):
            return False
        ends, epochs = self._cluster.ends(), self._cluster.epochs()
        return all(
            (status[p].owner_next_offset or 0) >= ends[p] and status[p].epoch == epochs.get(p)
            for p in range(PARTITIONS)
        )

    def settle(self) -> dict[int, list[TokenStats]]:
        """Return the owners' rows after the last fault, when everything is read."""
        cluster = self._cluster
        cluster.thaw()
        cluster.flush()
        for member in [m for m in cluster.members if m.fault]:
            if member.process.running:
                cluster.kill(member)
        cluster.bury()
        owners: dict[int, list[TokenStats]] = {}

        caught_up: dict[int, int] = {}

        def answered() -> bool:
            if not (self._live() and self._all_committed()):
                caught_up.clear()
                return False
            # A heartbeat may report an offset whose patches are still to come. The next heartbeat
            # follows them.
            for partition, status in self._reader.status().items():
                if (status.as_of or 0) <= caught_up.setdefault(partition, status.as_of or 0):
                    return False
            epochs = cluster.epochs()
            for partition in range(PARTITIONS):
                state = self._reader.owner_state(partition, epochs[partition])
                if state is None:
                    return False
                owners[partition] = state
            return self._live() and self._all_committed() and cluster.epochs() == epochs

        self._wait(answered, "every owner's state")
        return owners

    def judge(self, owners: dict[int, list[TokenStats]], result: Result) -> None:
        """Compare everything that was shown with the log; write the evidence to files."""
        findings = result.findings
        rows = {(row.token_id, row.partition): row for own in owners.values() for row in own}
        log = self._read_back()
        result.events = len(log)
        expected = Expected(log, self._schedule.rules, self._schedule.windows)
        result.letters = Counter(expected.letters)
        judge_owners(expected, rows, findings)
        judge_shown(expected, self._reader.shown, self._rng, findings)
        findings.violations += [f"went back: {step}" for step in self._reader.steps_back]
        self._judge_board(rows, findings)
        findings.violations += expected.forward_faults()
        self._judge_dead_letters(expected.dead, findings)
        if findings.violations:
            self._write("log.jsonl", [vars(logged) for logged in log])
            self._write("owners.jsonl", list(rows.values()))
            self._write("shown.jsonl", self._reader.shown)

    def _read_back(self) -> list[Logged]:
        return [
            logged_of(
                record.value(),
                partition,
                record.offset(),
                record.timestamp()[1],
                record.headers(),
            )
            for partition in range(PARTITIONS)
            for record in self._cluster.read(self._cluster.topic, partition)
        ]

    def _judge_board(self, rows: dict[tuple[str, int], TokenStats], findings: Findings) -> None:
        """The board must have each row as its owner has it, or newer: a minute may have passed."""
        board = self._reader.rows()
        for (token, partition), row in rows.items():
            shown = board.get(token)
            if shown is None or (shown.partition != partition):
                findings.violations.append(f"{token} on {partition}: not on the board")
            elif (shown.epoch, shown.seq) < (row.epoch, row.seq):
                findings.violations.append(f"{token}: the board is older than its owner")
            elif (shown.epoch, shown.seq) == (row.epoch, row.seq) and shown != row:
                findings.violations.append(f"{token}: the board differs from its owner")

    def _judge_dead_letters(self, bad: set[tuple[int, int]], findings: Findings) -> None:
        found = set()
        for letter in self._cluster.read(f"{self._cluster.topic}.dlq", 0):
            headers = {name: value.decode() for name, value in letter.headers() or []}
            found.add((int(headers["source-partition"]), int(headers["source-offset"])))
        if found != bad:
            findings.violations.append(
                f"dead letters: {sorted(bad - found)} missing, {sorted(found - bad)} too many"
            )

    def _write(self, name: str, values: list[Any]) -> None:
        path = self._cluster.directory / name
        path.write_bytes(b"\n".join(msgspec.json.encode(value) for value in values))
