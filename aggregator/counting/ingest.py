"""One partition's records on their way into its windows: decode, decide, send, apply.

Nothing here waits. Dead letters and forwarded records go to the outbox, which acknowledges them
later. A retraction of a swap that is no longer in memory reads it back from Kafka on another
thread; until it is there, later records of this partition wait in memory, and only of this one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future
from typing import Final

import msgspec
import numpy as np
import structlog

from aggregator.contracts.arrays import Array
from aggregator.contracts.homes import Homes
from aggregator.contracts.records import LogRecord
from aggregator.contracts.swaps import ABSENT, Swaps
from aggregator.contracts.units import HOUR_MS, SECOND_MS
from aggregator.contracts.verdict import Verdict
from aggregator.counting.commit_metadata import CommitMetadata
from aggregator.counting.misplaced import MisplacedShare
from aggregator.counting.partition import Judged, PartitionOwner
from aggregator.dead_letters.producer import BadRun, Rejected
from aggregator.decoding.decoder import BatchDecoder, ReadRecords
from aggregator.member.log import Log, Records
from aggregator.member.outbox import Outbox
from aggregator.runtime import faults, metrics, tracing
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.config import Config
from aggregator.runtime.errors import BadMessage, Retry

log = structlog.get_logger(__name__)

AHEAD_MS: Final = HOUR_MS
"""A record this far ahead of the own clock is not read.

