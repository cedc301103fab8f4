"""The board: the newest stats of every token that this node knows, and how fresh they are.

Pure, like `api.board.partition`, which holds the rules. `api.board.feed` brings the messages and
sends the questions; the views and the WebSocket hub read. The board is used from one event loop
only, so it needs no lock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import Final

import msgspec

from aggregator.contracts.stats import (
    Heartbeat,
    ResyncChunk,
    ResyncRequest,
    Tallies,
    TokenStats,
)
from api.board.listing import Listing
from api.board.partition import Partition, SavedRows
from api.board.row import TokenRow

MISPLACED_KEPT: Final = 1_000
MISPLACED_NAMED: Final = 5

_decode_row = msgspec.json.Decoder(TokenRow).decode


class ResyncQuestion(msgspec.Struct, frozen=True):
    """A request to a partition's owner; its answer comes back under `request_id`."""

    request_id: int
    partition: int
    request: ResyncRequest


class PartitionStatus(msgspec.Struct, frozen=True):
    """One partition as `/api/status` and `/readyz` show it.

    `epoch`, `seq`, `next_offset` and `as_of` describe what is shown. `owner_*`, `target_offset`,
    `lag`, `watermark` and `state` come from the owner's last heartbeat and are null before it.
    `state` is the owner's, or "silent" if heartbeats have stopped for too long, "late" if they are
    too old on arrival, "unknown" before the first one. `age_ms` is the time since the owner made
    its last heartbeat, `late_ms` how much of that the heartbeat waited on the way. `in_sync` says
    that everything which the owner is known to have published is shown. `owner`, `version`,
    `snapshot_age_ms` and `tallies` come from the last heartbeat too (see `Heartbeat`).
    """

    partition: int
    state: str
    stale: bool
    hydrated: bool
    in_sync: bool
    epoch: int
    seq: int
    next_offset: int
    as_of: int | None
    owner_epoch: int | None
    owner_seq: int | None
    owner_next_offset: int | None
    target_offset: int | None
    lag: int | None
    watermark: int | None
    age_ms: int | None
    late_ms: int | None
    degraded: list[str]
    owner: str | None
    version: str | None
    snapshot_age_ms: int | None
    tallies: Tallies | None


