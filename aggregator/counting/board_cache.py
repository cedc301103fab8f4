"""Saves the newest board row of each token to Redis every ten seconds, on its own thread.

Web nodes that start while a partition has no owner show these rows. The poll loop hands over its
patches and never waits. A save that fails is repeated with the next one; no failure here can make a
number wrong or a patch late.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Protocol

import msgspec
import structlog

from aggregator.nats.resync import Patch
from aggregator.redis.board_rows import RedisBoardRows, RowsLost
from aggregator.runtime import metrics
from aggregator.runtime.errors import Fenced, Retry

log = structlog.get_logger(__name__)

_INTERVAL_S: Final = 10.0
# How often the queue is emptied into the rows. There a token's newer row replaces the older one, so
# what waits for Redis is bounded by the number of tokens.
_TAKE_S: Final = 0.25
_STOP_S: Final = 3.0


class PublishedRows(msgspec.Struct, frozen=True, gc=False):
    """Rows that were published of one partition.

    `whole`: they are all rows of the epoch so far. `partitions` is how many the topic has.
    """

    partition: int
    partitions: int
    epoch: int
    seq: int
    next_offset: int
    rows: Sequence[Patch]
    whole: bool


class _PartitionRows:
    """The rows of one partition under one epoch.

    `unsaved` are the tokens that changed since the last save (a dict as an ordered set), and
    `saved_seq` the seq of that save; None where Redis must be given all rows.
    """

    def __init__(self, epoch: int, partitions: int) -> None:
        self.epoch = epoch
        self.partitions = partitions
        self.saved_seq: int | None = None
        self.seq = self.next_offset = 0
        self.rows: dict[str, bytes] = {}
        self.unsaved: dict[str, None] = {}

    def take(self, published: PublishedRows) -> None:
        """Replace the rows that were published, and forget the tokens that were dropped."""
        for patch in published.rows:
            if patch.last:
                self.rows.pop(patch.token_id, None)
            else:
                self.rows[patch.token_id] = patch.payload
        self.unsaved.update(dict.fromkeys(patch.token_id for patch in published.rows))
        self.seq, self.next_offset = published.seq, published.next_offset


class RowStore(Protocol):
    """What the poll loop needs of a cache of board rows."""

    def note(self, published: PublishedRows) -> None:
        """Hand over what was published; returns immediately."""

    def drop(self, partition: int) -> None:
        """Stop keeping a partition that this process no longer owns; its saved rows stay."""


class BoardCache:
    """Keeps the rows of this process's partitions and saves what changed every ten seconds."""

    def __init__(self, store: RedisBoardRows) -> None:
        self._store = store
        # What the poll loop handed over: rows, or the number of a partition to drop.
        self._queue: deque[PublishedRows | int] = deque()
        self._held: dict[int, _PartitionRows] = {}
        # No longer owned: saved once more, then forgotten.
        self._dropped: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="board-cache", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Save once more, as far as Redis accepts it within _STOP_S, and end the thread."""
        self._stop.set()
        self._thread.join(_STOP_S)
        self._store.close()

    def note(self, published: PublishedRows) -> None:
        """See `RowStore`."""
        self._queue.append(published)

    def drop(self, partition: int) -> None:
        """See `RowStore`."""
        self._queue.append(partition)

    def _run(self) -> None:
        save_at = time.monotonic() + _INTERVAL_S
        while not self._stop.wait(_TAKE_S):
            self._drain()
            if time.monotonic() >= save_at:
                self.save()
                save_at = time.monotonic() + _INTERVAL_S
        self.save()

    def save(self) -> None:
        """Save what was handed over; what fails stays unsaved. Only the thread may call it."""
        self._drain()
        for partition, held in list(self._held.items()):
            if held.saved_seq == held.seq:
                continue
            try:
                self._save(partition, held)
            except RowsLost:
                # Redis no longer has what the last save built on: the next one writes all rows.
                held.saved_seq = None
            except Fenced:
                del self._held[partition]
            except Retry as error:
                metrics.DEPENDENCY_RETRIES.labels("redis").inc()
                log.warning("board_rows_unsaved", partition=partition, error=str(error))
                # It is unknown how much of the save arrived.
                held.saved_seq = None
        for partition in self._dropped:
            self._held.pop(partition, None)
        self._dropped.clear()

    def _drain(self) -> None:
        """Move what was handed over into the rows."""
        while self._queue:
            work = self._queue.popleft()
            if isinstance(work, int):
                self._dropped.add(work)
                continue
            if work.whole:
                self._dropped.discard(work.partition)
                self._held[work.partition] = _PartitionRows(work.epoch, work.partitions)
            held = self._held.get(work.partition)
            if held is not None and held.epoch == work.epoch:
                held.take(work)

    def _save(self, partition: int, held: _PartitionRows) -> None:
        whole = held.saved_seq is None
        names = held.rows if whole else held.unsaved
        self._store.save(
            partition,
            epoch=held.epoch,
            since=held.saved_seq,
            seq=held.seq,
            next_offset=held.next_offset,
            partitions=held.partitions,
            changed={token: held.rows[token] for token in names if token in held.rows},
            gone=[] if whole else [token for token in names if token not in held.rows],
        )
        held.saved_seq = held.seq
        held.unsaved = {}
