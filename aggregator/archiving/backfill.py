"""Archives the swaps of a time range of the log that the archive lacks, and none twice.

A backfill looks only at offsets below those that the archivers have committed; later offsets are
theirs. It leaves a record alone if its position is in the archive. Any other one may be missing, or
may have had no row: the log is folded again from the rows before it, in order, so what was decided
once is decided alike.

It may run beside the archivers, outside their group. It raises the epoch of the partition
(`ArchiveWriter.epoch`) to an odd number and waits until the archiver has committed that number with
no intent open (`LogPosition.epoch`), or the group is empty. An archiver that finds the epoch odd
waits until it is even and then learns its rows again, so none decides while the backfill inserts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, ConsumerGroupState, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from aggregator.archiving.batches import blocks_of, span_of
from aggregator.archiving.decisions import (
    ArchiveLimits,
    Decided,
    LogSource,
    UndecidedRun,
    decide_missing,
    missing_ids,
)
from aggregator.archiving.intents import LogPosition, unpack
from aggregator.archiving.jobs import boot_s
from aggregator.clickhouse.connection import ClickHouseClient, Unavailable
from aggregator.clickhouse.questions import ArchiveQuestions
from aggregator.clickhouse.writer import ABANDONED_MS, HAS_ROW, ArchiveWriter
from aggregator.contracts.arrays import Array
from aggregator.contracts.homes import Homes
from aggregator.contracts.records import Origin, origin_of
from aggregator.contracts.verdict import Verdict
from aggregator.decoding.decoder import BatchDecoder, ReadRecords
from aggregator.member.kafka_reader import KafkaReader, record_of
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry
from aggregator.seen.seen import Seen

_TIMEOUT_S: Final = 10.0
_CHUNK: Final = 20_000
_TRIES: Final = 8
# An insert begins at most this long after the epoch was raised; archivers wait longer than this and
# the time of an insert together (ABANDONED_MS).
_LEASE_S: Final = 30.0
# An archiver settles its intent within its own lease and the time of an insert.
_SETTLES_S: Final = 300.0
_ASK_EVERY_S: Final = 0.2
_WITHOUT_MEMBERS: Final = (ConsumerGroupState.EMPTY, ConsumerGroupState.DEAD)
# What a backfill archives counts as late: the windows have passed it.
_ALWAYS_LATE: Final = 2**61
_NEVER_FORGET: Final = 2**60


class BackfillProgress(msgspec.Struct):
    """How far a partition is: `next_offset` of the range [first, end).

    Counts the records read, archived before, repeated (or at home elsewhere), undecodable, and
    archived by this run.
    """

    partition: int
    first: int
    end: int
    next_offset: int
    seen: int = 0
    there: int = 0
    repeats: int = 0
    undecodable: int = 0
    archived: int = 0


class _Range(NamedTuple):
    """The part of a partition that is looked at.

    `origins` are the highest origin offsets of the records so far, by their partition.
    """

    progress: BackfillProgress
    position: LogPosition
    origins: dict[int, int]


class Backfill:
    """One run over the records whose Kafka timestamp lies in [since_ms, until_ms)."""

    def __init__(self, config: Config, *, dry_run: bool) -> None:
        """Raises Retry where Kafka does not say which topic it is."""
        self._config = config
        topic_id = self._topic_id = _topic_id(config)
        self._dry_run = dry_run
        self._decoder = BatchDecoder(config.max_future_ms)
        self._limits = ArchiveLimits(config.grace_ms, config.max_future_ms, config.keep_ttl_ms)
        self._clickhouse = ClickHouseClient(config.clickhouse_url, receive_s=90)
        self._writer = ArchiveWriter(self._clickhouse, topic_id)
        self._questions = ArchiveQuestions(self._clickhouse, topic_id)
        self._run = wall_ms()
        self._raised: dict[int, int] = {}
        self._admin = AdminClient({"bootstrap.servers": config.kafka_bootstrap, "log_level": 0})
        # Assigned by hand, so it reads the archivers' commits without ever joining their group.
        self._consumer = Consumer(
            {
                "bootstrap.servers": config.kafka_bootstrap,
                "group.id": config.archiver_group,
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )

    def close(self) -> None:
        """Close the connections."""
        self._consumer.close()
        self._clickhouse.close()

    def run(self, since_ms: int, until_ms: int, report: Callable[[BackfillProgress], None]) -> None:
        """Archive what is missing; call `report` after every step.

        Raises Retry if an engine stays unreachable, and Fatal.
        """
        self._writer.connect()
        for part in self._ranges(since_ms, until_ms):
            report(part.progress)
            while part.progress.next_offset < part.progress.end:
                self._step(part)
                report(part.progress)

    def _ranges(self, since_ms: int, until_ms: int) -> Iterator[_Range]:
        topic = self._config.kafka_topic
        try:
            found = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
            for partition in sorted(found.partitions):
                place = TopicPartition(topic, partition)
                committed, position = self._committed(partition)
                if position.topic_id not in {"", self._topic_id}:
                    raise Fatal(f"topic {topic} was created again since it was archived")
                log_start, log_end = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
                first = max(log_start, self._offset_at(partition, since_ms, log_end))
                end = min(committed, self._offset_at(partition, until_ms, log_end))
                progress = BackfillProgress(partition, first, max(first, end), first)
                yield _Range(progress, position, {})
        except KafkaException as error:
            raise Retry(f"kafka: {error.args[0].str()}") from error

    def _committed(self, partition: int) -> tuple[int, LogPosition]:
        place = TopicPartition(self._config.kafka_topic, partition)
        try:
            (found,) = self._consumer.committed([place], timeout=_TIMEOUT_S)
        except KafkaException as error:
            raise Retry(f"kafka: {error.args[0].str()}") from error
        return max(0, found.offset), unpack(found.metadata or "")

    def _offset_at(self, partition: int, time_ms: int, end: int) -> int:
        asked = [TopicPartition(self._config.kafka_topic, partition, time_ms)]
        (found,) = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)
        return int(found.offset) if found.offset >= 0 else end

    def _step(self, part: _Range) -> None:
        """Work on one chunk of one partition."""
        progress = part.progress
        end = min(progress.end, progress.next_offset + _CHUNK)
        records = self._chunk(progress, end)
        missing = self._missing(part, records)
        progress.seen += len(missing)
        progress.there += len(missing) - int(missing.sum())
        if missing.any():
            self._archive(part, records, missing)
        for origin in filter(None, records.origins or ()):
            part.origins[origin[0]] = max(origin[1], part.origins.get(origin[0], -1))
        progress.next_offset = end

    def _chunk(self, progress: BackfillProgress, end: int) -> ReadRecords:
        found = list(self._read(progress.partition, end, progress))
        return ReadRecords(
            values=[value for _, _, value, _ in found],
            timestamps=[timestamp for _, timestamp, _, _ in found],
            offsets=[offset for offset, _, _, _ in found],
            origins=[origin for _, _, _, origin in found],
        )

    def _missing(self, part: _Range, records: ReadRecords) -> Array:
        """Return which of the records (bool) have no row."""
        if not records.offsets:
            return np.zeros(0, np.bool_)
        there = self._questions.offsets_between(
            part.progress.partition,
            records.offsets[0],
            records.offsets[-1] + 1,
            unnamed=part.position.switch is not None,
        )
        return np.array([offset not in there for offset in records.offsets], np.bool_)

    def _archive(self, part: _Range, records: ReadRecords, missing: Array) -> None:
        decided = self._decide(part, records, missing)
        if self._dry_run or not _has_row(decided).any():
            # Repeats have no row. The archiver need not wait for that to be found out.
            self._count(part.progress, decided)
            return
        backoff = Backoff()
        for left in reversed(range(_TRIES)):
            try:
                decided = self._insert(part, records)
            except Retry:
                if not left:
                    raise
                time.sleep(backoff.pause_s())
            else:
                self._count(part.progress, decided)
                return

    def _insert(self, part: _Range, records: ReadRecords) -> Decided:
        """Decide and insert while the archiver waits; decides again if it is tried again."""
        partition = part.progress.partition
        until = self._hold_archiver(partition)
        decided = self._decide(part, records, self._missing(part, records))
        self._writer.connect()
        for block in blocks_of([decided.swaps], partition, wall_ms()):
            if boot_s() > until:
                raise Unavailable("the archive took too long to answer")
            # The run is part of the token: an earlier block may have had the same offsets.
            token = f"{self._writer.token(partition, span_of(block))}:backfill:{self._run}"
            self._writer.insert(block, token)
        # After a failure it stays odd, because the server may still be inserting: the archiver
        # waits for the next try, or until the epoch is too old.
        self._writer.raise_epoch(partition, self._raised[partition] + 1)
        return decided

    def _hold_archiver(self, partition: int) -> float:
        """Have the archiver of a partition wait; return until when an insert may begin (`boot_s`).

        Raises Fatal if another backfill is at work, or the archiver does not settle its intent.
        """
        give_up_at = boot_s() + _SETTLES_S
        while boot_s() < give_up_at:
            until = boot_s() + _LEASE_S
            self._raise_epoch(partition)
            while boot_s() < until:
                if self._archiver_waits(partition):
                    return until
                time.sleep(_ASK_EVERY_S)
            # The archiver may soon take this backfill for dead, so begin again.
        raise Fatal(
            f"partition {partition}: its archiver does not complete its insert. If none is "
            "running, start one until its lag is 0"
        )

    def _raise_epoch(self, partition: int) -> None:
        found = self._writer.epoch(partition)
        if found.writing and found.number != self._raised.get(partition):
            raise Fatal(
                f"partition {partition}: another backfill is at work, or failed less than "
                f"{ABANDONED_MS // 60_000} minutes ago. Try again later"
            )
        self._raised[partition] = found.number + 1 + found.number % 2
        self._writer.raise_epoch(partition, self._raised[partition])

    def _archiver_waits(self, partition: int) -> bool:
        """Return whether no archiver decides about the partition while the epoch stays odd."""
        position = self._committed(partition)[1]
        if position.intent is None and position.epoch >= self._raised[partition]:
            return True
        # In this order: an archiver that joins after the group was empty reads the odd epoch.
        return self._group_is_empty() and self._committed(partition)[1].intent is None

    def _group_is_empty(self) -> bool:
        try:
            found = self._admin.list_consumer_groups(request_timeout=_TIMEOUT_S).result()
        except KafkaException as error:
            raise Retry(f"kafka: {error.args[0].str()}") from error
        if found.errors:
            raise Retry(f"kafka: {found.errors[0]}")
        mine = [each for each in found.valid if each.group_id == self._config.archiver_group]
        return all(each.state in _WITHOUT_MEMBERS for each in mine)

    def _decide(self, part: _Range, records: ReadRecords, missing: Array) -> Decided:
        """Decide the missing records of a chunk."""
        progress, position = part.progress, part.position
        partition = progress.partition
        swaps, config = self._decoder.decode(records).swaps, self._config
        homes = Homes(config.kafka_partitioner, position.homes or config.kafka_partitions)
        run = UndecidedRun(swaps, homes.away(swaps, partition))
        ids = missing_ids(run, missing)
        rows = self._questions.rows_of(ids)
        if position.switch is not None:
            rows += self._questions.unnamed_rows_of(ids)
        seen = Seen(
            ttl_ms=_NEVER_FORGET,
            grace_ms=config.grace_ms,
            max_future_ms=config.max_future_ms,
            next_offset=records.offsets[0],
            floor=_ALWAYS_LATE,
            origins=part.origins,
        )
        return decide_missing(
            seen,
            run,
            missing,
            rows,
            self._limits,
            source=LogSource(self._topic_id, partition),
            begin=progress.first,
            now_ms=wall_ms(),
        )

    @staticmethod
    def _count(progress: BackfillProgress, decided: Decided) -> None:
        letters = decided.swaps.swaps["verdict"]
        archived = int(_has_row(decided).sum())
        bad = int((letters == ord(Verdict.BAD)).sum())
        progress.archived += archived
        progress.undecodable += bad
        progress.repeats += len(letters) - archived - bad

    def _read(
        self, partition: int, end: int, progress: BackfillProgress
    ) -> Iterator[tuple[int, int, bytes | None, Origin | None]]:
        """Yield (offset, timestamp, value, origin) of the records from `next_offset` to `end`."""
        next_offset = progress.next_offset
        self._consumer.assign([TopicPartition(self._config.kafka_topic, partition, next_offset)])
        silent_since = time.monotonic()
        while next_offset < end:
            for message in self._consumer.consume(5_000, 0.5):
                fault = message.error()
                if fault is not None:
                    raise Fatal(f"kafka: reading partition {partition}: {fault.str()}")
                silent_since = time.monotonic()
                offset = message.offset()
                assert offset is not None
                next_offset = offset + 1
                if offset < end:
                    origin = origin_of(record_of(message).headers)
                    yield offset, message.timestamp()[1], message.value(), origin
            if time.monotonic() - silent_since > _TIMEOUT_S:
                # Transactions leave offsets without a record, so this chunk has no further records.
                return


def _has_row(decided: Decided) -> Array:
    rows: Array = HAS_ROW[decided.swaps.swaps["verdict"]]
    return rows


def _topic_id(config: Config) -> str:
    reader = KafkaReader(config.kafka_bootstrap, config.kafka_topic, config.archiver_group)
    try:
        return reader.topic_id() or config.kafka_topic
    finally:
        reader.close()
