"""The stages of an archiver's batch: decode, claim, cut, promise in the commit metadata, insert.

Works on the partitions that it is given, as far as the circuit breakers allow; what cannot be done
now stays queued. `next_offset` advances once the rows are in the tables.
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
from aggregator.archiving.partition import ArchivePartition, InFlightInsert
from aggregator.archiving.writers import CircuitBreakers, Writers
from aggregator.clickhouse.connection import Unavailable
from aggregator.contracts.units import HOUR_MS
from aggregator.decoding.rows import NO_ROWS, RowDecoder, picked
from aggregator.member.kafka import Polled, Records, SwapLog
from aggregator.redis.checkins import Checkins
from aggregator.redis.markers import MAX_CLAIMS, RedisMarkers, kinds_of
from aggregator.redis.session import NewIncarnation, NotCheckedIn
from aggregator.runtime import metrics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Retry

# Bytes of records as received; decoded they take about as much again.
_MAX_BYTES: Final = 32 * 1024 * 1024
# While ClickHouse is down, more records in memory would not bring it back sooner.
_MAX_BYTES_DOWN: Final = 8 * 1024 * 1024
_LOOK_UP_AT_ONCE: Final = 20_000


class ArchiveBatches:
    """The batches of the partitions in `owners`, a mapping that the archiver maintains."""

    def __init__(
        self,
        *,
        config: Config,
        owners: Mapping[int, ArchivePartition],
        swap_log: SwapLog,
        markers: RedisMarkers,
        checkins: Checkins,
        writers: Writers,
        breakers: CircuitBreakers,
        now_ms: Callable[[], int],
    ) -> None:
        self._config = config
        self._owners = owners
        self._log = swap_log
        self._markers = markers
        self._checkins = checkins
        self._writers = writers
        self._breakers = breakers
        self._now_ms = now_ms
        self._decoder = RowDecoder(config.max_future_ms)
        self._paused: set[int] = set()

    @property
    def size(self) -> int:
        """Bytes of the records in memory, as received."""
        return sum(owner.size for owner in self._owners.values())

    def waiting(self) -> bool:
        """Return whether records wait to be claimed."""
        return any(owner.waiting for owner in self._owners.values())

    def forget(self, partition: int) -> None:
        """Forget a partition that is released or is acquired again."""
        self._paused.discard(partition)

    def take(self, polled: Polled) -> None:
        """Decode what a poll returned."""
        for records in polled.records:
            owner = self._owners.get(records.partition)
            if owner is not None and owner.reading:
                self._decode(owner, records)
        for partition, end in polled.ends.items():
            owner = self._owners.get(partition)
            if owner is not None and owner.reading:
                owner.read(NO_ROWS, end)

    def _decode(self, owner: ArchivePartition, records: Records) -> None:
        """Decode records; skip what cannot be decoded, which the aggregator dead-letters."""
        # Offsets ascend, so a binary search finds the wanted range.
        first = bisect_left(records.offsets, owner.read_offset)
        end = bisect_left(records.offsets, owner.read_end)
        swaps = self._decoder.decode(
            records.values[first:end],
            records.timestamps[first:end],
            records.offsets[first:end],
        )
        owner.read(swaps, records.offsets[-1] + 1)

    def claim(self, partitions: int) -> None:
        """Have the markers decide the waiting records; `partitions` is the topic's partition count.

        Raises NewIncarnation.
        """
        for owner in self._owners.values():
            if owner.stage != "archiving" or self._breakers.redis.open_for_s:
                continue
            try:
                while owner.waiting and self._look_up_old(owner):
                    self._claim(owner)
                    self._breakers.redis.worked()
            except NotCheckedIn as error:
                self._checkins.renew(owner.partition, partitions, owner.position.claimed_to)
                missing = self._checkins.missing(partitions)
                self._breakers.redis.waits(f"{error}; missing partitions: {missing}")
            except NewIncarnation:
                raise
            except Unavailable as error:
                self._breakers.clickhouse.failed(str(error))
            except Retry as error:
                self._breakers.redis.failed(str(error))

    def _claim(self, owner: ArchivePartition) -> None:
        parts = owner.waiting.first(min(owner.waiting.below(owner.looked_up_to), MAX_CLAIMS))
        late, watermarks = owner.lateness(parts)
        # "r": a late swap is archived, so its retraction is archived too.
        kinds = kinds_of(column(parts, "removed").tolist(), late.tolist(), "r")
        verdicts = self._markers.claim(
            owner.partition,
            column(parts, "offset").tolist(),
            column(parts, "marker").tobytes(),
            kinds,
        )
        owner.decide(verdicts, watermarks, time.monotonic())

    def _look_up_old(self, owner: ArchivePartition) -> bool:
        """Restore the markers of swaps so old that Redis may have expired them (MARKER_TTL).

        Returns False if that needs ClickHouse and its circuit breaker is open.
        """
        if owner.waiting.first_offset < owner.looked_up_to:
            return True
        parts = owner.waiting.first(_LOOK_UP_AT_ONCE)
        margin_ms = min(HOUR_MS, self._config.marker_ttl_ms // 4) + self._config.max_future_ms
        kept_from = self._now_ms() - self._config.marker_ttl_ms + margin_ms
        old = [(part, np.flatnonzero(part.swaps["timestamp"] < kept_from)) for part in parts]
        if any(len(places) for _, places in old):
            if self._breakers.clickhouse.open_for_s:
                return False
            rows = self._writers.ask(lambda archive: archive.markers_of(picked(old)))
            self._checkins.seed(rows)
        owner.looked_up_to = int(parts[-1].swaps["offset"][-1]) + 1
        return True

    def dispatch(self) -> None:
        """Commit the intents of the inserts that can start now, and start them. Raises Fenced."""
        self._cut_batches()
        ready = [
            (owner, owner.in_flight)
            for owner in self._owners.values()
            if owner.in_flight is not None and not self._writers.busy(owner.partition)
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
            in_flight.promised_at = time.monotonic()
            self._writers.start(
                owner,
                partial(ArchiveJobs.insert, owner=owner, in_flight=in_flight),
                partial(self._inserted, owner, in_flight),
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
        while owner.in_flight is None and owner.decided:
            full = pressed or len(owner.decided) >= self._config.archive_batch_rows
            waited_ms = (time.monotonic() - owner.filling_since) * 1000
            if not full and waited_ms < self._config.archive_linger_ms:
                return
            batch = owner.cut(self._now_ms())
            if batch.blocks:
                owner.in_flight = InFlightInsert(batch, 0.0)
            else:
                owner.complete(batch)

    def _inserted(self, owner: ArchivePartition, in_flight: InFlightInsert, seconds: float) -> None:
        owner.complete(in_flight.batch)
        metrics.ARCHIVE_INSERT_SECONDS.observe(seconds)
        metrics.ARCHIVE_BATCHES.labels(owner.partition).inc()
        metrics.ARCHIVE_ROWS.labels(owner.partition).inc(in_flight.batch.rows)
        metrics.ARCHIVE_BATCH_ROWS.observe(in_flight.batch.rows)

    def throttle(self) -> None:
        """Pause partitions that hold enough, and resume those that have room again."""
        most = _MAX_BYTES_DOWN if self._breakers.clickhouse.fault else _MAX_BYTES
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