It would make everything after it late and forget all ids. The broker refuses such records; where it
does not, or where this machine's clock is wrong, stopping decides nothing.
"""
_MOST_WAITING: Final = 20_000
_UNACKNOWLEDGED_MS: Final = 5 * SECOND_MS
_MISPLACED: Final = ord(Verdict.MISPLACED.value)


class Tools(msgspec.Struct, frozen=True):
    """What the partitions of a process share."""

    config: Config
    log: Log
    outbox: Outbox
    decoder: BatchDecoder
    executor: Executor
    monotonic_ms: Callable[[], int]


class PartitionIngest:
    """The way of one partition's records into its windows.

    `metadata` is the text of its commits. `fault` says why no record is taken up, "" while they
    are; `notes` what is wrong otherwise.
    """

    def __init__(
        self, tools: Tools, owner: PartitionOwner, homes: Homes, metadata: CommitMetadata
    ) -> None:
        self.owner = owner
        self.metadata = metadata.encode()
        self.uncommitted: int | None = None
        self.save_tried_at = 0
        self.applied_at: list[float] = []
        self._tools = tools
        self._homes = homes
        self._queue: deque[Records | int] = deque()
        self._waiting = 0
        self._parked: Judged | None = None
        self._reading: Future[dict[int, LogRecord]] | None = None
        self._backoff = Backoff(clock=lambda: tools.monotonic_ms() / 1000)
        self._reading_fault = self._jump = ""
        self._bad_run = BadRun()
        self._misplaced = MisplacedShare(owner.partition, homes)
        # The lowest offset that is not acknowledged, and since when.
        self._lowest: tuple[int | None, int] = (None, 0)

    @property
    def settled(self) -> bool:
        """Whether every record below `owner.next_offset` is applied, and sent where it must be."""
        lowest = self._tools.outbox.lowest(self.owner.partition)
        return self._parked is None and (lowest is None or lowest >= self.owner.next_offset)

    @property
    def ready(self) -> bool:
        """Whether more records may come."""
        return (
            not self._jump
            and self._waiting < _MOST_WAITING
            and self._tools.outbox.has_room(self.owner.partition)
        )

    @property
    def fault(self) -> str:
        """Why this partition makes no progress; "" while it does."""
        if self._jump or self._reading_fault:
            return self._jump or self._reading_fault
        return "" if self.ready else self._unacknowledged() or "kafka: too much is waiting"

    def notes(self, partitions: int) -> list[str]:
        """Return what is wrong beside `fault`; `partitions` is how many the topic has."""
        # Producers spread over partitions that are no homes, so misplaced records are expected.
        misplaced = self._misplaced.reason if self._homes.homes == partitions else ""
        late = "" if self.fault else self._unacknowledged()
        return [each for each in (self._bad_run.reason, misplaced, late) if each]

    def take(self, records: Records, now_ms: int) -> None:
        """Take up the next records of the partition at `now_ms` by the own clock."""
        self._queue.append(records)
        self._waiting += len(records)
        self.work(now_ms)

    def reached(self, end: int, now_ms: int) -> None:
        """Note that there is no other record below `end`."""
        self._queue.append(end)
        self.work(now_ms)

    def work(self, now_ms: int) -> None:
        """Apply what can be applied now."""
        if self._parked is not None and not self._take_read_back():
            return
        while self._queue and self._parked is None:
            first = self._queue.popleft()
            if isinstance(first, int):
                self.owner.skip_to(first)
                continue
            self._waiting -= len(first)
            records = first.since(self.owner.next_offset)
            count = self._before_jump(records, now_ms)
            if count < len(records):
                rest = records.part(count, len(records))
                self._queue.appendleft(rest)
                self._waiting += len(rest)
            if count:
                self._count(records if count == len(records) else records.part(0, count))
            elif self._jump:
                return

    def _before_jump(self, records: Records, now_ms: int) -> int:
        """Return how many records come before one that is too far ahead of the own clock."""
        limit = now_ms + AHEAD_MS
        config = self._tools.config
        if config.clock != "wall" or not len(records) or max(records.timestamps) <= limit:
            self._jump = ""
            return len(records)
        place = next(n for n, at in enumerate(records.timestamps) if at > limit)
        if place == 0 and not self._jump:
            ahead_s = (records.timestamps[0] - now_ms) // SECOND_MS
            self._jump = (
                f"the record at offset {records.offsets[0]} is stamped {ahead_s} s ahead of this "
                "machine's clock, and would make all later swaps late: see that the topic bounds "
                "timestamps (message.timestamp.after.max.ms) and that the clock is right, then "
                "delete the records up to it or wait until its time has come"
            )
            log.error("record_ahead", partition=self.owner.partition, reason=self._jump)
        return place

    def _count(self, records: Records) -> None:
        owner = self.owner
        decoded = self._tools.decoder.decode(records)
        away = self._homes.away(decoded.swaps, owner.partition)
        judged = owner.judge(decoded.swaps, away)
        faults.point("after_judge")
        self._note_bad(len(records), decoded.rejected)
        self._reject(records, decoded.rejected)
        self._misplaced.note(decoded.swaps, away)
        if away.any():
            self._send_home(records, judged)
        metrics.INGEST_EVENTS.labels(owner.partition).inc(len(records))
        if judged.found.all():
            self._apply(judged)
        else:
            self._parked = judged
            self._take_read_back()

    def _apply(self, judged: Judged) -> None:
        owner = self.owner
        with (
            tracing.span("batch apply", partition=owner.partition, events=len(judged.swaps)),
            metrics.WINDOW_APPLY_SECONDS.time(),
        ):
            owner.apply(judged)
        faults.point("after_apply")

    def _note_bad(self, count: int, rejected: Sequence[tuple[int, BadMessage]]) -> None:
        """Note how many of the newest messages were bad, sent to the dead letters before or now."""
        run, partition = self._bad_run, self.owner.partition
        before = bool(run.reason)
        run.note(count, rejected)
        metrics.INGEST_BAD_RATIO.labels(partition).set(run.share)
        if run.reason and not before:
            log.error("bad_run", partition=partition, reason=run.reason)
        elif before and not run.reason:
            log.info("bad_run_over", partition=partition)

    def _reject(self, records: Records, rejected: Sequence[tuple[int, BadMessage]]) -> None:
        topic, since = self._tools.config.kafka_topic, self.owner.reject_from
        letters = [
            Rejected(topic, records.record(place), error)
            for place, error in rejected
            if records.offsets[place] >= since
        ]
        if letters:
            self._tools.outbox.reject(letters)
            self.owner.dead_letters += len(letters)

    def _send_home(self, records: Records, judged: Judged) -> None:
        """Forward misplaced records to their homes."""
        owner, swaps = self.owner, judged.swaps
        places = np.flatnonzero(judged.letters == _MISPLACED)
        metrics.INGEST_MISPLACED.labels(owner.partition).inc(len(places))
        owner.misplaced += len(places)
        forwarded = swaps.records["origin_partition"][places] != ABSENT
        self._reject(
            records,
            [(place, self._not_at_home(swaps, place)) for place in places[forwarded].tolist()],
        )
        due = places[~forwarded & (swaps.offsets[places] >= owner.forward_from)].tolist()
        if due:
            names = swaps.records["name"][due].tolist()
            homes = [self._homes.of(swaps.token_names[name].token_id) for name in names]
            self._tools.outbox.forward([records.record(place) for place in due], homes)

    def _not_at_home(self, swaps: Swaps, place: int) -> BadMessage:
        name = swaps.token_names[int(swaps.records["name"][place])]
        return BadMessage(
            "partitioner",
            "token",
            f"forwarded to partition {self.owner.partition}, but {name.token_id} is at home on "
            f"{self._homes.of(name.token_id)}: two processes disagree about KAFKA_PARTITIONER",
        )

    def _take_read_back(self) -> bool:
        """Apply the parked records if their retracted swaps were read back; else read them."""
        judged = self._parked
        assert judged is not None
        if self._reading is None:
            if self._backoff.left_s:
                return False
            offsets = judged.undone_offsets[~judged.found].tolist()
            reader, partition = self._tools.log.read_at, self.owner.partition
            self._reading = self._tools.executor.submit(reader, partition, offsets)
        if not self._reading.done():
            return False
        reading, self._reading = self._reading, None
        try:
            found = reading.result()
        except Retry as error:
            self._reading_fault = f"kafka: reading back swaps that were retracted: {error}"
            self._backoff.start()
            return False
        self._backoff.reset()
        self._reading_fault = ""
        self._fill(judged, found)
        self._parked = None
        self._apply(judged)
        return True

    def _fill(self, judged: Judged, found: Mapping[int, LogRecord]) -> None:
        """Fill in the retracted swaps that were read back; the log may have lost some."""
        if not found:
            return
        offsets = sorted(found)
        records = [found[offset] for offset in offsets]
        columns = ReadRecords(
            [each.value for each in records],
            [each.timestamp for each in records],
            offsets,
            # They were decided before. Forwarded records are not judged again for lying in the
            # future, so they are decoded as such.
            [(0, 0)] * len(records),
        )
        swaps = self._tools.decoder.decode(columns).swaps
        rows: dict[int, Array] = {
            int(each["offset"]): each
            for each, bad in zip(swaps.swaps, swaps.records["bad"], strict=True)
            if not bad
        }
        for place in np.flatnonzero(~judged.found).tolist():
            row = rows.get(int(judged.undone_offsets[place]))
            if row is not None:
                judged.undone[place] = row
                judged.found[place] = True

    def _unacknowledged(self) -> str:
        """Return a sentence where Kafka has not taken a record for some seconds, else ""."""
        lowest = self._tools.outbox.lowest(self.owner.partition)
        now = self._tools.monotonic_ms()
        if lowest is None or lowest != self._lowest[0]:
            self._lowest = lowest, now
        waited = now - self._lowest[1]
        if lowest is None or waited < _UNACKNOWLEDGED_MS:
            return ""
        count = self._tools.outbox.outstanding(self.owner.partition)
        return (
            f"kafka: {count:,} dead letters and forwarded records are not acknowledged for "
            f"{waited // SECOND_MS} s ({self._tools.outbox.fault or 'no answer'})"
        )
