"""Archives the swaps of a time range of the log that the archive lacks, and none twice.

A backfill looks only at offsets below those that the archivers have committed; later offsets are
theirs. It leaves a record alone if its position is in the archive. Any other one may be missing, or
may have had no row: the log is folded again from the rows before it, in order, so what was decided
once is decided alike. While it inserts, the epoch of the
partition is odd, and the archiver of the partition waits; afterwards that archiver learns the new
rows (see `ArchiveWriter.epoch`). So it may run beside the archivers, outside their group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import msgspec
import numpy as np
from confluent_kafka import Consumer, KafkaException, TopicPartition

from aggregator.archiving.batches import blocks_of, span_of
from aggregator.archiving.decisions import (
    ArchiveLimits,
    Decided,
    LogSource,
    decide_missing,
    ids_at,
    known_of,
)
from aggregator.archiving.intents import LogPosition, unpack
from aggregator.clickhouse.connection import ClickHouseClient, Unavailable
from aggregator.clickhouse.questions import ArchiveQuestions
from aggregator.clickhouse.writer import HAS_ROW, ArchiveWriter
from aggregator.contracts.arrays import Array
from aggregator.contracts.homes import Homes
from aggregator.contracts.records import Origin, origin_of
from aggregator.contracts.verdict import Verdict
from aggregator.decoding.decoder import BatchDecoder
from aggregator.decoding.rows import picked
from aggregator.member.kafka_reader import KafkaReader, record_of
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry
from aggregator.seen.seen import Seen

_TIMEOUT_S: Final = 10.0
_CHUNK: Final = 20_000
_TRIES: Final = 8
# An insert begins at most this long after the epoch was raised.
_LEASE_S: Final = 30.0
# An archiver settles its intent within its lease and the time of an insert.
_SETTLES_S: Final = 300.0
_ASK_EVERY_S: Final = 0.2
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


class _Columns(NamedTuple):
    """Records as the decoder reads them."""

    values: list[bytes | None]
    timestamps: list[int]
    offsets: list[int]
    origins: list[Origin | None]


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
        for progress, position in self._ranges(since_ms, until_ms):
            report(progress)
            while progress.next_offset < progress.end:
                self._step(progress, position)
                report(progress)

    def _ranges(
        self, since_ms: int, until_ms: int
    ) -> Iterator[tuple[BackfillProgress, LogPosition]]:
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
                yield BackfillProgress(partition, first, max(first, end), first), position
        except KafkaException as error:
            raise Retry(f"kafka: {error.args[0].str()}") from error

    def _committed(self, partition: int) -> tuple[int, LogPosition]:
        place = TopicPartition(self._config.kafka_topic, partition)
        (found,) = self._consumer.committed([place], timeout=_TIMEOUT_S)
        return max(0, found.offset), unpack(found.metadata or "")

    def _offset_at(self, partition: int, time_ms: int, end: int) -> int:
        asked = [TopicPartition(self._config.kafka_topic, partition, time_ms)]
        (found,) = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)
        return int(found.offset) if found.offset >= 0 else end

    def _step(self, progress: BackfillProgress, position: LogPosition) -> None:
        """Work on one chunk of one partition."""
        first = progress.next_offset
        end = min(progress.end, first + _CHUNK)
        there = self._questions.offsets_between(
            progress.partition, first, end, unnamed=position.switch is not None
        )
        records = self._chunk(progress, end)
        missing = np.array([offset not in there for offset in records.offsets], np.bool_)
        progress.seen += len(missing)
        progress.there += len(missing) - int(missing.sum())
        if missing.any():
            self._archive(progress, position, records, missing)
        progress.next_offset = end

    def _chunk(self, progress: BackfillProgress, end: int) -> _Columns:
        found = _Columns([], [], [], [])
        for offset, timestamp, value, origin in self._read(progress.partition, end, progress):
            found.values.append(value)
            found.timestamps.append(timestamp)
            found.offsets.append(offset)
            found.origins.append(origin)
        return found

    def _archive(
        self, progress: BackfillProgress, position: LogPosition, records: _Columns, missing: Array
    ) -> None:
        partition = progress.partition
        if self._dry_run:
            self._count(progress, self._decide(partition, position, records, missing))
            return
        backoff = Backoff()
        for left in reversed(range(_TRIES)):
            try:
                decided = self._insert(partition, position, records, missing)
            except Retry:
                if not left:
                    raise
                time.sleep(backoff.pause_s())
            else:
                self._count(progress, decided)
                return

    def _insert(
        self, partition: int, position: LogPosition, records: _Columns, missing: Array
    ) -> Decided:
        """Decide and insert while the archiver waits; decides again if it is tried again."""
        before = self._writer.epoch(partition).number
        self._writer.raise_epoch(partition, before + 1 + before % 2)
        raised_at = time.monotonic()
        try:
            self._wait_for_intent(partition)
            # The wait may have been long, and its end is what the epoch promises.
            self._writer.raise_epoch(partition, before + 3 + before % 2)
            raised_at = time.monotonic()
            decided = self._decide(partition, position, records, missing)
            self._writer.connect()
            for block in blocks_of([decided.swaps], partition, wall_ms()):
                if time.monotonic() - raised_at > _LEASE_S:
                    raise Unavailable("the archive took too long to answer")
                # The run is part of the token: an earlier block may have had the same offsets.
                token = f"{self._writer.token(partition, span_of(block))}:backfill:{self._run}"
                self._writer.insert(block, token)
        finally:
            self._writer.raise_epoch(partition, before + 4 + before % 2)
        return decided

    def _wait_for_intent(self, partition: int) -> None:
        """Wait until what the archiver promised before the epoch was raised is archived."""
        until = time.monotonic() + _SETTLES_S
        while self._committed(partition)[1].intent is not None:
            if time.monotonic() > until:
                raise Fatal(f"partition {partition}: an insert of its archiver does not end")
            time.sleep(_ASK_EVERY_S)

    def _decide(
        self, partition: int, position: LogPosition, records: _Columns, missing: Array
    ) -> Decided:
        """Decide the missing records of a chunk.

        All records of their ids are folded, from what the archive had before the chunk on.
        """
        swaps, config = self._decoder.decode(records).swaps, self._config
        homes = Homes(config.kafka_partitioner, position.homes or config.kafka_partitions)
        away = homes.away(swaps, partition)
        ids = ids_at(swaps, np.flatnonzero(missing & ~swaps.records["bad"] & ~away))
        rows = self._questions.rows_of(ids)
        if position.switch is not None:
            rows += self._questions.unnamed_rows_of(ids)
        begin = records.offsets[0]
        before = [row for row in rows if row.partition != partition or row.offset < begin]
        seen = Seen(
            ttl_ms=_NEVER_FORGET,
            grace_ms=config.grace_ms,
            max_future_ms=config.max_future_ms,
            next_offset=begin,
            floor=_ALWAYS_LATE,
        )
        wanted = np.frombuffer(b"".join(each.marker for each in ids), np.uint64)[::2]
        asked = missing | np.isin(swaps.markers[:, 0], wanted)
        folded = picked([(swaps, np.flatnonzero(asked))])
        folded.swaps["verdict"] = seen.judge(folded, away[asked], known_of(before)).letters
        lacking = picked([(folded, np.flatnonzero(missing[asked]))])
        return decide_missing(
            lacking,
            rows,
            self._limits,
            source=LogSource(self._topic_id, partition),
            now_ms=wall_ms(),
        )

    @staticmethod
    def _count(progress: BackfillProgress, decided: Decided) -> None:
        letters = decided.swaps.swaps["verdict"]
        archived = int(HAS_ROW[letters].sum())
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


def _topic_id(config: Config) -> str:
    reader = KafkaReader(config.kafka_bootstrap, config.kafka_topic, config.archiver_group)
    try:
        return reader.topic_id() or config.kafka_topic
    finally:
        reader.close()
