"""Archives the swaps of a time range of the log that the archive lacks, and none twice.

A backfill looks only at offsets below those that the archivers have committed; later offsets are
theirs. It leaves a record alone if its position is in the archive. For the others the markers
decide, after the markers of archived swaps are restored from the archive: a swap that was archived
at another position is a duplicate. A backfill runs beside the archivers, outside their group.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import msgspec
from confluent_kafka import Consumer, KafkaException, TopicPartition

from aggregator.archiving.intents import blocks_of, span_of
from aggregator.clickhouse.connection import ClickHouseClient
from aggregator.clickhouse.writer import ArchiveWriter
from aggregator.contracts.archive_rows import SwapRows
from aggregator.decoding.rows import RowDecoder
from aggregator.redis.checkins import Checkins
from aggregator.redis.markers import MAX_CLAIMS, RedisMarkers, kinds_of
from aggregator.redis.session import RedisSession
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry

_TIMEOUT_S: Final = 10.0
_CHUNK: Final = 20_000
_TRIES: Final = 8


class BackfillProgress(msgspec.Struct):
    """How far a partition is: `next_offset` of the range [first, end).

    Counts the records read, archived before, repeated, undecodable, and archived by this run.
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


class Backfill:
    """One run over the records whose Kafka timestamp lies in [since_ms, until_ms)."""

    def __init__(self, config: Config, *, dry_run: bool) -> None:
        self._config = config
        self._dry_run = dry_run
        self._decoder = RowDecoder(config.max_future_ms)
        self._session = RedisSession(config.redis_url)
        self._markers = RedisMarkers(self._session, config.marker_ttl_ms)
        self._checkins = Checkins(self._session, config.kafka_topic, config.marker_ttl_ms)
        self._clickhouse = ClickHouseClient(config.clickhouse_url, receive_s=90)
        self._writer = ArchiveWriter(self._clickhouse, config.kafka_topic)
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
        self._session.close()

    def run(self, since_ms: int, until_ms: int, report: Callable[[BackfillProgress], None]) -> None:
        """Archive what is missing; call `report` after every step.

        Raises Retry if an engine stays unreachable, and Fatal.
        """
        self._session.connect()
        self._writer.connect()
        for progress in self._ranges(since_ms, until_ms):
            report(progress)
            while progress.next_offset < progress.end:
                self._step(progress)
                report(progress)

    def _ranges(self, since_ms: int, until_ms: int) -> Iterator[BackfillProgress]:
        topic = self._config.kafka_topic
        try:
            found = self._consumer.list_topics(topic, timeout=_TIMEOUT_S).topics[topic]
            places = [TopicPartition(topic, partition) for partition in sorted(found.partitions)]
            committed = self._consumer.committed(places, timeout=_TIMEOUT_S)
            for place, archived in zip(places, committed, strict=True):
                log_start, log_end = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S)
                first = max(log_start, self._offset_at(place.partition, since_ms, log_end))
                end = min(
                    max(0, archived.offset), self._offset_at(place.partition, until_ms, log_end)
                )
                yield BackfillProgress(place.partition, first, max(first, end), first)
        except KafkaException as error:
            raise Retry(f"kafka: {error.args[0].str()}") from error

    def _offset_at(self, partition: int, time_ms: int, end: int) -> int:
        asked = [TopicPartition(self._config.kafka_topic, partition, time_ms)]
        (found,) = self._consumer.offsets_for_times(asked, timeout=_TIMEOUT_S)
        return int(found.offset) if found.offset >= 0 else end

    def _step(self, progress: BackfillProgress) -> None:
        """Work on one chunk of one partition."""
        first = progress.next_offset
        end = min(progress.end, first + _CHUNK)
        there = self._writer.offsets_between(progress.partition, first, end)
        offsets: list[int] = []
        timestamps: list[int] = []
        values: list[bytes | None] = []
        for offset, timestamp, value in self._read(progress.partition, first, end):
            progress.seen += 1
            if offset in there:
                progress.there += 1
                continue
            offsets.append(offset)
            timestamps.append(timestamp)
            values.append(value)
        swaps = self._decoder.decode(values, timestamps, offsets)
        progress.undecodable += len(values) - len(swaps)
        if len(swaps):
            self._archive(progress, swaps)
        progress.next_offset = end

    def _archive(self, progress: BackfillProgress, swaps: SwapRows) -> None:
        verdicts = self._decide(progress.partition, swaps)
        swaps.swaps["verdict"] = list(verdicts.encode())
        progress.repeats += verdicts.count("D")
        for block in blocks_of([swaps], progress.partition, wall_ms()):
            progress.archived += len(block.swaps)
            if not self._dry_run:
                # The run is part of the token: an earlier block may have had the same offsets.
                span = span_of(block)
                token = f"{self._writer.token(block.partition, span)}:backfill:{self._run}"
                self._with_retries(lambda: self._insert(block, token))  # noqa: B023

    def _decide(self, partition: int, swaps: SwapRows) -> str:
        rows = self._writer.markers_of(swaps)
        if self._dry_run:
            taken = {(row.marker, row.removed) for row in rows}
            asked = zip(swaps.rows["marker"].tolist(), swaps.rows["removed"].tolist(), strict=True)
            return "".join("D" if each in taken else "L" for each in asked)
        self._checkins.seed(rows)
        verdicts = ""
        for begin in range(0, len(swaps), MAX_CLAIMS):
            some = swaps.part(begin, min(begin + MAX_CLAIMS, len(swaps)))
            # A swap without a marker is late by now: the windows do not count it any more.
            kinds = kinds_of(some.rows["removed"].tolist(), [True] * len(some), "r")
            verdicts += self._markers.claim(
                partition,
                some.swaps["offset"].tolist(),
                some.rows["marker"].tobytes(),
                kinds,
            )
        return verdicts

    def _insert(self, block: Any, token: str) -> None:
        self._writer.connect()
        self._writer.insert(block, token)

    def _with_retries(self, call: Callable[[], None]) -> None:
        backoff = Backoff()
        for left in reversed(range(_TRIES)):
            try:
                return call()
            except Retry:
                if not left:
                    raise
                time.sleep(backoff.pause_s())
        return None

    def _read(
        self, partition: int, first: int, end: int
    ) -> Iterator[tuple[int, int, bytes | None]]:
        """Yield (offset, timestamp, value) of the records of [first, end)."""
        self._consumer.assign([TopicPartition(self._config.kafka_topic, partition, first)])
        next_offset, silent_since = first, time.monotonic()
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
                    yield offset, message.timestamp()[1], message.value()
            if time.monotonic() - silent_since > _TIMEOUT_S:
                # Transactions leave offsets without a record, so this chunk has no further records.
                return
