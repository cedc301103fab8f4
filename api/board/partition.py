"""How far one partition is on this node, and whether that is all that its owner has published.

Pure: messages and `now_ms` (of one monotonic clock) come in, rows to show and questions to the
owner come out; no NATS, no asyncio, no clock. The race between fetching the state and following
its changes is settled here, by five rules:

1. Changes are followed before the state is asked for, and kept until they can be applied.
2. A patch is applied only where it is next: same epoch, `seq` + 1. One further on is kept aside;
   the hole before it is closed by a resync, which gives everything newer than what is held.
3. An older epoch than any seen is dropped on sight. A newer one is taken only with a full state
   whose `next_offset` is not behind what is shown; until then the old rows stay.
4. NATS keeps the order of one publisher, but heartbeats and patches are two subscriptions here, so
   a heartbeat may overtake patches that are already in this process. One that is ahead counts as
   a hole only if the patches have not come within SETTLE_MS.

5. How old the numbers are is reckoned from when the owner said that they were its newest, not from
   when that arrived (`lateness`): what waited in a queue is stale however soon its successor comes.

So (epoch, seq) and `next_offset` never go back, and end where the owner's are however many
messages were lost, repeated or reordered on the way.
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
# A full state makes what is kept aside obsolete, so past this many a patch is only remembered as
# a hole.
KEPT_ASIDE: Final = 20_000


class Rows(Protocol):
    """Where a partition puts what it shows."""

    def show(self, stats: TokenStats) -> None:
        """Take this token's newer row."""

    def replace(self, partition: int, rows: Iterable[TokenStats]) -> None:
        """Take these as all the rows of the partition."""


class SavedRows(msgspec.Struct, frozen=True):
    """A partition's rows as they lie in Redis, of `partitions` that the topic has.

    `epoch`, `seq` and `next_offset` are not below those of any row.
    """

    partition: int
    partitions: int
    epoch: int
    seq: int
    next_offset: int
    rows: list[TokenStats]


class Answer:
    """A resync's answer while its chunks arrive."""

    def __init__(self, request_id: int, request: ResyncRequest, now_ms: int) -> None:
        self.request_id = request_id
        self.request = request
        self.heard_at = now_ms
        self.head: ResyncChunk | None = None
        self.rows: dict[int, list[TokenStats]] = {}

    def add(self, chunk: ResyncChunk, rows: list[TokenStats], now_ms: int) -> bool:
        """Whether the answer is whole now; two owners may answer, and the newer epoch wins."""
        head = self.head
        if head is None or (chunk.epoch, chunk.seq) > (head.epoch, head.seq):
            self.head, self.rows = chunk, {}
        elif (chunk.epoch, chunk.seq, chunk.chunks) != (head.epoch, head.seq, head.chunks):
            return False
        self.heard_at = now_ms
        self.rows[chunk.chunk] = rows
        return len(self.rows) >= chunk.chunks


