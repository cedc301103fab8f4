"""One partition in the hands of this process: its windows, its positions, and what it publishes.

The states: "rebuilding" from `acquire` until the log was replayed to the end that it had then,
"live" after. Knows the windows and the wire formats; does not talk to Kafka, Redis or NATS.
"""

from __future__ import annotations

import msgspec

from aggregator.config import Config
from aggregator.contracts.stats import Heartbeat, TokenStats
from aggregator.contracts.verdict import Verdict
from aggregator.ingest.log import LogExtent
from aggregator.pubsub.resync import Patch
from aggregator.window.engine import PartitionWindows


class PartitionOwner:
    """Owns one partition under one epoch.

    `next_offset` is the first offset that the windows do not cover; `target_offset` the log's end
    at assignment, up to which nothing is published; `committed_offset` where the last owner got to:
    dead letters below it were sent already.
    """

    def __init__(
        self,
        *,
        config: Config,
        partition: int,
        epoch: int,
        extent: LogExtent,
        committed_offset: int,
        now_ms: int,
        history_from: int | None,
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.seq = 0
        self.next_offset = extent.since
        self.target_offset = extent.end
        self.committed_offset = committed_offset
        self.active = True
        self.live = False
        self.reported = dict.fromkeys(Verdict, 0)
        # The log was cut before what is wanted: its first record tells from when on it is whole.
        self.starts_after_a_cut = extent.since == extent.start > 0
        self._max_future_ms = config.max_future_ms
        self.windows = PartitionWindows(
            partition=partition,
            windows=config.windows,
            grace_ms=config.grace_ms,
            max_future_ms=config.max_future_ms,
            now_ms=now_ms,
            history_from=history_from,
        )

    def observe(self, timestamp: int, record_timestamp: int) -> bool:
        """Take note of a record in log order; whether it is late."""
        if self.starts_after_a_cut:
            self.windows.history_from = record_timestamp + self._max_future_ms
            self.starts_after_a_cut = False
        return self.windows.observe(timestamp, record_timestamp)

    def caught_up(self) -> bool:
        """Whether the replay has reached what the log held at assignment."""
        return self.next_offset >= self.target_offset

    def go_live(self) -> list[Patch]:
        """The first full state of the epoch, all rows of seq 1; later patches count on from it."""
        self.live = True
        self.seq = 1
        self.windows.take_dirty()
        return [self._patch(token_id, self.seq) for token_id in self.windows.token_ids()]

    def take_patches(self) -> list[Patch]:
        """A patch for each token that changed since the last call, of contiguous seq."""
        patches = []
        for token_id in self.windows.take_dirty():
            self.seq += 1
            patches.append(self._patch(token_id, self.seq))
        self.windows.forget_idle()
        return patches

    def _patch(self, token_id: str, seq: int) -> Patch:
        stats: TokenStats = self.windows.stats(
            token_id, epoch=self.epoch, seq=seq, next_offset=self.next_offset
        )
        return Patch(token_id, seq, _encode(stats), self.windows.is_idle(token_id))

    def heartbeat(
        self, *, partitions: int, now_ms: int, end: int | None, degraded: list[str], stalled: bool
    ) -> Heartbeat:
        """What web nodes and operators are told every second."""
        state = "rebuilding" if not self.live else "stalled" if stalled else "live"
        return Heartbeat(
            partition=self.partition,
            partitions=partitions,
            epoch=self.epoch,
            seq=self.seq,
            next_offset=self.next_offset,
            target_offset=self.target_offset,
            state=state,
            as_of=now_ms,
            watermark=self.windows.watermark,
            lag=None if end is None else max(0, end - self.next_offset),
            degraded=degraded,
        )


_encode = msgspec.json.Encoder().encode
