"""The way of an archiver's batch: decode, claim, cut, promise in the commit metadata, insert.

Works on the partitions that it is given, as far as the engines may be asked now; what is not done
stays where it is. `next_offset` moves when the rows are in the tables.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import numpy as np

from aggregator.archiving.intents import column, pack
from aggregator.archiving.jobs import ArchiveJobs
from aggregator.archiving.partition import ArchivePartition, Flight
from aggregator.archiving.writers import Gates, Writers
from aggregator.clickhouse.connection import Unavailable
from aggregator.contracts.units import HOUR_MS
from aggregator.decoding.rows import NO_ROWS, RowDecoder, picked
from aggregator.member.kafka import Polled, Records, SwapLog
from aggregator.redis.checkins import Checkins, Seed
from aggregator.redis.markers import MAX_CLAIMS, RedisMarkers, kinds_of
from aggregator.redis.session import NewIncarnation, NotCheckedIn
from aggregator.runtime import metrics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry

# Bytes of records as they came; decoded they take about as much.
_MAX_BYTES: Final = 32 * 1024 * 1024
# While ClickHouse is down: to hold more would not bring it back sooner.
_MAX_BYTES_DOWN: Final = 8 * 1024 * 1024
_LOOK_UP_AT_ONCE: Final = 20_000


class ArchiveBatches:
    """The batches of the partitions in `owners`, which the archiver adds to and takes from."""

    def __init__(
        self,
        *,
        config: Config,
        owners: Mapping[int, ArchivePartition],
        swap_log: SwapLog,
        markers: RedisMarkers,
        checkins: Checkins,
        writers: Writers,
        gates: Gates,
        now_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._owners = owners
        self._log = swap_log
        self._markers = markers
        self._checkins = checkins
        self._writers = writers
        self._gates = gates
        self._now_ms = now_ms
        self._decoder = RowDecoder(config.max_future_ms)
        self._paused: set[int] = set()

    @property
    def size(self) -> int:
        """Bytes of the records in memory, as they came."""
        return sum(owner.size for owner in self._owners.values())

    def waiting(self) -> bool:
        """Whether records wait to be claimed."""
        return any(owner.waiting for owner in self._owners.values())

    def forget(self, partition: int) -> None:
        """The partition is not ours any more, or is taken anew."""
        self._paused.discard(partition)

    def take(self, polled: Polled) -> None:
        """Decode what a poll has brought."""
        for records in polled.records:
            owner = self._owners.get(records.partition)
            if owner is not None and owner.reading:
                self._decode(owner, records)
        for partition, end in polled.ends.items():
            owner = self._owners.get(partition)
            if owner is not None and owner.reading:
                owner.read(NO_ROWS, end)

    def _decode(self, owner: ArchivePartition, records: Records) -> None:
        """What cannot be decoded is passed over: the aggregator puts it aside."""
        # The offsets ascend.
        first = bisect_left(records.offsets, owner.read_offset)
        behind = bisect_left(records.offsets, owner.reads_to)
        swaps = self._decoder.decode(
            records.values[first:behind],
            records.timestamps[first:behind],
            records.offsets[first:behind],
        )
        owner.read(swaps, records.offsets[-1] + 1)

    def claim(self, partitions: int) -> None:
        """Have the markers decide what waits. `partitions` are those of the topic.

        Raises NewIncarnation.
        """
        for owner in self._owners.values():
            if owner.stage != "archiving" or self._gates.redis.closed_for_s:
                continue
            try:
                while owner.waiting and self._look_up_old(owner):
                    self._claim(owner)
                    self._gates.redis.worked()
            except NotCheckedIn as error:
                self._checkins.renew(owner.partition, partitions, owner.position.claimed_to)
                missing = self._checkins.missing(partitions)
                self._gates.redis.waits(f"{error}: missing are those of the partitions {missing}")
            except NewIncarnation:
                raise
            except Unavailable as error:
                self._gates.clickhouse.failed(str(error))
            except Retry as error:
                self._gates.redis.failed(str(error))

    def _claim(self, owner: ArchivePartition) -> None:
        parts = owner.waiting.first(min(owner.waiting.below(owner.looked_up_to), MAX_CLAIMS))
        late, watermarks = owner.lateness(parts)
        # "r": what is late is archived, so its retraction is, too.
        kinds = kinds_of(column(parts, "removed").tolist(), late.tolist(), "r")
        verdicts = self._markers.claim(
            owner.partition,
            column(parts, "offset").tolist(),
            column(parts, "marker").tobytes(),
            kinds,
        )
        owner.decide(verdicts, watermarks, time.monotonic())

    def _look_up_old(self, owner: ArchivePartition) -> bool:
        """Make the markers of swaps so old that Redis may have forgotten them (MARKER_TTL).

        False where that needs ClickHouse, and it is left alone now.
        """
        if owner.waiting.first_offset < owner.looked_up_to:
            return True
        parts = owner.waiting.first(_LOOK_UP_AT_ONCE)
        margin_ms = min(HOUR_MS, self._config.marker_ttl_ms // 4) + self._config.max_future_ms
        kept_from = self._now_ms() - self._config.marker_ttl_ms + margin_ms
        old = [(part, np.flatnonzero(part.swaps["timestamp"] < kept_from)) for part in parts]
        if any(len(places) for _, places in old):
            if self._gates.clickhouse.closed_for_s:
                return False
            rows = self._writers.ask(lambda archive: archive.rows_of(picked(old)))
            self._checkins.seed([Seed(*row) for row in rows])
        owner.looked_up_to = int(parts[-1].swaps["offset"][-1]) + 1
        return True

    def dispatch(self) -> None:
        """Promise and start the inserts that can be started now. Raises Fenced."""
        self._fill_flights()
        ready = [
            (owner, owner.flight)
            for owner in self._owners.values()
            if owner.flight is not None and not self._writers.busy(owner.partition)
        ]
        gates = self._gates
        if not ready or gates.kafka.closed_for_s or gates.clickhouse.closed_for_s:
            return
        if gates.clickhouse.fault:
            del ready[1:]  # one is enough to find out
        try:
            self._promise(ready)
        except Retry as error:
            gates.kafka.failed(str(error))
            return
        for owner, flight in ready:
            flight.promised_at = time.monotonic()
            self._writers.start(
                owner,
                partial(ArchiveJobs.insert, owner=owner, flight=flight),
                partial(self._inserted, owner, flight),
            )

    def _promise(self, ready: list[tuple[ArchivePartition, Flight]]) -> None:
        self._log.commit(
            {
                owner.partition: (flight.batch.intent.first, pack(flight.batch.promised))
                for owner, flight in ready
            }
        )

    def _fill_flights(self) -> None:
        """Cut a batch for each thread that has none, of the partition that has filled the longest.

        What waits for its thread grows meanwhile: rows of small blocks cost ClickHouse more.
        """
        pressed = self.size > _MAX_BYTES // 2
        taken = {
            self._writers.thread_of(partition)
            for partition, owner in self._owners.items()
            if owner.flight is not None
        }
        for owner in sorted(self._owners.values(), key=lambda owner: owner.filling_since):
            thread = self._writers.thread_of(owner.partition)
            if thread not in taken:
                self._fill(owner, pressed)
                if owner.flight is not None:
                    taken.add(thread)

    def _fill(self, owner: ArchivePartition, pressed: bool) -> None:
        while owner.flight is None and owner.decided:
            full = pressed or len(owner.decided) >= self._config.archive_batch_rows
            waited_ms = (time.monotonic() - owner.filling_since) * 1000
            if not full and waited_ms < self._config.archive_linger_ms:
                return
            batch = owner.cut(self._now_ms())
            if batch.blocks:
                owner.flight = Flight(batch, 0.0)
            else:
                owner.passed(batch)

    def _inserted(self, owner: ArchivePartition, flight: Flight, seconds: float) -> None:
        owner.passed(flight.batch)
        metrics.ARCHIVE_INSERT_SECONDS.observe(seconds)
        metrics.ARCHIVE_BATCHES.labels(owner.partition).inc()
        metrics.ARCHIVE_ROWS.labels(owner.partition).inc(flight.batch.rows)
        metrics.ARCHIVE_BATCH_ROWS.observe(flight.batch.rows)

    def throttle(self) -> None:
        """Stop reading where enough is held; go on where there is room again."""
        most = _MAX_BYTES_DOWN if self._gates.clickhouse.fault else _MAX_BYTES
        room = self.size <= most
        for partition, owner in self._owners.items():
            if owner.stage != "archiving":
                continue
            waits = len(owner.waiting) + len(owner.decided)
            full = not room or waits > self._config.archive_batch_rows
            if full and partition not in self._paused:
                self._log.pause([partition])
                self._paused.add(partition)
            elif not full and partition in self._paused:
                self._log.resume([partition])
                self._paused.discard(partition)
