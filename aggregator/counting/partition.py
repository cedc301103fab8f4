"""One partition that this process owns: its ids, its windows, its positions, what it publishes.

An owner is "rebuilding" from the assignment until it has replayed the log to the end offset of that
moment and saved, and "live" from then on. It knows the decided ids, the windows and the wire
formats; it does not talk to Kafka, Redis or NATS. Pure.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final, NamedTuple

import msgspec
import numpy as np
import structlog

from aggregator.contracts.arrays import Array
from aggregator.contracts.seen import NEVER
from aggregator.contracts.stats import Heartbeat, Quality, Tallies, TokenStats
from aggregator.contracts.swaps import SWAP, Swaps
from aggregator.contracts.trades import CandleRow
from aggregator.contracts.units import MINUTE_MS, minute_of
from aggregator.contracts.verdict import Verdict
from aggregator.counting.rebuild import Rebuild
from aggregator.counting.recent_swaps import RecentSwaps
from aggregator.counting.save_job import SaveJob
from aggregator.member.log import LogExtent
from aggregator.nats.resync import Patch
from aggregator.redis.snapshots import Snapshot, SnapshotHeader
from aggregator.runtime.config import Config
from aggregator.runtime.version import VERSION
from aggregator.seen.seen import Seen, Verdicts
from aggregator.windows.engine import ColumnarWindows
from aggregator.windows.minutes import candles_of

log = structlog.get_logger(__name__)

# In batches: some seconds of a busy log, so that after a restart no trade is missing on web nodes.
_REPLAYED_KEPT: Final = 20
# The sections of the decided ids; all others are the windows'.
_TAIL: Final = b"w:"
_NO_PLACES: Final = np.zeros(0, np.int64)
_NO_SWAPS: Final = np.zeros(0, SWAP)


class Judged(NamedTuple):
    """Records that are decided but not applied to the windows yet.

    `undone_places` are the indexes of the retractions that take a swap out, and `undone` (SWAP)
    the swaps, as far as they are `found` (bool); the others must be read back from the log.
    """

    swaps: Swaps
    letters: Array
    undone_places: Array
    undone_offsets: Array
    undone: Array
    found: Array


class PartitionOwner:
    """Owns one partition under one epoch.

    `next_offset` is the first offset that the windows do not cover. `target_offset` is the end
    offset at assignment: nothing is published before it is reached. Dead letters below
    `reject_from` and forwarded records below `forward_from` were acknowledged before.
    `saved_offset` is the next_offset of the last save of this epoch that Redis has, and
    `saved_at_ms` when that was on a monotonic clock (0: never). `gap` are the offsets (first, end)
    that Kafka no longer held. `cut`: the log may not hold all that belongs into the windows.
    """

    def __init__(
        self,
        *,
        config: Config,
        partition: int,
        epoch: int,
        topic_id: str,
        extent: LogExtent,
        reject_from: int,
        forward_from: int,
        now_ms: int,
    ) -> None:
        self.partition = partition
        self.epoch = epoch
        self.seq = 0
        self.target_offset = extent.end
        self.reject_from = reject_from
        self.forward_from = forward_from
        self.live = False
        self.restored = False
        self.saved_offset: int | None = None
        self.saved_at_ms = 0
        self.dead_letters = self.misplaced = 0
        self.gap: tuple[int, int] | None = None
        self.reported = dict.fromkeys(Verdict, 0)
        self.recent = RecentSwaps()
        self._config = config
        self._topic_id = topic_id
        self._start = extent.start
        self._now_ms = now_ms
        self._process = f"{socket.gethostname()}:{os.getpid()}"
        self._longest_ms = config.longest_window_minutes * MINUTE_MS
        # The save that Redis holds, as (epoch, call); None where the next one must be whole.
        self._before: tuple[int, int] | None = None
        self._calls = 0
        # With the first record the history begins this many ms after its log clock.
        self._history_after: int | None = None
        self.cut = False
        self._newest_record: int | None = None
        self._unwitnessed: int | None = None
        self._forgot_at = 0
        self._applied: list[Swaps] = []
        self.windows = self._new_windows()
        self.seen = self._new_seen(extent.start)
        self.next_offset = self._first_offset = extent.start

    def _new_windows(self) -> ColumnarWindows:
        return ColumnarWindows(
            partition=self.partition, windows=self._config.windows, now_ms=self._now_ms
        )

    def _new_seen(self, next_offset: int, floor: int = NEVER) -> Seen:
        return Seen(
            ttl_ms=self._config.marker_ttl_ms,
            grace_ms=self._config.grace_ms,
            max_future_ms=self._config.max_future_ms,
            next_offset=next_offset,
            by_event_time=self._config.clock == "event",
            floor=floor,
        )

    def resume(self, snapshot: Snapshot) -> bool:
        """Load a saved state; return False where its format or windows are others: then rebuild."""
        header = snapshot.header
        tail = {name: part for name, part in snapshot.sections.items() if name[:2] == _TAIL}
        others = {name: part for name, part in snapshot.sections.items() if name not in tail}
        try:
            seen = Seen.restore(
                header.seen,
                snapshot.blocks,
                tail,
                ttl_ms=self._config.marker_ttl_ms,
                grace_ms=self._config.grace_ms,
                max_future_ms=self._config.max_future_ms,
                by_event_time=self._config.clock == "event",
            )
        except ValueError as error:
            log.warning("ids_unreadable", partition=self.partition, error=str(error))
            return False
        if not self.windows.restore(others):
            self.windows = self._new_windows()
            return False
        self.seen = seen
        # Two reasons may cut the history short: what the header says, and what the sections lack
        # because the clock was ahead when they were saved. The later one counts.
        begins = [each for each in (header.history_from, self.windows.history_from) if each]
        self.windows.history_from = max(begins, default=None)
        if self.windows.history_from is None:
            self._history_after = 0
        if header.next_offset < self._start:
            self.gap = (header.next_offset, self._start)
            self._note_cut()
            self.seen.skip_to(self._start)
        self._before = (header.epoch, header.call)
        self.next_offset = self._first_offset = self.seen.next_offset
        self.restored = True
        return True

    def rebuild(self, plan: Rebuild) -> None:
        """Begin without a saved state."""
        self.seen = self._new_seen(plan.offset, floor=plan.floor)
        self.gap = plan.gap
        if plan.cut or plan.gap is not None:
            self.windows.history_from = plan.floor if plan.floor > 0 else None
            self._note_cut()
        elif plan.whole:
            self._history_after = 0
        else:
            self.windows.history_from = plan.floor
        self.next_offset = self._first_offset = plan.offset

    def _note_cut(self) -> None:
        # What was cut off is older than the next record by record time, and events may lie ahead of
        # their records by MAX_FUTURE.
        self._history_after = self._config.max_future_ms
        self.cut = True

    def judge(self, swaps: Swaps, away: Array) -> Judged:
        """Decide the next records of the log. `apply` must follow before the next call."""
        if len(swaps):
            self._newest_record = self._unwitnessed = int(swaps.records["recorded"][-1])
        if self._history_after is not None and len(swaps):
            first = int(self.seen.clocks(swaps.part(0, 1))[0])
            if first > 0:  # by event time a bad record has no clock
                begins = first + self._history_after
                self.windows.history_from = max(begins, self.windows.history_from or begins)
                self._history_after = None
        verdicts: Verdicts = self.seen.judge(swaps, away)
        self.recent.add(swaps.swaps, verdicts.letters)
        places = np.flatnonzero(verdicts.counted_at >= 0)
        if not len(places):
            return Judged(
                swaps, verdicts.letters, _NO_PLACES, _NO_PLACES, _NO_SWAPS, _NO_PLACES == 1
            )
        offsets = verdicts.counted_at[places]
        undone, found = self.recent.find(offsets)
        return Judged(swaps, verdicts.letters, places, offsets, undone, found)

    def apply(self, judged: Judged) -> None:
        """Apply decided records; the windows then cover `next_offset`.

        A swap that is not found, because the log has lost it, is taken out with the values of its
        retraction.
        """
        undone = judged.undone
        lost = ~judged.found
        if lost.any():
            undone[lost] = judged.swaps.swaps[judged.undone_places[lost]]
        self.windows.apply(judged.swaps, judged.letters, judged.undone_places, undone)
        self.next_offset = self.seen.next_offset
        self._note_applied()

    def skip_to(self, offset: int) -> None:
        """Move past offsets without records, which transactions leave."""
        if offset > self.next_offset:
            self.seen.skip_to(offset)
            self.next_offset = self.seen.next_offset

    def advance(self, now_ms: int) -> None:
        """Move the windows' now forward."""
        self.windows.advance(now_ms)
        self._note_applied()

    def _note_applied(self) -> None:
        self._applied += self.windows.take_applied()
        if not self.live:
            # Of a replay, only the end can be new to readers.
            del self._applied[:-_REPLAYED_KEPT]

    def take_trades(self) -> list[Swaps]:
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

    def needs_save(self) -> bool:
        """Whether Redis lacks anything of the state."""
        return self._before is None or self.saved_offset != self.next_offset

    def take_save(self) -> SaveJob:
        """Return what brings the stored state up to date: the changes, or everything.

        Call it only while no earlier job is under way.
        """
        if (clock := self.seen.clock) is not None:
            self.windows.settle(clock)
        whole = self._before is None
        sections = self.windows.take_whole() if whole else self.windows.take_snapshot()
        seen = self.seen.whole() if whole else self.seen.changes()
        self._calls += 1
        header = SnapshotHeader(
            epoch=self.epoch,
            call=self._calls,
            seen=seen.header,
            seq=self.seq,
            history_from=self.windows.history_from,
            topic_id=self._topic_id,
        )
        return SaveJob(
            partition=self.partition,
            header=header,
            changed=sections.changed | seen.sections,
            dropped=[*sections.dropped, *seen.dropped],
            blocks=seen.blocks,
            forgotten=seen.forgotten,
            before=self._before,
        )

    def saved(self, job: SaveJob, at_ms: int) -> None:
        """Note that Redis holds this save since `at_ms` of a monotonic clock."""
        self._before = (job.header.epoch, job.header.call)
        self.saved_offset = job.header.next_offset
        self.saved_at_ms = at_ms

    def save_whole(self) -> None:
        """Note that Redis does not hold what the last save built on: save everything."""
        self._before = None

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
            watermark=self.seen.clock,
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
            watermark=self.seen.clock,
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
        return Heartbeat(
            partition=self.partition,
            partitions=partitions,
            epoch=self.epoch,
            seq=self.seq,
            next_offset=self.next_offset,
            target_offset=self.target_offset,
            state=state,
            as_of=now_ms,
            watermark=self.seen.clock,
            lag=None if end is None else max(0, end - self.next_offset),
            degraded=[*degraded, *self._faults(now_ms)],
            settings=self._config.counting,
            owner=self._process,
            version=VERSION,
            snapshot_age_ms=monotonic_ms - self.saved_at_ms if self.saved_at_ms else None,
            tallies=self._tallies(),
        )

    def _tallies(self) -> Tallies:
        counts = self.windows.counts
        return Tallies(
            records=self.next_offset - self._first_offset,
            duplicates=counts[Verdict.DUPLICATE],
            late=counts[Verdict.LATE],
            dead_letters=self.dead_letters,
            misplaced=self.misplaced,
        )

    def _faults(self, now_ms: int) -> list[str]:
        """Return what was lost, for as long as the windows reach back to it."""
        history_from = self.windows.history_from
        if history_from is None or history_from <= now_ms - self._longest_ms:
            return []
        if self.gap is not None:
            first, end = self.gap
            return [f"gap: Kafka no longer held the offsets {first} to {end - 1}"]
        if self.cut:
            return ["history: Kafka's log begins inside the longest window"]
        return []


_encode = msgspec.json.Encoder().encode
