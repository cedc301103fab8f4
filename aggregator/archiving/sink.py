"""The archive as a sink: copies swaps from the log to ClickHouse, each exactly once.

Records are decoded, decided and cut into batches; the intent of a batch is committed, then it is
inserted under its token, and only then does `next_offset` advance. The next intent, or the next
idle second, commits the new offset. While ClickHouse inserts one batch, the next is read and
decided. What must be looked up in the archive waits for ClickHouse; the loop stays a member of its
group, reads up to a bound and then pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Final

import structlog

from aggregator.archiving.batches import Rebuilding
from aggregator.archiving.decisions import (
    NOTHING,
    ArchiveLimits,
    Found,
    UndecidedRun,
    WantedIds,
    decide,
    rows_among,
    wanted,
)
from aggregator.archiving.intents import Intent, LogPosition, Place, pack
from aggregator.archiving.jobs import ArchiveJobs, Filled, Inserted, TopicId, boot_s
from aggregator.archiving.partition import (
    ARCHIVING,
    FILLING,
    SETTLING,
    ArchivePartition,
    InFlightInsert,
)
from aggregator.archiving.takeover import ArchiveTakeover, report_gap
from aggregator.archiving.writers import INSERTS, QUESTIONS, CircuitBreakers, Writers
from aggregator.clickhouse.questions import ArchivedRow
from aggregator.contracts.event import Swap
from aggregator.contracts.stats import ArchiveStatus
from aggregator.decoding.decoder import BatchDecoder
from aggregator.member.log import Log, Records
from aggregator.member.sink import Release
from aggregator.runtime import metrics
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry
from aggregator.runtime.health import Health
from aggregator.seen.seen import Seen

log = structlog.get_logger(__name__)

Publish = Callable[[ArchiveStatus], None]

_POLL_S: Final = 0.05
_TICK_S: Final = 1.0
_DRAIN_S: Final = 5.0
# How often the archive is asked whether a backfill has ended.
_BACKFILL_S: Final = 0.2
# Bytes of records as received; decoded they take about as much again.
_MAX_BYTES: Final = 32 * 1024 * 1024
# While ClickHouse is down, more records in memory would not bring it back sooner.
_MAX_BYTES_DOWN: Final = 8 * 1024 * 1024


class ArchivingSink:
    """Archives the partitions that it is given (see `aggregator.member.sink.Sink`).

    `health` receives a heartbeat every second, with the faults that `loop_faults` names as well.
    """

    def __init__(
        self,
        config: Config,
        swap_log: Log,
        publish: Publish,
        health: Health,
        now_ms: Callable[[], int] = wall_ms,
    ) -> None:
        self._config = config
        self._log = swap_log
        self._publish = publish
        self._health = health
        self._now_ms = now_ms
        self.loop_faults: Callable[[], dict[str, str]] = dict
        self._topic = TopicId()
        self._breakers = CircuitBreakers()
        self._writers = Writers(config, self._topic, self._breakers)
        self._takeover = ArchiveTakeover(config, swap_log, self._topic)
        self._decoder = BatchDecoder(config.max_future_ms)
        self._limits = ArchiveLimits(config.grace_ms, config.max_future_ms, config.keep_ttl_ms)
        self._owners: dict[int, ArchivePartition] = {}
        self._next_tick = 0.0

    @property
    def size(self) -> int:
        """Bytes of the records in memory, as received."""
        return sum(owner.size for owner in self._owners.values())

    # Partitions come and go.

    def joined(self, partitions: int) -> None:
        """Note how many partitions the topic has, before the first is acquired."""
        self._takeover.partitions = partitions

    def acquire(self, partition: int) -> int | None:
        """See `Sink`."""
        owner = self._takeover.acquire(partition)
        if owner is None:
            return None
        self._owners[partition] = owner
        return owner.begin_offset

    def take(self, records: Records) -> None:
        """See `Sink`."""
        if owner := self._owners.get(records.partition):
            owner.take(records)

    def reached(self, partition: int, end: int) -> None:
        """See `Sink`."""
        if owner := self._owners.get(partition):
            owner.reached(end)

    def ready(self, partition: int) -> bool:
        """See `Sink`."""
        owner = self._owners.get(partition)
        if owner is None:
            return False
        if owner.redo is not None and not owner.redo_is_lost:
            # An intent is bounded, and must be read whole.
            return owner.read_offset <= owner.redo.last
        most = _MAX_BYTES_DOWN if self._breakers.clickhouse.fault else _MAX_BYTES
        return self.size <= most and owner.waits <= self._config.archive_batch_rows

    def wait_s(self) -> float:
        """See `Sink`."""
        # Do not wait for more records while some can be decided.
        return 0.0 if any(map(_can_decide, self._owners.values())) else _POLL_S

    def release(self, partition: int, *, drain: bool) -> None:
        """See `Sink`. The next owner finds an unfinished insert as an intent."""
        try:
            owner = self._owners.get(partition)
            if drain and owner is not None:
                self._writers.wait(partition, 0 if self._breakers.clickhouse.fault else _DRAIN_S)
                self._writers.reap([partition])
                self._commit([owner])
        finally:
            self._drop(partition)

    def stop(self) -> None:
        """See `Sink`."""
        self._takeover.close()
        self._writers.close()
        log.info("archiver_stopped")

    def _drop(self, partition: int) -> None:
        self._takeover.drop(partition)
        self._writers.forget(partition)
        owner = self._owners.pop(partition, None)
        if owner is not None:
            owner.active = False
            for gauge in (metrics.ARCHIVE_LAG, metrics.ARCHIVE_AGE):
                gauge.remove(partition)

    # Each round.

    def turn(self) -> None:
        """See `Sink`."""
        self._writers.reap()
        for owner in list(self._owners.values()):
            self._advance(owner)
        self._dispatch()
        self._tick()
        self._release_outdated()

    def _release_outdated(self) -> None:
        """Have partitions taken over again whose archive a backfill adds to. Raises Release."""
        outdated = [
            owner for owner in self._owners.values() if owner.outdated and owner.in_flight is None
        ]
        if outdated:
            # The next owner, most likely this process, then finds no intent.
            self._commit(outdated)
            raise Release([owner.partition for owner in outdated], "a backfill adds rows to it")

    def _advance(self, owner: ArchivePartition) -> None:
        if owner.stage == SETTLING:
            self._settle(owner)
        elif owner.stage == FILLING:
            self._fill(owner)
        else:
            self._decide(owner)

    def _settle(self, owner: ArchivePartition) -> None:
        """Redo the intent of the previous owner, or find out whether it landed."""
        intent = owner.redo
        if intent is None:
            owner.settled()
        elif owner.redo_is_lost:
            self._writers.start(
                owner,
                INSERTS,
                lambda jobs: jobs.resolve_lost_intent(owner.partition, intent, self._now_ms()),
                lambda gaps: self._intent_lost(owner, intent, gaps),
            )
        elif owner.in_flight is None and owner.read_offset > intent.last:
            if owner.rebuilding is None:
                owner.rebuilding = self._rebuilding(owner, intent)
            places, unnamed = owner.rebuilding.asked, owner.position.switch is not None
            self._writers.start(
                owner,
                QUESTIONS,
                lambda jobs: jobs.values_at(places, unnamed),
                lambda values: self._rebuilt(owner, values),
            )

    def _rebuilding(self, owner: ArchivePartition, intent: Intent) -> Rebuilding:
        parts = []
        while (run := owner.next_run(intent.last + 1)) is not None:
            parts.append(self._decoder.decode(run).swaps)
        return Rebuilding(intent, owner.position, owner.partition, parts)

    def _rebuilt(self, owner: ArchivePartition, values: dict[Place, Swap]) -> None:
        if owner.rebuilding is not None and owner.in_flight is None:
            batch = owner.rebuilding.batch(values, self._config.max_future_ms)
            owner.in_flight = InFlightInsert(batch, 0.0, may_exist=True)

    def _intent_lost(
        self, owner: ArchivePartition, intent: Intent, gaps: list[tuple[int, int]]
    ) -> None:
        for first, end in gaps:
            report_gap(owner.partition, first, end)
            owner.add_gap(first, end)
        owner.forget_intent(intent)

    def _fill(self, owner: ArchivePartition) -> None:
        """Ask the archive what it has of the last MARKER_TTL; not while a backfill adds to it."""
        if time.monotonic() < owner.fill_at_s:
            return
        clock, switch = owner.position.clock, owner.position.switch
        if clock is None:
            # Nothing before `next_offset` was read, so nothing of it is archived; the version
            # before may have archived tokens of this partition on others.
            clock = 0 if switch is None else switch.clock
        self._writers.start(
            owner,
            QUESTIONS,
            lambda jobs: jobs.fill(
                owner.partition, clock, switch, owner.homes, lambda: owner.active
            ),
            lambda filled: self._filled(owner, clock, filled),
        )

    def _filled(self, owner: ArchivePartition, clock: int, filled: Filled) -> None:
        owner.note_epoch(filled.epoch.number)
        if filled.epoch.writing:
            if not owner.fill_at_s:
                log.info("waiting_for_backfill", partition=owner.partition)
            owner.fill_at_s = time.monotonic() + _BACKFILL_S
            return
        config, position = self._config, owner.position
        seen = Seen(
            ttl_ms=config.marker_ttl_ms,
            grace_ms=config.grace_ms,
            max_future_ms=config.max_future_ms,
            next_offset=owner.next_offset,
            clock=position.clock,
            origins=position.origins,
            by_event_time=config.clock == "event",
        )
        if filled.known is not None:
            # The partitions on which the version before archived may have been ahead of this one.
            until = clock if position.switch is None else max(clock, position.switch.clock)
            seen.remember(filled.known, until + config.marker_ttl_ms)
        owner.begin(seen, 0 if filled.known is None else len(filled.known))

    # Decide.

    def _decide(self, owner: ArchivePartition) -> None:
        """Decide the waiting records, as far as the archive need not be asked."""
        while _can_decide(owner):
            if owner.run is None:
                run = owner.next_run()
                if run is None:
                    return
                swaps = self._decoder.decode(run).swaps
                owner.run = UndecidedRun(swaps, owner.homes.away(swaps, owner.partition))
            question = self._question(owner, owner.run)
            if not question.all:
                self._decided(owner, owner.run, NOTHING)
            elif not self._ask(owner, owner.run, question):
                return

    def _question(self, owner: ArchivePartition, run: UndecidedRun) -> WantedIds:
        assert owner.seen is not None
        switch, seen = owner.position.switch, owner.seen
        recent = switch is not None and (
            seen.clock is None or seen.clock <= switch.clock + self._config.marker_ttl_ms
        )
        return wanted(seen, run, self._limits, forwarded=recent)

    def _ask(self, owner: ArchivePartition, run: UndecidedRun, question: WantedIds) -> bool:
        """Look ids up; return whether the question is on its way."""
        unnamed = self._holds_unnamed(owner.position)
        run.asked = self._writers.start(
            owner,
            QUESTIONS,
            lambda jobs: jobs.look_up(question, unnamed=unnamed),
            lambda found: self._decided(owner, run, found),
            lambda: setattr(run, "asked", False),
        )
        if run.asked:
            # As of now: what lands while the archive is asked may be missing in the answer.
            run.pending = self._pending(owner, question)
        return run.asked

    def _holds_unnamed(self, position: LogPosition) -> bool:
        """Return whether the archive may still hold rows of the version before."""
        kept_ms = self._config.keep_ttl_ms + self._config.marker_ttl_ms
        return position.switch is not None and self._now_ms() < position.switch.clock + kept_ms

    def _pending(self, owner: ArchivePartition, question: WantedIds) -> list[ArchivedRow]:
        in_flight = owner.in_flight.batch.decided if owner.in_flight else []
        return rows_among(
            [*in_flight, *owner.decided],
            [each.marker for each in question.all],
            owner.source,
        )

    def _decided(self, owner: ArchivePartition, run: UndecidedRun, found: Found) -> None:
        assert owner.seen is not None
        decided = decide(
            owner.seen,
            run,
            found,
            self._limits,
            source=owner.source,
            now_ms=self._now_ms(),
        )
        owner.run = None
        owner.decide(decided, time.monotonic())

    # Insert.

    def _dispatch(self) -> None:
        """Commit the intents of the inserts that can start now, and start them. Raises Fenced."""
        self._cut_batches()
        ready = [
            (owner, owner.in_flight)
            for owner in self._owners.values()
            if owner.in_flight is not None and not self._writers.busy(owner.partition, INSERTS)
        ]
        breakers = self._breakers
        if not ready or breakers.kafka.open_for_s or breakers.clickhouse.open_for_s:
            return
        if breakers.clickhouse.fault:
            del ready[1:]  # one insert is enough to find out whether it works
        try:
            self._promise(ready)
        except Retry as error:
            breakers.kafka.failed(str(error))
            return
        for owner, in_flight in ready:
            # After the commit: the lease starts when the group has taken the intent.
            in_flight.promised_at = boot_s()
            self._writers.start(
                owner,
                INSERTS,
                partial(ArchiveJobs.insert, owner=owner, in_flight=in_flight),
                partial(self._inserted, owner, in_flight),
                partial(self._not_inserted, owner, in_flight),
            )

    def _promise(self, ready: list[tuple[ArchivePartition, InFlightInsert]]) -> None:
        self._log.commit(
            {
                owner.partition: (in_flight.batch.intent.first, pack(in_flight.batch.promised))
                for owner, in_flight in ready
            }
        )

    def _cut_batches(self) -> None:
        """Cut a batch for each idle thread, from the partition whose oldest records waited longest.

        Partitions that wait for their thread collect more rows meanwhile: larger blocks cost
        ClickHouse less.
        """
        pressed = self.size > _MAX_BYTES // 2
        taken = {
            self._writers.thread_of(partition)
            for partition, owner in self._owners.items()
            if owner.in_flight is not None
        }
        for owner in sorted(self._owners.values(), key=lambda owner: owner.filling_since):
            thread = self._writers.thread_of(owner.partition)
            if thread not in taken:
                self._cut_batch(owner, pressed)
                if owner.in_flight is not None:
                    taken.add(thread)

    def _cut_batch(self, owner: ArchivePartition, pressed: bool) -> None:
        while owner.in_flight is None and owner.decided and not owner.outdated:
            full = pressed or len(owner.decided) >= self._config.archive_batch_rows
            waited_ms = (time.monotonic() - owner.filling_since) * 1000
            if not full and waited_ms < self._config.archive_linger_ms:
                return
            batch = owner.cut(self._now_ms())
            if batch.blocks:
                owner.in_flight = InFlightInsert(batch, 0.0)
            else:
                owner.complete(batch)

    @staticmethod
    def _not_inserted(owner: ArchivePartition, in_flight: InFlightInsert) -> None:
        # Nothing is known of the outcome: the server may have taken the batch.
        in_flight.may_exist = True
        metrics.ARCHIVE_RETRIES.labels(owner.partition).inc()

    @staticmethod
    def _inserted(owner: ArchivePartition, in_flight: InFlightInsert, done: Inserted) -> None:
        owner.complete(in_flight.batch)
        _compare_epoch(owner, done.epoch)
        metrics.ARCHIVE_INSERT_SECONDS.observe(done.seconds)
        metrics.ARCHIVE_BATCHES.labels(owner.partition).inc()
        metrics.ARCHIVE_ROWS.labels(owner.partition).inc(in_flight.batch.rows)
        metrics.ARCHIVE_BATCH_ROWS.observe(in_flight.batch.rows)

    # Each second.

    def _tick(self) -> None:
        if time.monotonic() < self._next_tick:
            return
        self._next_tick = time.monotonic() + _TICK_S
        for owner in self._owners.values():
            owner.advance_when_idle()
            self._watch_epoch(owner)
        if not self._breakers.kafka.open_for_s:
            try:
                self._commit(list(self._owners.values()))
            except Retry as error:
                self._breakers.kafka.failed(str(error))
            else:
                self._breakers.kafka.worked()
        self._report()

    def _watch_epoch(self, owner: ArchivePartition) -> None:
        """Compare the archive's epoch; an insert does so too."""
        if owner.stage == ARCHIVING and owner.in_flight is None:
            self._writers.start(
                owner,
                INSERTS,
                lambda jobs: jobs.epoch(owner.partition),
                lambda number: _compare_epoch(owner, number),
            )

    def _commit(self, owners: list[ArchivePartition]) -> None:
        """Commit what is archived, unless a later intent has committed it."""
        uncommitted = [owner for owner in owners if owner.uncommitted and owner.in_flight is None]
        self._log.commit(
            {owner.partition: (owner.next_offset, pack(owner.position)) for owner in uncommitted}
        )
        for owner in uncommitted:
            owner.uncommitted = False

    def _report(self) -> None:
        metrics.ARCHIVE_BUFFERED_BYTES.set(self.size)
        faults = self._breakers.by_engine | self.loop_faults()
        for partition, owner in self._owners.items():
            status = owner.status(
                now_ms=self._now_ms(),
                end=self._log.newest_end(partition),
                fault="; ".join(faults.values()) or self._log.unreadable.get(partition, ""),
            )
            metrics.ARCHIVE_LAG.labels(partition).set(status.lag)
            if status.age_ms is not None:
                metrics.ARCHIVE_AGE.labels(partition).set(status.age_ms / 1000)
            self._publish(status)
        self._health.beat(
            [f"{engine}: {fault}" for engine, fault in faults.items()]
            + [
                f"partition {partition} is {owner.stage}"
                for partition, owner in self._owners.items()
                if owner.stage != ARCHIVING
            ]
            + [f"partition {each}: {why}" for each, why in self._log.unreadable.items()]
        )


def _compare_epoch(owner: ArchivePartition, number: int) -> None:
    if owner.stage == ARCHIVING and number != owner.position.epoch:
        owner.outdated = True


def _can_decide(owner: ArchivePartition) -> bool:
    """Return whether records wait for a decision that needs no answer first."""
    if owner.stage != ARCHIVING:
        return False
    return bool(owner.waiting) if owner.run is None else not owner.run.asked
