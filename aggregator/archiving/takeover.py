"""How an archiver takes a partition over: where it continues, and what was promised before.

The position and the intent are in the group's commit metadata; only where there is none the archive
is asked. The questions are put on a thread of their own; the group confirms the ownership on the
loop's thread.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import msgspec
import structlog

from aggregator.archiving.decisions import LogSource
from aggregator.archiving.intents import LogPosition, Switch, pack, unpack
from aggregator.archiving.jobs import ArchiveJobs, TopicId
from aggregator.archiving.partition import ArchivePartition, Progress
from aggregator.decoding.decoder import BatchDecoder, ReadRecords
from aggregator.member.end_offset_check import EndOffsetCheck
from aggregator.member.homes import TopicHomes
from aggregator.member.log import Log, LogExtent
from aggregator.runtime import metrics
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal

log = structlog.get_logger(__name__)

_REMEDY: Final = (
    "Give CLICKHOUSE_URL another database and ARCHIVER_GROUP another name to begin a new archive"
)
# Records whose newest timestamp stands for the log clock where no metadata has it.
_CLOCK_RECORDS: Final = 100
_LATE_MS: Final = 2**62 // 10**6


class ArchiveTakeover:
    """Takes over the partitions that the group assigns to this archiver.

    `partitions` is how many the topic has; fill it before the first takeover.
    """

    def __init__(self, config: Config, swap_log: Log, topic: TopicId) -> None:
        self.partitions = config.kafka_partitions
        self._config = config
        self._log = swap_log
        self._topic = topic
        self._jobs = ArchiveJobs(config, topic)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="archive-takeover")
        self._asked: dict[int, Future[Progress]] = {}
        self._end_offset_check = EndOffsetCheck(config.kafka_topic, "archived", _REMEDY)
        self._homes = TopicHomes(
            config, swap_log, _position_of_other, taken="archived", remedy=_REMEDY
        )

    def acquire(self, partition: int) -> ArchivePartition | None:
        """Return the partition, once it is known where it continues; None until then.

        Raises Retry, Fenced and Fatal.
        """
        asked = self._asked.get(partition)
        if asked is None:
            self._asked[partition] = self._thread.submit(self._find, partition)
            return None
        if not asked.done():
            return None
        del self._asked[partition]
        found = asked.result()
        owner = ArchivePartition(self._config, LogSource(self._topic.text, partition), found)
        if owner.redo is None and owner.next_offset < found.extent.start:
            report_gap(partition, owner.next_offset, found.extent.start)
            owner.skip_to(found.extent.start)
        # Commit what was read: the group refuses a member that no longer owns the partition.
        self._log.commit({partition: (owner.next_offset, pack(owner.position))})
        owner.uncommitted = False
        self._homes.committed(found.homes)
        if owner.redo is None:
            owner.settled()
        log.info(
            "archive_acquired",
            partition=partition,
            next_offset=owner.next_offset,
            intent=None if owner.redo is None else [owner.redo.first, owner.redo.last],
        )
        return owner

    def drop(self, partition: int) -> None:
        """Forget what was asked of a partition."""
        self._asked.pop(partition, None)

    def close(self) -> None:
        """End the thread and its connection."""
        self._jobs.abort()
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._jobs.close()

    def _find(self, partition: int) -> Progress:
        committed, metadata = self._log.committed(partition)
        position, extent = unpack(metadata), self._log.extent(partition, None)
        topic_id = self._log.topic_id() or self._config.kafka_topic
        if self._topic.text not in {"", topic_id} or position.topic_id not in {"", topic_id}:
            raise Fatal(
                f"topic {self._config.kafka_topic} was created again: its id is {topic_id}, what "
                f"is archived is of {position.topic_id or self._topic.text}. {_REMEDY}"
            )
        self._topic.text = topic_id
        homes = self._homes.of(partition, position, topic_id)
        position = msgspec.structs.replace(
            position, topic_id=topic_id, homes=homes.homes, partitioner=homes.partitioner
        )
        if committed is None or not metadata:
            committed, position = self._ask_archive(partition, committed, position, extent)
        if position.clock is None:
            position = msgspec.structs.replace(
                position, clock=self._clock_before(partition, committed)
            )
        if position.from_before:
            position = msgspec.structs.replace(
                position,
                format=LogPosition().format,
                origins=self._archived_elsewhere(partition),
                switch=Switch(committed, max(position.clock or 0, wall_ms())),
            )
        self._end_offset_check.check(partition, committed, extent.end)
        return Progress(committed, position, extent, homes)

    def _ask_archive(
        self, partition: int, committed: int | None, position: LogPosition, extent: LogExtent
    ) -> tuple[int, LogPosition]:
        """Ask the archive how far it is.

        The group is new, Kafka has deleted its commits, or another program set the offset and
        thereby dropped the intent.
        """
        archived = self._jobs.next_offset(partition)
        if not archived and (unnamed := self._unnamed_end(partition, extent)):
            archived = unnamed
            position = msgspec.structs.replace(position, format="1")
        if committed is not None:
            log.warning(
                "offset_set_by_others",
                partition=partition,
                offset=committed,
                archived_to=archived,
                fix="to archive again use manage.py backfill",
            )
        return archived or extent.start, position

    def _unnamed_end(self, partition: int, extent: LogExtent) -> int:
        """Return the offset after the last row that names no topic, if it is of this topic; else 0.

        Such rows may be another topic's. They are this one's if the log holds the record of the
        last row at its offset.
        """
        last = self._jobs.last_unnamed(partition)
        if last is None:
            return 0
        record = self._log.read_at(partition, [last.offset]).get(last.offset)
        if record is not None:
            swaps, _ = BatchDecoder(self._config.max_future_ms).decode(
                # Any late record timestamp will do: what was archived was not in the future.
                ReadRecords([record.value], [_LATE_MS], [last.offset])
            )
            if swaps.markers[0].tobytes() == last.swap.marker and not swaps.records["bad"][0]:
                return last.offset + 1
        log.warning(
            "rows_of_another_topic", partition=partition, offset=last.offset, begin=extent.start
        )
        return 0

    def _archived_elsewhere(self, partition: int) -> dict[int, int]:
        """Return the last offset of each other partition that the version before archived.

        It archived misplaced records where they were, so their forwards are nothing new. Raises
        Fatal if it left an intent on any partition: what that covers would be archived by both.
        """
        found = {}
        for other in range(self.partitions):
            if other == partition:
                continue
            offset, metadata = self._log.committed(other)
            position = unpack(metadata)
            if position.switch is not None:
                offset = position.switch.offset
            elif not position.from_before:
                continue
            if offset:
                found[other] = offset - 1
        return found

    def _clock_before(self, partition: int, offset: int) -> int | None:
        """Return the newest timestamp of some records before an offset: about the log clock."""
        if offset <= 0:
            return None
        offsets = range(max(0, offset - _CLOCK_RECORDS), offset)
        records = self._log.read_at(partition, offsets).values()
        return max((record.timestamp for record in records), default=None)


def _position_of_other(metadata: str) -> LogPosition:
    """Return the position of a partition that another owner takes; an empty one if it is wrong."""
    try:
        return unpack(metadata)
    except Fatal:
        # Its own owner will say what is wrong with it.
        return LogPosition()


def report_gap(partition: int, first: int, end: int) -> None:
    """Log and count the offsets [first, end) that the archive lacks."""
    # `infra.embedded.proofs` reads these fields.
    log.error("archive_gap", partition=partition, first=first, end=end)
    metrics.ARCHIVE_GAP_OFFSETS.labels(partition).inc(end - first)