class Partition:
    """One partition's place on this node: what is shown, what its owner is known to have."""

    def __init__(
        self, number: int, rows: Rows, stale_after_ms: int, jitter: Callable[[], float]
    ) -> None:
        self.number = number
        self.hydrated = False
        self.epoch = 0
        self.seq = 0
        self.next_offset = 0
        self.as_of: int | None = None
        self.heartbeat: Heartbeat | None = None
        self.heard_at: int | None = None
        self.late_ms = 0
        self.asked: Answer | None = None
        self._rows = rows
        self._stale_after_ms = stale_after_ms
        self._backoff = Backoff(
            FIRST_BACKOFF_MS / 1_000, LONGEST_BACKOFF_MS / 1_000, spread=(0.5, 1.0), draw=jitter
        )
        self._newest_epoch = 0
        self._target = 0
        self._aside: dict[int, TokenStats] = {}
        self._reload = False
        self._unheard = True
        self._from_saved = False
        self._fresh_at: int | None = None
        self._lateness = Lateness()
        self._due_at: int | None = None
        self._not_before = 0

    @property
    def in_sync(self) -> bool:
        """Everything that the newest owner is known to have published is shown."""
        return (
            self.hydrated
            and not self._reload
            and self.epoch == self._newest_epoch
            and self.seq >= self._target
        )

    @property
    def newest_epoch(self) -> int:
        """The newest owner's epoch; above `epoch` while its state has not been taken."""
        return self._newest_epoch

    def silent(self, now_ms: int) -> bool:
        """No heartbeat for longer than the limit, or never one."""
        return self.heard_at is None or now_ms - self.heard_at > self._stale_after_ms

    def age_ms(self, now_ms: int) -> int | None:
        """How long ago the owner made its newest heartbeat; None before the first."""
        return None if self.heard_at is None else now_ms - self.heard_at + self.late_ms

    def late(self, now_ms: int) -> bool:
        """The owner is heard, but what it says was too old when it arrived."""
        age = self.age_ms(now_ms)
        return age is not None and age > self._stale_after_ms and not self.silent(now_ms)

    def stale(self, now_ms: int) -> bool:
        """What is shown may be old: the owner is silent, late, not live, or ahead for too long."""
        if self._fresh_at is None or now_ms - self._fresh_at > self._stale_after_ms:
            return True
        return self.heartbeat is not None and self.heartbeat.state != "live"

    def patch(self, stats: TokenStats, now_ms: int) -> None:
        """A token's newer numbers from the owner."""
        if not self._of_newest_epoch(stats.epoch, now_ms):
            return
        if self.hydrated and stats.epoch == self.epoch:
            if stats.seq <= self.seq:
                return
            if stats.seq == self.seq + 1:
                self._apply(stats)
                if self._aside:
                    self._apply_aside()
                self._note_if_in_sync()
                return
        if len(self._aside) < KEPT_ASIDE:
            self._aside[stats.seq] = stats
        self._target = max(self._target, stats.seq)
        if self._due_at is None and self.asked is None and self.hydrated:
            metrics.BOARD_GAPS.inc()
        self._due_at = now_ms

    def beat(self, heartbeat: Heartbeat, now_ms: int, wall_ms: int | None = None) -> None:
        """The owner's word of how far it is; `wall_ms` is this node's time of day."""
        before = self.heartbeat
        if not self._of_newest_epoch(heartbeat.epoch, now_ms):
            return
        changed = before is None or (before.epoch, before.state) != (
            heartbeat.epoch,
            heartbeat.state,
        )
        if changed or self._unheard or self.silent(now_ms):
            self._backoff.reset()
            self._not_before = now_ms
            if self.asked is not None and self.asked.head is None:
                # Put before the owner was there, it went to others, who leave it unanswered.
                self.asked.heard_at = now_ms - ANSWER_TIMEOUT_MS + SETTLE_MS
        self._unheard = False
        self.heartbeat = heartbeat
        self.heard_at = now_ms
        self.late_ms = self._lateness.heard(heartbeat.as_of, now_ms, wall_ms)
        self._target = max(self._target, heartbeat.seq)
        if not self.in_sync and self._due_at is None:
            self._due_at = now_ms + SETTLE_MS
        self._note_if_in_sync()

    def ask(self, request_id: int, now_ms: int) -> ResyncRequest | None:
        """The question to put to the owner now, None where there is none to put."""
        if self.asked is not None:
            if now_ms - self.asked.heard_at < ANSWER_TIMEOUT_MS:
                return None
            self.refused(now_ms)
        wanted = not self.hydrated or (self._due_at is not None and now_ms >= self._due_at)
        if not wanted or now_ms < self._not_before:
            return None
        # Rows left in Redis may be of different seqs, so what changed since one would not do.
        known = self.hydrated and not self._from_saved
        request = ResyncRequest(epoch=self.epoch, since=self.seq if known else 0)
        self.asked = Answer(request_id, request, now_ms)
        metrics.BOARD_RESYNCS.labels(self._cause()).inc()
        return request

    def _cause(self) -> str:
        """Why the owner is asked."""
        if not self.hydrated:
            return "start"
        if self._reload:
            return "reconnect"
        return "hole" if self.epoch == self._newest_epoch else "new_owner"

    def chunk(self, chunk: ResyncChunk, rows: list[TokenStats], now_ms: int) -> None:
        """One message of the answer to the question that is open."""
        answer = self.asked
        if answer is None or not self._of_newest_epoch(chunk.epoch, now_ms):
            return
        if not answer.add(chunk, rows, now_ms):
            return
        self.asked = None
        whole = [row for number in sorted(answer.rows) for row in answer.rows[number]]
        # A stalled owner answers too: what it has is worth showing, as stale.
        if chunk.state != "rebuilding" and self._take(answer.request, chunk, whole):
            self._backoff.reset()
            self._not_before = now_ms + FIRST_BACKOFF_MS
            self._reload = self._from_saved = False
            self._target = max(self._target, chunk.seq)
            self._apply_aside()
            self._note_if_in_sync()
        else:
            self._back_off(now_ms)

    def saved(self, saved: SavedRows) -> None:
        """Rows left by an owner, where there is nothing better: they count as stale."""
        if self.hydrated:
            return
        self._newest_epoch = max(self._newest_epoch, saved.epoch)
        self._rows.replace(self.number, saved.rows)
        self.hydrated = True
        self._reload = self._from_saved = True
        self.epoch, self.seq, self.next_offset = saved.epoch, saved.seq, saved.next_offset
        self.as_of = max((row.as_of for row in saved.rows), default=None)

    def refused(self, now_ms: int) -> None:
        """Nobody answered the open question, or not all of it: ask again after a pause."""
        self.asked = None
        self._back_off(now_ms)

    def reconnected(self, now_ms: int) -> None:
        """Anything may have been missed: ask what changed."""
        self.asked = None
        self._unheard = self._reload = True
        self._due_at = now_ms
        self._backoff.reset()
        self._not_before = now_ms

    def _of_newest_epoch(self, epoch: int, now_ms: int) -> bool:
        """False for an owner that has been replaced; notes a new one."""
        if epoch == self._newest_epoch:
            return True
        if epoch < self._newest_epoch:
            return False
        self._newest_epoch = epoch
        self._target = 0
        self._lateness = Lateness()
        self._aside.clear()
        self._due_at = now_ms
        return True

    def _take(self, request: ResyncRequest, chunk: ResyncChunk, rows: list[TokenStats]) -> bool:
        """Show the answer's rows; False where the rules forbid it."""
        same_owner = self.hydrated and chunk.epoch == self.epoch
        if same_owner and chunk.seq < self.seq:
            return True  # Patches were faster than the answer, which has nothing left to say.
        if chunk.full:
            if not same_owner and chunk.next_offset < self.next_offset:
                return False
            self._rows.replace(self.number, rows)
        elif same_owner and request.epoch == self.epoch:
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

    def _apply_aside(self) -> None:
        if self.epoch != self._newest_epoch:
            return
        while (stats := self._aside.pop(self.seq + 1, None)) is not None:
            self._apply(stats)
        if self._aside and min(self._aside) <= self.seq:
            self._aside = {seq: kept for seq, kept in self._aside.items() if seq > self.seq}

    def _note_if_in_sync(self) -> None:
        if not self.in_sync:
            return
        self._due_at = None
        beat, heard = self.heartbeat, self.heard_at
        if beat is None or heard is None or beat.epoch != self.epoch:
            return
        # The owner was at this instant with nothing that is not shown here by now.
        if beat.seq <= self.seq:
            self.as_of = max(self.as_of or 0, beat.as_of)
        if beat.state != "live":
            return
        said = heard - self.late_ms
        if self._fresh_at is None or said > self._fresh_at:
            self._fresh_at = said

    def _back_off(self, now_ms: int) -> None:
        self._not_before = now_ms + round(1_000 * self._backoff.pause_s())
