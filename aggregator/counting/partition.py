"""One partition that this process owns: its windows, its positions, and what it publishes.

An owner is "rebuilding" from the assignment until it has replayed the log to the end offset of that
moment, and "live" from then on. It knows the windows and the wire formats; it does not talk to
Kafka, Redis or NATS.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import msgspec

from aggregator.contracts.arrays import Array
from aggregator.contracts.batch import SwapBatch
from aggregator.contracts.stats import Heartbeat, Quality, Tallies, TokenStats
from aggregator.contracts.trades import CandleRow
from aggregator.contracts.units import HOUR_MS, MINUTE_MS, minute_of
from aggregator.contracts.verdict import Verdict
from aggregator.member.kafka import LogExtent
from aggregator.nats.resync import Patch
from aggregator.redis.snapshots import Snapshot, SnapshotHeader
from aggregator.runtime.config import Config
from aggregator.runtime.version import VERSION
from aggregator.windows.engine import ColumnarWindows
from aggregator.windows.minutes import candles_of
from aggregator.windows.snapshot import EngineSnapshot

# How long before markers expire the heartbeats begin to warn.
_MARKER_MARGIN_MS: Final = HOUR_MS
# In batches: some seconds of a busy log, so that after a restart no trade is missing on web nodes.
_REPLAYED_KEPT: Final = 20


class Placed(msgspec.Struct, gc=False):
    """Decoded swaps of one partition in log order, with which of them are late; not yet applied.

    `watermark` is the partition's after the last of them, `next_offset` the offset after them.
    """

    batch: SwapBatch
    late: Sequence[bool]
    watermark: int | None
    next_offset: int


class PartitionOwner:
    """Owns one partition under one epoch.

    `next_offset` is the first offset that the windows do not cover, and `watermark` that of exactly
    the offsets below it; `read_offset` is the first offset that is not decoded yet. `target_offset`
    is the end offset at assignment: nothing is published before it is reached. `committed_offset`
    is how far the last owner came: dead letters below it were sent already. `saved_offset` is the
    next_offset of the last snapshot of this epoch, and `saved_at_ms` when that was due on a
    monotonic clock (0: never). `gap` are the offsets (first, end) that Kafka no longer held.
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
        replay_since_ms: int,
        snapshot: Snapshot | None,
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.seq = 0
        self.target_offset = extent.end
        self.committed_offset = committed_offset
        self.active = True
        self.live = False
        self.saved_offset: int | None = None
        self.saved_at_ms = 0
        self.dead_letters = 0
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._settings = config.counting
        self._unsaved: EngineSnapshot | None = None
        self.gap: tuple[int, int] | None = None
        self.watermark: int | None = None
        self.reported = dict.fromkeys(Verdict, 0)
        self._max_future_ms = config.max_future_ms
        self._marker_ttl_ms = config.marker_ttl_ms
        self._longest_ms = config.longest_window_minutes * MINUTE_MS
        self._newest_record: int | None = None
        self._unwitnessed: int | None = None
        self._starts_after_a_cut = False
        self._forgot_at = 0
        self._applied: list[SwapBatch] = []
        self.windows = ColumnarWindows(
            partition=partition,
            windows=config.windows,
            grace_ms=config.grace_ms,
            max_future_ms=config.max_future_ms,
            now_ms=now_ms,
        )
        self.restored = snapshot is not None and self.windows.restore(
            snapshot.sections, snapshot.header.watermark
        )
        if snapshot is not None and self.restored:
            self.next_offset = self._resume_from(snapshot.header, extent)
        else:
            self.next_offset = self._rebuild_from(extent, replay_since_ms)
        self.read_offset = self._first_offset = self.next_offset
        self._was_cut = self._starts_after_a_cut

    def _resume_from(self, header: SnapshotHeader, extent: LogExtent) -> int:
        """Return the offset to read on from after a snapshot."""
        self.watermark = header.watermark
        # Two reasons may cut the history short: what the snapshot says, and what it lacks because
        # the clock was ahead when it was made. The later one counts.
        begins = [each for each in (header.history_from, self.windows.history_from) if each]
        self.windows.history_from = max(begins, default=None)
        if header.next_offset >= extent.start:
            return header.next_offset
        self.gap = (header.next_offset, extent.start)
        self._starts_after_a_cut = True
        return extent.start

    def _rebuild_from(self, extent: LogExtent, replay_since_ms: int) -> int:
        """Return the offset to replay from without a snapshot."""
        if extent.since > extent.start:
            self.windows.history_from = replay_since_ms
        elif extent.start > 0:
            self._starts_after_a_cut = True
        return extent.since

    def place(self, batch: SwapBatch, record_timestamps: Array, next_offset: int) -> Placed:
        """Move the watermark over records in log order: every decoded one, duplicates too."""
        if len(batch):
            self._newest_record = self._unwitnessed = int(record_timestamps[-1])
        if self._starts_after_a_cut and len(batch):
            # What was cut off is older than this record by record time, and events may lie ahead of
            # their records by MAX_FUTURE.
            self.windows.history_from = int(record_timestamps[0]) + self._max_future_ms
            self._starts_after_a_cut = False
        late = self.windows.observe(batch.swaps["timestamp"], record_timestamps)
        self.read_offset = max(self.read_offset, next_offset)
        return Placed(batch, late, self.windows.watermark, self.read_offset)

    def apply(self, placed: Placed, verdicts: str) -> None:
        """Apply swaps as the markers decided; the windows then cover `placed.next_offset`."""
        self.windows.apply_batch(placed.batch, verdicts)
        self.watermark = placed.watermark
        self.next_offset = placed.next_offset
        self._note_applied()

    def advance(self, now_ms: int) -> None:
        """Move the windows' now forward."""
        self.windows.advance(now_ms)
        self._note_applied()

    def _note_applied(self) -> None:
        self._applied += self.windows.take_applied()
        if not self.live:
            # Of a replay, only the end can be new to readers.
            del self._applied[:-_REPLAYED_KEPT]

    def take_trades(self) -> list[SwapBatch]:
        """Return the batches applied since the last call; none before the partition is live."""
        if not self.live:
            return []
        applied, self._applied = self._applied, []
        return applied

    def history(
        self, token_id: str, minutes: int
    ) -> tuple[int, int, Callable[[], list[CandleRow]]]:
        """Return the `n` of a token's last trade, an instant, and a function that gives candles.

        The candles are those of the newest `minutes`, complete since the instant (ms). The function
        may run on any thread. With `minutes` = 0 there are none, and no bucket is copied.
        """
        newest = minute_of(self.windows.now_ms)
        since = max(newest - minutes + 1, self.windows.first_minute)
        found = self.windows.minutes(token_id, since)
        return found.n, since * MINUTE_MS, partial(candles_of, found) if minutes else list

    def lag_ms(self, now_ms: int) -> int:
        """Return the age of the newest record that was read, by record time; 0 before the first."""
        return 0 if self._newest_record is None else max(0, now_ms - self._newest_record)

    def take_newest_record(self) -> int | None:
        """Return the time (ms) of the newest record read since the last call, or None."""
        newest, self._unwitnessed = self._unwitnessed, None
        return newest

    def caught_up(self) -> bool:
        """Whether the replay has reached the end offset of the assignment."""
        return self.next_offset >= self.target_offset

    def take_snapshot(self) -> tuple[SnapshotHeader, EngineSnapshot]:
        """Return the header and the sections that bring the stored snapshot up to date.

        What an earlier call returned and `saved` did not confirm is part of it.
        """
        snapshot = self.windows.take_snapshot()
        if self._unsaved is not None:
            snapshot = self._unsaved.followed_by(snapshot)
        self._unsaved = snapshot
        header = SnapshotHeader(
            epoch=self.epoch,
            next_offset=self.next_offset,
            watermark=self.watermark,
            seq=self.seq,
            history_from=self.windows.history_from,
        )
        return header, snapshot

    def saved(self, header: SnapshotHeader) -> None:
        """Note that the snapshot taken last, with this header, is stored."""
        self.saved_offset = header.next_offset
        self._unsaved = None

    def go_live(self) -> list[Patch]:
        """Go live; return the first full state of the epoch, in which every row has seq 1."""
        self.live = True
        self.seq = 1
        self.windows.take_dirty()
        return self._patches(list(self.windows.token_ids()), first_seq=1, step=0)

    def take_patches(self) -> list[Patch]:
        """Return a patch for each token that changed since the last call, with contiguous seq.

        Once a minute this includes a last patch for each token that was idle for too long.
        """
        patches = self._patches(self.windows.take_dirty(), first_seq=self.seq + 1, step=1)
        minute = minute_of(self.windows.now_ms)
        if minute != self._forgot_at:
            self._forgot_at = minute
            first_seq = self.seq + len(patches) + 1
            patches += [
                self._last_patch(token_id, seq)
                for seq, token_id in enumerate(self.windows.forget_idle(), first_seq)
            ]
        self.seq += len(patches)
        return patches

    def _patches(self, token_ids: list[str], *, first_seq: int, step: int) -> list[Patch]:
        if not token_ids:
            return []
        rows = self.windows.rows_of(
            token_ids,
            epoch=self.epoch,
            first_seq=first_seq,
            seq_step=step,
            next_offset=self.next_offset,
        )
        return [
            Patch(token_id, first_seq + n * step, row)
            for n, (token_id, row) in enumerate(zip(token_ids, rows, strict=True))
        ]

    def _last_patch(self, token_id: str, seq: int) -> Patch:
        """Return the tombstone of a token that the windows dropped: a row without windows."""
        chain, _, token = token_id.partition(":")
        row = TokenStats(
            token_id=token_id,
            chain=chain,
            token=token,
            symbol=None,
            partition=self.partition,
            epoch=self.epoch,
            seq=seq,
            next_offset=self.next_offset,
            as_of=self.windows.now_ms,
            watermark=self.watermark,
            stale=False,
            last_price_usd=None,
            last_trade_at=None,
            quality=Quality(),
            windows={},
        )
        return Patch(token_id, seq, _encode(row), last=True)

    def heartbeat(
        self,
        *,
        partitions: int,
        now_ms: int,
        monotonic_ms: int,
        end: int | None,
        degraded: list[str],
        stalled: bool,
    ) -> Heartbeat:
        """Return the heartbeat that web nodes and operators receive every second.

        `now_ms` is the time of day, `monotonic_ms` a reading of the clock of `saved_at_ms`. `end`
        is the end offset, None where it is not known.
        """
        state = "rebuilding" if not self.live else "stalled" if stalled else "live"
        lag = None if end is None else max(0, end - self.next_offset)
        return Heartbeat(
            partition=self.partition,
            partitions=partitions,
            epoch=self.epoch,
            seq=self.seq,
            next_offset=self.next_offset,
            target_offset=self.target_offset,
            state=state,
            as_of=now_ms,
            watermark=self.watermark,
            lag=lag,
            degraded=[*degraded, *self._faults(now_ms, lag)],
            settings=self._settings,
            owner=self._process,
            version=VERSION,
            snapshot_age_ms=monotonic_ms - self.saved_at_ms if self.saved_at_ms else None,
            tallies=self._tallies(),
        )

    def _tallies(self) -> Tallies:
        counts = self.windows.counts
        return Tallies(
            records=self.read_offset - self._first_offset,
            duplicates=counts[Verdict.DUPLICATE],
            late=counts[Verdict.LATE],
            dead_letters=self.dead_letters,
        )

    def _faults(self, now_ms: int, lag: int | None) -> list[str]:
        """Return what was lost or may be wrong, for as long as the windows reach back to it."""
        faults = []
        history_from = self.windows.history_from
        if history_from is not None and history_from > now_ms - self._longest_ms:
            if self.gap is not None:
                first, end = self.gap
                faults.append(f"gap: Kafka no longer held the offsets {first} to {end - 1}")
            elif self._was_cut:
                faults.append("history: Kafka's log begins inside the longest window")
        if lag and self._newest_record is not None:
            lag_ms = now_ms - self._newest_record
            if lag_ms > self._marker_ttl_ms - _MARKER_MARGIN_MS:
                faults.append(
                    f"dedup horizon: the lag is {lag_ms // HOUR_MS} h, and markers are kept for "
                    f"{self._marker_ttl_ms // HOUR_MS} h: repeats may count again"
                )
        return faults


_encode = msgspec.json.Encoder().encode
