"""The log of `member.log` on Kafka: polled records, positions, and the group's assignments.

Wraps confluent-kafka so that the caller sees only offsets and partitions. Records at given offsets
are read by a second consumer that is in no group (`member.kafka_reader`).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final

import structlog
from confluent_kafka import (
    OFFSET_END,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from aggregator.contracts.records import LogRecord, Origin, origin_of
from aggregator.member.fencing import Fences
from aggregator.member.kafka_reader import KafkaReader, record_of
from aggregator.member.log import Listener, LogExtent, Polled, Records
from aggregator.member.positions import Positions
from aggregator.runtime import metrics
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Fenced, Retry

log = structlog.get_logger(__name__)

_TIMEOUT_S: Final = 5.0
_REACHABLE_S: Final = 0.5
_FENCED: Final = {
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError.FENCED_MEMBER_EPOCH,
    KafkaError.STALE_MEMBER_EPOCH,
    KafkaError.FENCED_INSTANCE_ID,
    KafkaError._ASSIGNMENT_LOST,
}
# The error text of a client that is dead because its KAFKA_INSTANCE_ID was fenced.
_NAME_TAKEN: Final = KafkaError(KafkaError.FENCED_INSTANCE_ID).str()
_RESEEK: Final = {KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE}


class KafkaLog:
    """The swap topic, read as a member of KAFKA_GROUP, or of `group` (see `Log`).

    `queued_kb` bounds the records that are fetched ahead; the client's default is 64 MB.
    """

    def __init__(
        self, config: Config, *, group: str | None = None, queued_kb: int | None = None
    ) -> None:
        self._topic = config.kafka_topic
        self._group = config.kafka_group if group is None else group
        self._listener: Listener  # of `subscribe`; no assignment comes before it
        self.unreachable = ""
        # A batch that cannot be decompressed is fetched repeatedly, and no later record arrives.
        self.unreadable: dict[int, str] = {}
        self.commit_fault = ""
        settings: dict[str, Any] = {
            "bootstrap.servers": config.kafka_bootstrap,
            "group.id": self._group,
            "group.protocol": config.kafka_group_protocol,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            # With the default of 1000, throughput falls to a quarter once the queue has been full.
            "fetch.queue.backoff.ms": 10,
            # A pending fetch delays commits and look-ups on the same connection.
            "fetch.wait.max.ms": 100,
            # After an outage the client waits for this long, and a commit waits with it.
            "reconnect.backoff.max.ms": 1_000,
            "error_cb": self._on_error,
            "on_commit": self._on_commit,
            "log_level": 0,
        }
        if config.kafka_instance_id:
            settings["group.instance.id"] = config.kafka_instance_id
        if config.kafka_group_protocol == "classic":
            settings["partition.assignment.strategy"] = "cooperative-sticky"
            settings["session.timeout.ms"] = 6_000
            # Notice early that the session is over: see `fencing`.
            settings["heartbeat.interval.ms"] = 1_000
        if queued_kb is not None:
            settings["queued.max.messages.kbytes"] = queued_kb
        self._settings = settings
        self._consumer = Consumer(settings)
        self._reader = KafkaReader(config.kafka_bootstrap, self._topic, self._group)
        self._positions = Positions()
        self._instance_id = config.kafka_instance_id
        self._fences = Fences(self._group, self._instance_id)
        self._held: set[int] = set()
        # The client stopped reading these, because the log does not hold their next offset.
        self._stopped: set[int] = set()
        self._rejoin_at: float | None = None
        self._dead = False

    def subscribe(self, listener: Listener) -> None:
        """See `Log`."""
        self._listener = listener
        self._join()

    def _join(self) -> None:
        self._consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def poll(self, limit: int, timeout_s: float) -> Polled:
        """See `Log`.

        A member whose instance id the broker fenced loses its partitions in this call, and joins
        again after a pause.
        """
        if self._rejoin_at is not None and time.monotonic() >= self._rejoin_at:
            self._rejoin_at = None
            self._join()
        try:
            received = self._consumer.consume(limit, timeout_s)
        except KafkaException as error:
            raise Retry(f"kafka: {error.args[0].str()}") from error
        events = [message for message in received if message.error() is not None]
        if events:
            for event in events:
                if event.error().code() == KafkaError._FATAL:  # type: ignore[union-attr]
                    self._start_over(event.error())  # type: ignore[arg-type]
                    return Polled([], {}, [])
            received = [message for message in received if message.error() is None]
        batch = Polled(self._without_jumps(by_partition(received)), {}, [])
        for records in batch.records:
            self.unreadable.pop(records.partition, None)
        for event in events:
            self._note(event, event.error(), batch)  # type: ignore[arg-type]
        if batch.records or batch.ends:
            self.unreachable = ""
        return batch

    def _without_jumps(self, groups: list[Records]) -> list[Records]:
        kept = []
        for records in groups:
            count, back_to = self._positions.keep(records.partition, records.offsets)
            if back_to is not None:
                self._seek_back(records.partition, back_to, records.offsets[count])
            if count:
                kept.append(records if count == len(records) else records.part(0, count))
        return kept

    def _seek_back(self, partition: int, offset: int, jumped_to: int) -> None:
        log.warning("log_jumped", partition=partition, expected=offset, found=jumped_to)
        metrics.INGEST_JUMPS.labels(partition).inc()
        try:
            self._consumer.seek(TopicPartition(self._topic, partition, offset))
        except KafkaException:
            # Either the partition is being revoked, or the next jump is verified like this one.
            self._positions.begin(partition, offset)

    def _note(self, event: Message, fault: KafkaError, batch: Polled) -> None:
        """Handle one of the client's events, which arrive among the messages."""
        place = record_of(event)
        if fault.code() == KafkaError._PARTITION_EOF:
            self.unreadable.pop(place.partition, None)
            taken, back_to = self._positions.keep_end(place.partition, place.offset)
            if taken:
                batch.ends[place.partition] = place.offset
            elif back_to is not None:
                self._seek_back(place.partition, back_to, place.offset)
        elif fault.code() in _RESEEK:
            self.unreadable.pop(place.partition, None)
            self._stopped.add(place.partition)
            batch.out_of_range.append(place.partition)
        elif place.partition in self._held and place.offset >= 0:
            self._note_unreadable(place.partition, place.offset, fault)
        else:
            self.unreachable = fault.str()

    def _note_unreadable(self, partition: int, offset: int, fault: KafkaError) -> None:
        if partition not in self.unreadable:
            log.error("unreadable", partition=partition, offset=offset, error=fault.str())
        self.unreadable[partition] = (
            f"the batch at offset {offset} cannot be read, nor any record after it: {fault.str()}"
        )

    def _start_over(self, fault: KafkaError) -> None:
        """Replace a client that is dead because its instance id was fenced. Raises Fatal otherwise.

        By then the client has lost its partitions, as if to another member. The group assigns
        partitions to the new client when it joins.
        """
        if not self._instance_id or _NAME_TAKEN not in fault.str():
            raise Fatal(f"kafka: {fault.str()}; start this process again")
        pause_s = self._fences.pause_s()
        metrics.INGEST_REJOINS.labels(self._group).inc()
        log.warning(
            "name_fenced",
            group=self._group,
            instance_id=self._instance_id,
            partitions=sorted(self._held),
            pause_s=round(pause_s, 2),
        )
        self._dead = True
        self._consumer.close()
        self._dead = False
        if self._held:
            lost = sorted(self._held)
            self._drop(lost)
            self._listener.on_lost(lost)
        self._consumer = Consumer(self._settings)
        self._rejoin_at = time.monotonic() + pause_s

    # The client lets one thread in at a time, and the poll loop comes back before any other thread
    # gets its turn. So the questions, which may come from other threads, go to the reader's client.

    def committed(self, partition: int) -> tuple[int | None, str]:
        """See `Log`."""
        return self._reader.committed(partition)

    def commit(self, positions: Mapping[int, tuple[int, str]], *, wait: bool = True) -> None:
        """See `Log`."""
        if not positions:
            return
        if self.unreachable:
            # The client would hold the commit until the broker is back, and send it as whichever
            # member it is by then.
            raise Retry(f"kafka: committing: {self.unreachable}")
        offsets = [
            TopicPartition(self._topic, partition, offset, metadata)
            for partition, (offset, metadata) in positions.items()
        ]
        try:
            if not wait:
                self._consumer.commit(offsets=offsets, asynchronous=True)
                return
            results = self._consumer.commit(offsets=offsets, asynchronous=False)
        except KafkaException as error:
            raise _named(error, "committing") from error
        for result in results or ():
            if result.error is not None:
                raise _named(KafkaException(result.error), "committing")

    def extent(self, partition: int, since_ms: int | None) -> LogExtent:
        """See `Log`."""
        return self._reader.extent(partition, since_ms)

    def topic_id(self) -> str:
        """See `Log`."""
        return self._reader.topic_id()

    def read_at(self, partition: int, offsets: Sequence[int]) -> dict[int, LogRecord]:
        """See `Log`."""
        return self._reader.read_at(partition, offsets)

    def last_timestamp(self, partition: int) -> int | None:
        """See `Log`."""
        return self._reader.last_timestamp(partition)

    def first_timestamp(self, partition: int) -> int | None:
        """See `Log`."""
        return self._reader.first_timestamp(partition)

    def begin(self, partition: int, offset: int) -> None:
        """See `Log`."""
        place = TopicPartition(self._topic, partition, offset)
        try:
            if partition in self._stopped:
                # The client accepts no seek here; only a new assignment starts it again.
                self._consumer.incremental_unassign([place])
                self._consumer.incremental_assign([place])
                self._stopped.discard(partition)
            else:
                self._consumer.seek(place)
            self._consumer.resume([self._at(partition)])
        except KafkaException as error:
            raise Retry(f"kafka: seeking: {error.args[0].str()}") from error
        self._positions.begin(partition, offset)

    def pause(self, partitions: Sequence[int]) -> None:
        """See `Log`."""
        if partitions:
            self._consumer.pause([self._at(partition) for partition in partitions])

    def resume(self, partitions: Sequence[int]) -> None:
        """See `Log`."""
        if partitions:
            self._consumer.resume([self._at(partition) for partition in partitions])

    def newest_end(self, partition: int) -> int | None:
        """See `Log`."""
        found = self._consumer.get_watermark_offsets(self._at(partition), cached=True)
        return None if found is None or found[1] < 0 else int(found[1])

    def partition_count(self) -> int:
        """See `Log`."""
        count = self._reader.partition_count(_TIMEOUT_S)
        if count == 0:
            # A topic that was just created may not be known to every broker yet.
            raise Retry(f"kafka: topic {self._topic} has no partitions yet")
        self.unreachable = ""
        return count

    def still_reachable(self) -> bool:
        """See `Log`."""
        try:
            self._reader.partition_count(_REACHABLE_S)
        except Retry:
            return False
        self.unreachable = ""
        return True

    def close(self) -> None:
        """See `Log`."""
        self._consumer.close()
        self._reader.close()

    def _at(self, partition: int) -> TopicPartition:
        return TopicPartition(self._topic, partition)

    def _on_error(self, error: KafkaError) -> None:
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
            self.unreachable = error.str()

    def _on_commit(self, error: KafkaError | None, _partitions: list[TopicPartition]) -> None:
        if error is not None:
            self.commit_fault = error.str()

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing is fetched, because the partition is paused until `begin` seeks. Assign at the
        # end: an offset that the log does not hold would be a permanent error. Assign it as a
        # number: the client's look-up of a logical offset may be answered after the seek of `begin`
        # and undo it.
        consumer.incremental_assign(
            [TopicPartition(p.topic, p.partition, self._end_of(p)) for p in partitions]
        )
        consumer.pause(partitions)
        assigned = [p.partition for p in partitions]
        self._held.update(assigned)
        self._listener.on_assign(assigned)

    def _end_of(self, place: TopicPartition) -> int:
        try:
            found = self._consumer.get_watermark_offsets(place, timeout=_TIMEOUT_S, cached=False)
        except KafkaException:
            found = None
        # Where the broker does not answer, `Positions` detects what the look-up makes us skip.
        return OFFSET_END if found is None else int(found[1])

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        if self._dead:
            # The group no longer knows this client: nothing can be saved or committed.
            self._on_lost(consumer, partitions)
            return
        revoked = [p.partition for p in partitions]
        self._drop(revoked)
        self._listener.on_revoke(revoked)
        consumer.incremental_unassign(partitions)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        lost = [p.partition for p in partitions]
        self._drop(lost)
        self._listener.on_lost(lost)
        consumer.incremental_unassign(partitions)

    def _drop(self, partitions: Sequence[int]) -> None:
        self._held.difference_update(partitions)
        for partition in partitions:
            self._positions.drop(partition)
            self._stopped.discard(partition)
            self.unreadable.pop(partition, None)


