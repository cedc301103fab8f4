"""Takes partitions over: a higher epoch first, then the state, then the replay.

The order makes it safe (DESIGN 4 rule 8). The new epoch is committed to Kafka, which refuses a
member that is no longer in the group; then it is taken in Redis, which from then on refuses every
lower epoch; only then is the state loaded. This module starts no reading and publishes nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from aggregator.counting.epochs import read_epoch, write_epoch
from aggregator.counting.partition import PartitionOwner
from aggregator.member.end_offset_check import EndOffsetCheck
from aggregator.member.kafka import SwapLog
from aggregator.redis.snapshots import Snapshots
from aggregator.runtime.config import Config

log = structlog.get_logger(__name__)


class Takeover:
    """Takes partitions that the group has assigned to this process."""

    def __init__(
        self, config: Config, swap_log: SwapLog, snapshots: Snapshots, now_ms: Callable[[], int]
    ) -> None:
        self._config = config
        self._log = swap_log
        self._snapshots = snapshots
        self._now_ms = now_ms
        self._log_end = EndOffsetCheck(
            config.kafka_topic,
            "counted",
            "Delete the snap: and dedupe: keys in Redis to begin again",
        )

    def take(self, partitions: Iterable[int]) -> list[PartitionOwner]:
        """Return an owner of each partition, at the end of its snapshot and under a new epoch.

        Raises Retry and NewIncarnation as the stores do, Fenced where the group or a newer owner
        has the partition, Fatal where the log is not the one that was counted.
        """
        # Restoring a state runs compiled code without the interpreter's lock, so the next snapshot
        # is loaded from Redis meanwhile.
        with ThreadPoolExecutor(thread_name_prefix="restore") as pool:
            restoring = [pool.submit(_restore, self._take(each)) for each in sorted(partitions)]
        return [each.result() for each in restoring]

    def _take(self, partition: int) -> Callable[[], PartitionOwner]:
        """Take a higher epoch in Kafka, then in Redis, then load the snapshot.

        Return the function that makes the owner from it.
        """
        now_ms = self._now_ms()
        committed, metadata = self._log.committed(partition)
        epoch = max(read_epoch(metadata), self._snapshots.last_epoch(partition)) + 1
        history_from, since = self._replay_from(now_ms)
        extent = self._log.extent(partition, since)
        committed_offset = max(committed or 0, extent.start)
        self._log.commit({partition: (committed_offset, write_epoch(epoch))})
        self._snapshots.take(partition, epoch)
        began = time.perf_counter()
        snapshot = self._snapshots.load(partition)
        log.debug("loaded", partition=partition, loading_s=time.perf_counter() - began)
        if snapshot is not None:
            self._log_end.check(partition, snapshot.header.next_offset, extent.end)
        return partial(
            PartitionOwner,
            config=self._config,
            partition=partition,
            epoch=epoch,
            extent=extent,
            committed_offset=committed_offset,
            now_ms=now_ms if self._config.clock == "wall" else 0,
            replay_since_ms=history_from,
            snapshot=snapshot,
        )

    def _replay_from(self, now_ms: int) -> tuple[int, int | None]:
        """Return the instant that the windows reach back to, and the record time to replay from.

        They count where there is no snapshot. A record may be older than its event by MAX_FUTURE.
        Windows at event time say nothing of record times, so there the whole log is replayed: None.
        """
        reach_ms = 2 * self._config.longest_window_minutes * 60_000 + self._config.grace_ms
        history_from = now_ms - reach_ms
        if self._config.clock == "event":
            return history_from, None
        return history_from, history_from - self._config.max_future_ms


def _restore(ready: Callable[[], PartitionOwner]) -> PartitionOwner:
    began = time.perf_counter()
    owner = ready()
    log.debug("restored", partition=owner.partition, decoding_s=time.perf_counter() - began)
    return owner
