"""Publishes what the owners have: patches, trades, histories, heartbeats, gauges.

Reads the owners and hands over to the publisher, the board cache, metrics and probes. Decides
nothing and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from aggregator.contracts.stats import Heartbeat
from aggregator.contracts.verdict import Verdict
from aggregator.counting.board_cache import PublishedRows, RowStore
from aggregator.counting.partition import PartitionOwner
from aggregator.nats.publisher import Publisher
from aggregator.nats.resync import Patch
from aggregator.runtime import metrics
from aggregator.runtime.health import Health


class Beat(msgspec.Struct, frozen=True, gc=False):
    """One partition at the time of a heartbeat.

    `end` is the end offset of the log, None where it is not known. `unreadable` and `fault` say why
    the partition makes no progress, "" while it does; `notes` are other faults.
    """

    owner: PartitionOwner
    end: int | None
    unreadable: str
    fault: str
    notes: Sequence[str]


class Announcer:
    """Announces the partitions of this process to web nodes, Redis, metrics and probes.

    `partitions` is how many the topic has.
    """

    def __init__(
        self, publisher: Publisher, rows: RowStore, health: Health, partitions: int = 0
    ) -> None:
        self._publisher = publisher
        self._rows = rows
        self._health = health
        self.partitions = partitions

    def check(self) -> None:
        """Raise Fatal where the publisher has died."""
        self._publisher.check()

    def note_partitions(self, count: int) -> None:
        """Note how many partitions the topic has."""
        self.partitions = count

    def taken(self, owner: PartitionOwner) -> None:
        """Announce a partition that this process has taken over."""
        self._publisher.take(owner.partition, owner.epoch)

    def released(self, partition: int) -> None:
        """Stop announcing a partition; a gauge that no longer moves would look like a fact."""
        self._publisher.drop(partition)
        self._rows.drop(partition)
        for gauge in _GAUGES:
            gauge.remove(partition)

    def live(self, owner: PartitionOwner) -> int:
        """Offer the first full state of an epoch; return of how many tokens it is."""
        rows = owner.go_live()
        self._publisher.load(owner.partition, rows, owner.seq, owner.next_offset)
        self._note(owner, rows, whole=True)
        return len(rows)

    def publish_changes(self, owners: Sequence[PartitionOwner]) -> int:
        """Publish what changed since the last call; return the number of patches.

        The windows must have been moved forward by `advance` before.
        """
        published = 0
        for owner in owners:
            if owner.live and (patches := owner.take_patches()):
                self._publisher.publish(owner.partition, patches, owner.next_offset)
                self._note(owner, patches, whole=False)
                published += len(patches)
        # After every patch: a trade takes longer to render, and fewer readers want it.
        for owner in owners:
            self._trades(owner)
        return published

    def answer_histories(self, owners: Mapping[int, PartitionOwner]) -> None:
        """Answer the questions for tokens' histories."""
        for question in self._publisher.take_questions():
            owner = owners.get(question.partition)
            if owner is not None and owner.live:
                # The trades that the answer counts are published before it.
                self._trades(owner)
                n, from_ms, candles = owner.history(question.token_id, question.minutes)
                self._publisher.answer_history(question, owner.epoch, n, from_ms, candles)
            else:
                self._publisher.refuse_history(question)

    def publish_heartbeats(
        self,
        beats: Sequence[Beat],
        *,
        now_ms: int,
        monotonic_ms: int,
        stalled: Sequence[str],
        waiting: Sequence[str],
        degraded: Sequence[str],
    ) -> None:
        """Publish how far each partition is, and what is wrong, to web nodes, metrics and probes.

        `stalled` says why no partition makes progress, `waiting` why one cannot be taken over, and
        `degraded` what is wrong although the numbers are fresh. `monotonic_ms` is a reading of the
        clock of the owners' `saved_at_ms`.
        """
        reasons, notes = [*stalled, *waiting], [*degraded]
        if not self._publisher.connected:
            reasons.append("nats: not connected, so nothing is published")
        for beat in beats:
            owner, partition = beat.owner, beat.owner.partition
            own = [each for each in (beat.unreadable, beat.fault) if each]
            heartbeat = owner.heartbeat(
                partitions=self.partitions,
                now_ms=now_ms,
                monotonic_ms=monotonic_ms,
                end=beat.end,
                degraded=[*stalled, *degraded, *own, *beat.notes],
                stalled=bool(stalled or own),
            )
            metrics.INGEST_UNREADABLE.labels(partition).set(bool(beat.unreadable))
            reasons += [f"partition {partition} is stalled: {why}" for why in own]
            notes += [f"partition {partition}: {note}" for note in beat.notes]
            self._publisher.heartbeat(heartbeat)
            _gauge(partition, owner, heartbeat, now_ms)
            if not owner.live:
                reasons.append(
                    f"partition {partition} is rebuilding: offset {owner.next_offset} "
                    f"of {owner.target_offset}"
                )
        self._health.beat(reasons, notes)

    def _trades(self, owner: PartitionOwner) -> None:
        if applied := owner.take_trades():
            self._publisher.trades(owner.partition, owner.epoch, applied)

    def _note(self, owner: PartitionOwner, patches: Sequence[Patch], *, whole: bool) -> None:
        """Keep the rows for web nodes that start while the partition has no owner."""
        self._rows.note(
            PublishedRows(
                partition=owner.partition,
                partitions=self.partitions,
                epoch=owner.epoch,
                seq=owner.seq,
                next_offset=owner.next_offset,
                rows=patches,
                whole=whole,
            )
        )


_GAUGES = (
    metrics.INGEST_BAD_RATIO,
    metrics.INGEST_UNREADABLE,
    metrics.INGEST_LAG,
    metrics.INGEST_LAG_SECONDS,
    metrics.INGEST_WATERMARK,
    metrics.WINDOW_TOKENS,
    metrics.WINDOW_BUCKETS,
    metrics.WINDOW_MEMORY,
    metrics.SNAPSHOT_SAVED,
    metrics.INGEST_IDS,
    metrics.INGEST_IDS_BYTES,
)


def _gauge(partition: int, owner: PartitionOwner, heartbeat: Heartbeat, now_ms: int) -> None:
    windows, lag = owner.windows, heartbeat.lag
    if lag is not None:
        metrics.INGEST_LAG.labels(partition).set(lag)
        lag_ms = owner.lag_ms(now_ms) if lag else 0
        metrics.INGEST_LAG_SECONDS.labels(partition).set(lag_ms / 1000)
    if (age_ms := heartbeat.snapshot_age_ms) is not None:
        metrics.SNAPSHOT_SAVED.labels(partition).set((now_ms - age_ms) / 1000)
    if owner.seen.clock is not None:
        metrics.INGEST_WATERMARK.labels(partition).set(owner.seen.clock / 1000)
    for counter, verdict in (
        (metrics.INGEST_DUPLICATES, Verdict.DUPLICATE),
        (metrics.INGEST_LATE, Verdict.LATE),
    ):
        counter.labels(partition).inc(windows.counts[verdict] - owner.reported[verdict])
    owner.reported = dict(windows.counts)
    metrics.WINDOW_TOKENS.labels(partition).set(windows.token_count)
    metrics.WINDOW_BUCKETS.labels(partition).set(windows.bucket_count)
    metrics.WINDOW_MEMORY.labels(partition).set(windows.memory_bytes)
    metrics.INGEST_IDS.labels(partition).set(owner.seen.ids)
    metrics.INGEST_IDS_BYTES.labels(partition).set(owner.seen.memory_bytes)