def by_partition(messages: Sequence[Message]) -> list[Records]:
    """Group messages by partition, as columns; the order within a partition is kept."""
    groups: defaultdict[int, list[Message]] = defaultdict(list)
    for message in messages:
        groups[message.partition()].append(message)  # type: ignore[index]
    return [
        Records(
            partition,
            [message.offset() for message in group],  # type: ignore[misc]
            [message.timestamp()[1] for message in group],
            [message.value() for message in group],
            _origins(group),
            group,
            record_of,
        )
        for partition, group in groups.items()
    ]


def _origins(messages: Sequence[Message]) -> list[Origin | None] | None:
    # Most records have no headers at all, for which the client returns None.
    headers = [message.headers() for message in messages]
    if not any(headers):
        return None
    origins = [origin_of(each) for each in headers]  # type: ignore[arg-type]
    return origins if any(origins) else None


def _named(error: KafkaException, doing: str) -> Fenced | Retry | Fatal:
    fault = error.args[0]
    text = f"kafka: {doing}: {fault.str()}"
    if fault.code() == KafkaError.OFFSET_METADATA_TOO_LARGE:
        # The same commit would be refused each time.
        return Fatal(f"{text} (the broker's offset.metadata.max.bytes)")
    return Fenced(text) if fault.code() in _FENCED else Retry(text)
