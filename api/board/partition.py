"""One partition on this node: what is shown of it, and whether its owner has published more.

Pure: messages and `now_ms` (of one monotonic clock) come in, rows to show and questions to the
owner come out; no NATS, no asyncio, no clock. The race between fetching the state and following
its changes is resolved here, by five rules:

1. Patches are subscribed to before the state is requested, and buffered until they can be applied.
2. A patch is applied only if it is the next one: same epoch, `seq` + 1. A later patch is buffered;
   a resync fills the hole before it and returns everything newer than what is shown.
3. A message of an older epoch than the newest seen is dropped. A newer epoch is accepted only with
   a full state whose `next_offset` is not below that of the rows shown; until then the old rows
   stay.
4. NATS keeps the order of one publisher, but heartbeats and patches are two subscriptions here, so
   a heartbeat may overtake patches that are already in this process. A heartbeat that is ahead
   counts as a hole only if the patches have not arrived within SETTLE_MS.
5. The age of the numbers counts from the instant at which the owner reported them as its newest,
   not from the arrival of that report (`lateness`). What has waited in a queue is stale, however
   soon its successor arrives.

So (epoch, seq) and `next_offset` never go back, and they end equal to the owner's however many
messages were lost, repeated or reordered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, Protocol

import msgspec

from aggregator.contracts.stats import Heartbeat, ResyncChunk, ResyncRequest, TokenStats
from aggregator.runtime import metrics
from aggregator.runtime.backoff import Backoff
from api.board.lateness import Lateness

SETTLE_MS: Final = 200
ANSWER_TIMEOUT_MS: Final = 2_000
FIRST_BACKOFF_MS: Final = 100
LONGEST_BACKOFF_MS: Final = 5_000
# More than this many patches are not buffered, but only recorded as a hole: the resync that fills
# the hole returns their values anyway.
MAX_BUFFERED: Final = 20_000


class RowSink(Protocol):
    """Receives the rows that a partition shows."""

    def show(self, stats: TokenStats) -> None:
        """Show this newer row of a token."""

    def replace(self, partition: int, rows: Iterable[TokenStats]) -> None:
        """Replace all rows of the partition with these."""


class SavedRows(msgspec.Struct, frozen=True):
    """The rows of a partition that Redis holds; the topic has `partitions` partitions.

    `epoch`, `seq` and `next_offset` are not below those of any row.
    """

    partition: int
    partitions: int
    epoch: int
    seq: int
    next_offset: int
    rows: list[TokenStats]


class ResyncAnswer:
    """Collect the chunks of the answer to one resync request."""

    def __init__(self, request_id: int, request: ResyncRequest, now_ms: int) -> None:
        self.request_id = request_id
        self.request = request
        self.received_at = now_ms
        self.head: ResyncChunk | None = None
        self.rows: dict[int, list[TokenStats]] = {}

    def add(self, chunk: ResyncChunk, rows: list[TokenStats], now_ms: int) -> bool:
        """Add a chunk; return whether the answer is complete.

        Two owners may answer during a takeover: the chunks of the later (epoch, seq) win.
        """
        head = self.head
        if head is None or (chunk.epoch, chunk.seq) > (head.epoch, head.seq):
            self.head, self.rows = chunk, {}
        elif (chunk.epoch, chunk.seq, chunk.chunks) != (head.epoch, head.seq, head.chunks):
            return False
        self.received_at = now_ms
        self.rows[chunk.chunk] = rows
        return len(self.rows) >= chunk.chunks


class Partition:
    """Track what is shown of one partition, and what its owner is known to have published."""

    def __init__(
        self, number: int, rows: RowSink, stale_after_ms: int, jitter: Callable[[], float]
    ) -> None:
        self.number = number
        self.hydrated = False
        self.epoch = 0
        self.seq = 0
        self.next_offset = 0
        self.as_of: int | None = None
        self.heartbeat: Heartbeat | None = None
        self.heartbeat_at: int | None = None
        self.late_ms = 0
        self.asked: ResyncAnswer | None = None
        self._rows = rows
        self._stale_after_ms = stale_after_ms
        self._backoff = Backoff(
            FIRST_BACKOFF_MS / 1_000, LONGEST_BACKOFF_MS / 1_000, spread=(0.5, 1.0), draw=jitter
        )
        self._newest_epoch = 0
        self._target = 0
        self._buffered: dict[int, TokenStats] = {}
        self._reload = False
        self._awaits_heartbeat = True
        self._from_saved = False
        self._fresh_at: int | None = None
        self._lateness = Lateness()
        self._due_at: int | None = None
        self._not_before = 0

    @property
    def in_sync(self) -> bool:
        """Return whether all that the newest owner is known to have published is shown."""
        return (
            self.hydrated
            and not self._reload
            and self.epoch == self._newest_epoch
            and self.seq >= self._target
        )

    @property
    def newest_epoch(self) -> int:
        """Return the newest owner's epoch; above `epoch` until that owner's state is shown."""
        return self._newest_epoch

    def silent(self, now_ms: int) -> bool:
        """Return whether the last heartbeat is older than the limit, or none has arrived yet."""
        return self.heartbeat_at is None or now_ms - self.heartbeat_at > self._stale_after_ms

    def age_ms(self, now_ms: int) -> int | None:
        """Return how long ago the owner made its newest heartbeat; None before the first."""
        return None if self.heartbeat_at is None else now_ms - self.heartbeat_at + self.late_ms

    def late(self, now_ms: int) -> bool:
        """Return whether heartbeats arrive, but are too old on arrival."""
        age = self.age_ms(now_ms)
        return age is not None and age > self._stale_after_ms and not self.silent(now_ms)

    def stale(self, now_ms: int) -> bool:
        """Return whether the rows shown may be old.

        They may be if the owner is silent, late or not live, or has been ahead for too long.
        """
        if self._fresh_at is None or now_ms - self._fresh_at > self._stale_after_ms:
            return True
        return self.heartbeat is not None and self.heartbeat.state != "live"

    def patch(self, stats: TokenStats, now_ms: int) -> None:
        """Apply a patch from the owner, or buffer it if it is not the next one."""
        if not self._of_newest_epoch(stats.epoch, now_ms):
            return
        if self.hydrated and stats.epoch == self.epoch:
            if stats.seq <= self.seq:
                return
            if stats.seq == self.seq + 1:
                self._apply(stats)
                if self._buffered:
                    self._apply_buffered()
                self._note_if_in_sync()
                return
        if len(self._buffered) < MAX_BUFFERED:
            self._buffered[stats.seq] = stats
        self._target = max(self._target, stats.seq)
        if self._due_at is None and self.asked is None and self.hydrated:
            metrics.BOARD_GAPS.inc()
        self._due_at = now_ms

    def beat(self, heartbeat: Heartbeat, now_ms: int, wall_ms: int | None = None) -> None:
        """Take a heartbeat of the owner; `wall_ms` is this node's time of day."""
        before = self.heartbeat
        if not self._of_newest_epoch(heartbeat.epoch, now_ms):
            return
        changed = before is None or (before.epoch, before.state) != (
            heartbeat.epoch,
            heartbeat.state,
        )
        if changed or self._awaits_heartbeat or self.silent(now_ms):
            self._backoff.reset()
            self._not_before = now_ms
            if self.asked is not None and self.asked.head is None:
                # The question was sent before this owner was there, so it may never be answered.
                # Let it time out SETTLE_MS from now instead of after the whole timeout.
                self.asked.received_at = now_ms - ANSWER_TIMEOUT_MS + SETTLE_MS
        self._awaits_heartbeat = False
        self.heartbeat = heartbeat
        self.heartbeat_at = now_ms
        self.late_ms = self._lateness.observe(heartbeat.as_of, now_ms, wall_ms)
        self._target = max(self._target, heartbeat.seq)
        if not self.in_sync and self._due_at is None:
            self._due_at = now_ms + SETTLE_MS
        self._note_if_in_sync()

    def ask(self, request_id: int, now_ms: int) -> ResyncRequest | None:
        """Return the request to send to the owner now; None if there is nothing to ask."""
        if self.asked is not None:
            if now_ms - self.asked.received_at < ANSWER_TIMEOUT_MS:
                return None
            self.refused(now_ms)
        wanted = not self.hydrated or (self._due_at is not None and now_ms >= self._due_at)
        if not wanted or now_ms < self._not_before:
            return None
        # Saved rows may come from different flushes, so "everything since seq" would miss some.
        # Only a full state replaces them.
        known = self.hydrated and not self._from_saved
        request = ResyncRequest(epoch=self.epoch, since=self.seq if known else 0)
        self.asked = ResyncAnswer(request_id, request, now_ms)
        metrics.BOARD_RESYNCS.labels(self._cause()).inc()
        return request

    def _cause(self) -> str:
        """Return why the owner is asked, as a metric label."""
        if not self.hydrated:
            return "start"
        if self._reload:
            return "reconnect"
        return "hole" if self.epoch == self._newest_epoch else "new_owner"

    def chunk(self, chunk: ResyncChunk, rows: list[TokenStats], now_ms: int) -> None:
        """Take one chunk of the answer to the open request."""
        answer = self.asked
        if answer is None or not self._of_newest_epoch(chunk.epoch, now_ms):
            return
        if not answer.add(chunk, rows, now_ms):
            return
        self.asked = None
        whole = [row for number in sorted(answer.rows) for row in answer.rows[number]]
        # The state of a stalled owner is shown too, as stale. A rebuilding owner has none to give.
        if chunk.state != "rebuilding" and self._take(answer.request, chunk, whole):
            self._backoff.reset()
            self._not_before = now_ms + FIRST_BACKOFF_MS
            self._reload = self._from_saved = False
            self._target = max(self._target, chunk.seq)
            self._apply_buffered()
            self._note_if_in_sync()
        else:
            self._back_off(now_ms)

    def saved(self, saved: SavedRows) -> None:
        """Show the rows that an owner saved, as stale, unless an owner's state is shown already."""
        if self.hydrated:
            return
        self._newest_epoch = max(self._newest_epoch, saved.epoch)
        self._rows.replace(self.number, saved.rows)
        self.hydrated = True
        self._reload = self._from_saved = True
        self.epoch, self.seq, self.next_offset = saved.epoch, saved.seq, saved.next_offset
        self.as_of = max((row.as_of for row in saved.rows), default=None)

    def refused(self, now_ms: int) -> None:
        """Give up the open request, which was not answered completely; ask again after a pause."""
        self.asked = None
        self._back_off(now_ms)

    def reconnected(self, now_ms: int) -> None:
        """Ask what changed: while the connection was down, anything may have been missed."""
        self.asked = None
        self._awaits_heartbeat = self._reload = True
        self._due_at = now_ms
        self._backoff.reset()
        self._not_before = now_ms

    def _of_newest_epoch(self, epoch: int, now_ms: int) -> bool:
        """Return False for an owner that has been replaced; start over for a new owner."""
        if epoch == self._newest_epoch:
            return True
        if epoch < self._newest_epoch:
            return False
        # What the old owner published says nothing about the new one: `seq` starts again with each
        # epoch, and the hosts' clocks differ. The rows stay until the new owner's full state.
        self._newest_epoch = epoch
        self._target = 0
        self._lateness = Lateness()
        self._buffered.clear()
        self._due_at = now_ms
        return True

    def _take(self, request: ResyncRequest, chunk: ResyncChunk, rows: list[TokenStats]) -> bool:
        """Show the rows of an answer; return False if the rules forbid it."""
        same_owner = self.hydrated and chunk.epoch == self.epoch
        if same_owner and chunk.seq < self.seq:
            return True  # Patches overtook the answer, so its rows are shown already.
        if chunk.full:
            if not same_owner and chunk.next_offset < self.next_offset:
                # The new owner restarted from a snapshot and still replays: its numbers would go
                # back. Ask again later.
                return False
            self._rows.replace(self.number, rows)
        elif same_owner and request.epoch == self.epoch:
            # A partial answer counts from `since` of this very epoch; on any other base it is
            # incomplete.
            for row in rows:
                self._rows.show(row)
        else:
            return False
        reached = self.next_offset if same_owner else 0
        self.hydrated = True
        self.epoch, self.seq = chunk.epoch, chunk.seq
        self.next_offset = max(reached, chunk.next_offset)
        for row in rows:
            self.as_of = max(self.as_of or 0, row.as_of)
        return True

    def _apply(self, stats: TokenStats) -> None:
        self._rows.show(stats)
        self.seq = stats.seq
        self.next_offset = max(self.next_offset, stats.next_offset)
        if self.as_of is None or stats.as_of > self.as_of:
            self.as_of = stats.as_of

    def _apply_buffered(self) -> None:
        if self.epoch != self._newest_epoch:
            return
        while (stats := self._buffered.pop(self.seq + 1, None)) is not None:
            self._apply(stats)
        if self._buffered and min(self._buffered) <= self.seq:
            self._buffered = {seq: kept for seq, kept in self._buffered.items() if seq > self.seq}

    def _note_if_in_sync(self) -> None:
        if not self.in_sync:
            return
        self._due_at = None
        beat, beat_at = self.heartbeat, self.heartbeat_at
        if beat is None or beat_at is None or beat.epoch != self.epoch:
            return
        # Everything that the owner had published by this instant is shown.
        if beat.seq <= self.seq:
            self.as_of = max(self.as_of or 0, beat.as_of)
        if beat.state != "live":
            return
        made_at = beat_at - self.late_ms
        if self._fresh_at is None or made_at > self._fresh_at:
            self._fresh_at = made_at

    def _back_off(self, now_ms: int) -> None:
        self._not_before = now_ms + round(1_000 * self._backoff.pause_s())