class Board:
    """Hold the rows of every partition. Every `now_ms` comes from one monotonic clock."""

    def __init__(self, stale_after_ms: int, jitter: Callable[[], float] = random.random) -> None:
        self._stale_after_ms = stale_after_ms
        self._jitter = jitter
        self._partitions: dict[int, Partition] = {}
        self._expected = 0
        self._rows: dict[str, TokenRow] = {}
        self._listings: Mapping[str, Listing] = {}
        self._published: dict[str, TokenStats] = {}
        self._misplaced: dict[str, int] = {}
        self._misplaced_rows = 0
        self._listeners: list[Callable[[str], object]] = []
        self._asked: dict[int, int] = {}
        self._filled = False
        self._last_request_id = 0

    @property
    def rows(self) -> Mapping[str, TokenRow]:
        """Return the newest row of every visible token.

        `stale` is not set in these rows: see `stale_partitions`.
        """
        return self._rows

    def get(self, token_id: str, now_ms: int) -> TokenRow | None:
        """Return the token's row with the present value of `stale`."""
        row = self._rows.get(token_id)
        if row is None or not self._partitions[row.partition].stale(now_ms):
            return row
        return msgspec.structs.replace(row, stale=True)

    def published(self, token_id: str) -> TokenStats | None:
        """Return the row as its owner published it, of a hidden token too; for operators only."""
        return self._published.get(token_id) or self._rows.get(token_id)

    def hides(self, token_id: str) -> bool:
        """Return whether the operators hide the token."""
        listing = self._listings.get(token_id)
        return listing is not None and listing.hidden

    def listing(self, token_id: str) -> Listing | None:
        """Return the token's entry in the registry; None if it has none."""
        return self._listings.get(token_id)

    def take_listings(self, listings: Mapping[str, Listing]) -> set[str]:
        """Replace all registry entries; return the tokens whose entry changed."""
        before, self._listings = self._listings, listings
        changed = {
            token_id
            for token_id in before.keys() | listings.keys()
            if before.get(token_id) != listings.get(token_id)
        }
        for token_id in changed:
            published = self.published(token_id)
            self._published.pop(token_id, None)
            if published is not None:
                self._place(published)
        return changed

    def stale_partitions(self, now_ms: int) -> set[int]:
        """Return the partitions whose rows may be old, including those without any message yet."""
        return {number for number, each in self._partitions.items() if each.stale(now_ms)}

    def partitions_known(self) -> bool:
        """Return whether any heartbeat has reported how many partitions there are."""
        return self._expected > 0

    def late_ms(self) -> int:
        """Return how late the newest heartbeats arrived, of the worst partition."""
        return max((each.late_ms for each in self._partitions.values()), default=0)

    def complete(self) -> bool:
        """Return whether every partition's state is loaded.

        Then a token without a row has no trades.
        """
        return self._expected > 0 and all(each.hydrated for each in self._partitions.values())

    def filled_once(self) -> bool:
        """Return whether `complete` was true at this or an earlier call."""
        self._filled = self._filled or self.complete()
        return self._filled

    @property
    def misplaced(self) -> int:
        """Return how many tokens also arrive on a second partition, up to MISPLACED_KEPT."""
        return len(self._misplaced)

    def as_of(self) -> int | None:
        """Return the instant of the oldest partition shown; None while none is shown."""
        times = [each.as_of for each in self._partitions.values() if each.as_of is not None]
        return min(times, default=None)

    def listen(self, listener: Callable[[str], object]) -> None:
        """Call `listener(token_id)` for each row that changes or is removed.

        It runs while the message is handled, so it must be as cheap as `set.add`. A hub passes the
        `add` of its set of changed tokens and empties the set at each flush.
        """
        self._listeners.append(listener)

    def patch(self, stats: TokenStats, now_ms: int) -> None:
        """Take a patch: a token's newer numbers."""
        self._partition(stats.partition).patch(stats, now_ms)

    def heartbeat(self, heartbeat: Heartbeat, now_ms: int, wall_ms: int | None = None) -> None:
        """Take an owner's heartbeat; it also reports how many partitions there are.

        `wall_ms` is this node's time of day. It bounds what counts as a difference of clocks.
        """
        if heartbeat.partitions > self._expected:
            self._expected = heartbeat.partitions
            for number in range(self._expected):
                self._partition(number)
        self._partition(heartbeat.partition).beat(heartbeat, now_ms, wall_ms)

    def due(self, now_ms: int) -> list[ResyncQuestion]:
        """Return the questions to send to owners now; call it several times a second."""
        asks = []
        for number, partition in self._partitions.items():
            request_id = self._last_request_id + 1
            open_before = partition.asked
            request = partition.ask(request_id, now_ms)
            if open_before is not None and partition.asked is not open_before:
                self._asked.pop(open_before.request_id, None)
            if request is not None:
                self._last_request_id = request_id
                self._asked[request_id] = number
                asks.append(ResyncQuestion(request_id, number, request))
        return asks

    def answer(self, request_id: int, chunk: ResyncChunk, now_ms: int) -> None:
        """Take one chunk of an owner's answer; drop it if the question was given up.

        Raise msgspec.ValidationError if a row in it cannot be decoded.
        """
        number = self._asked.get(request_id)
        if number is None or number != chunk.partition:
            return
        partition = self._partitions[number]
        partition.chunk(chunk, [_decode_row(raw) for raw in chunk.tokens], now_ms)
        if partition.asked is None:
            del self._asked[request_id]

    def without_state(self) -> list[int]:
        """Return the partitions that have nothing to show yet."""
        return [number for number, each in self._partitions.items() if not each.hydrated]

    def saved(self, saved: SavedRows) -> None:
        """Show rows that an owner saved in Redis, as stale, until an owner answers."""
        for number in range(saved.partitions):
            self._partition(number)
        self._expected = max(self._expected, saved.partitions)
        self._partition(saved.partition).saved(saved)

    def refused(self, request_id: int, now_ms: int) -> None:
        """Handle a question that has no owner to answer it."""
        number = self._asked.pop(request_id, None)
        if number is not None:
            self._partitions[number].refused(now_ms)

    def reconnected(self, now_ms: int) -> None:
        """Ask every partition's owner again: messages may have been missed while disconnected."""
        self._asked.clear()
        for partition in self._partitions.values():
            partition.reconnected(now_ms)

    def status(self, now_ms: int) -> list[PartitionStatus]:
        """Return the status of every known partition, by number."""
        return [self._status(self._partitions[n], now_ms) for n in sorted(self._partitions)]

    def degraded(self) -> list[str]:
        """Return faults in spite of which the numbers are shown, one sentence each."""
        notes = [
            f"partition {number}: {note}"
            for number, each in sorted(self._partitions.items())
            if each.heartbeat is not None
            for note in each.heartbeat.degraded
        ]
        named = list(self._misplaced.items())[:MISPLACED_NAMED]
        notes += [
            f"token {token_id} also arrives on partition {number}: a producer's key is wrong"
            for token_id, number in named
        ]
        if len(self._misplaced) > MISPLACED_NAMED:
            notes.append(
                f"{len(self._misplaced)} tokens arrive on two partitions "
                f"({self._misplaced_rows} rows refused)"
            )
        return notes

    def show(self, stats: TokenStats) -> None:
        """Show a token's newer row; remove the token if the row has no windows.

        A row of a token that another partition shows is refused.
        """
        token_id = stats.token_id
        shown = self.published(token_id)
        if shown is not None and shown.partition != stats.partition:
            self._misplaced_rows += 1
            if len(self._misplaced) < MISPLACED_KEPT:
                self._misplaced[token_id] = stats.partition
            return
        if not stats.windows:
            if shown is not None:
                self._remove([token_id])
            return
        self._place(stats)

    def replace(self, partition: int, rows: Iterable[TokenStats]) -> None:
        """Replace all rows of the partition with these."""
        gone = {
            token_id
            for held in (self._rows, self._published)
            for token_id, row in held.items()
            if row.partition == partition
        }
        self._misplaced = {t: p for t, p in self._misplaced.items() if p != partition}
        for row in rows:
            gone.discard(row.token_id)
            self.show(row)
        self._remove(gone)

    def _remove(self, token_ids: Iterable[str]) -> None:
        for token_id in token_ids:
            self._published.pop(token_id, None)
            self._take_away(token_id)

    def _place(self, stats: TokenStats) -> None:
        """Show the row with the token's registry entry, unless that hides the token."""
        token_id = stats.token_id
        listing = self._listings.get(token_id)
        if listing is None:
            self._rows[token_id] = TokenRow.of(stats)
        else:
            self._published[token_id] = stats
            if listing.hidden:
                self._take_away(token_id)
                return
            self._rows[token_id] = listing.on(stats)
        self._notify(token_id)

    def _take_away(self, token_id: str) -> None:
        if self._rows.pop(token_id, None) is not None:
            self._notify(token_id)

    def _notify(self, token_id: str) -> None:
        for listener in self._listeners:
            listener(token_id)

    def _partition(self, number: int) -> Partition:
        partition = self._partitions.get(number)
        if partition is None:
            partition = Partition(number, self, self._stale_after_ms, self._jitter)
            self._partitions[number] = partition
        return partition

    @staticmethod
    def _status(partition: Partition, now_ms: int) -> PartitionStatus:
        beat = partition.heartbeat
        return PartitionStatus(
            partition=partition.number,
            state=_state(partition, now_ms),
            stale=partition.stale(now_ms),
            hydrated=partition.hydrated,
            in_sync=partition.in_sync,
            epoch=partition.epoch,
            seq=partition.seq,
            next_offset=partition.next_offset,
            as_of=partition.as_of,
            owner_epoch=beat.epoch if beat else None,
            owner_seq=beat.seq if beat else None,
            owner_next_offset=beat.next_offset if beat else None,
            target_offset=beat.target_offset if beat else None,
            lag=beat.lag if beat else None,
            watermark=beat.watermark if beat else None,
            age_ms=partition.age_ms(now_ms),
            late_ms=partition.late_ms if beat else None,
            degraded=list(beat.degraded) if beat else [],
            owner=beat.owner or None if beat else None,
            version=beat.version or None if beat else None,
            snapshot_age_ms=beat.snapshot_age_ms if beat else None,
            tallies=beat.tallies if beat else None,
        )


def _state(partition: Partition, now_ms: int) -> str:
    if partition.heartbeat is None:
        return "unknown"
    if partition.silent(now_ms):
        return "silent"
    state = partition.heartbeat.state
    return "late" if state == "live" and partition.late(now_ms) else state
