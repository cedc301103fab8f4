"""The ports of a source on Kafka: events into the swap topic, and a journal with one owner.

Ownership has two halves. The group of the source (`membership.py`) chooses one process, and others
stand by. The journal is written in transactions under the source's name: the next owner begins with
`init_transactions`, and from then on Kafka refuses what an earlier owner writes, even one that was
stopped in the middle of a write and does not know that it lost the group.

Events are not in the transaction, because an open transaction would hold back every reader of the
swap topic. So a sink asks the journal first whether the ownership still holds (`confirm`), and its
client gives up on records before Kafka gives up on the process.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import msgspec
import structlog
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from aggregator.member.topics import JOURNAL_BYTES
from aggregator.producing.producer import Undelivered, reason_of, undelivered
from aggregator.producing.publisher import SwapPublisher
from aggregator.runtime.backoff import CircuitBreaker
from aggregator.runtime.clock import wall_ms
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Fenced, Retry
from sources.events import Outgoing
from sources.journal import (
    OWNER_KEY,
    PARTITION,
    SourceOwner,
    group_of,
    read_journals,
    record_key,
    this_owner,
)
from sources.membership import SourceMembership

EVENT_TIMEOUT_MS: Final = 4_000
"""How long the client tries to deliver an event before the sink asks for the ownership again.

Less than the session timeout of the group, after which another process may own the source.
"""
_TRUSTED_S: Final = 2.0
_ANSWER_S: Final = 10.0
_SHOWN: Final = 300
# Kafka ends a transaction that is open for longer; other journals are read only up to it.
_TRANSACTION_MS: Final = 10_000
log = structlog.get_logger(__name__)


class KafkaRetries:
    """Pauses between two tries of a call to Kafka, and reports why the first one failed."""

    def __init__(self, note: Callable[[str], None]) -> None:
        """`note` gets the fault, and "" once a call has worked."""
        self._breaker = CircuitBreaker("kafka")
        self._note = note

    async def pause(self, why: str) -> None:
        """Wait before the next try of a call that failed."""
        self._breaker.failed(why)
        self._note(why)
        await asyncio.sleep(self._breaker.open_for_s)

    def worked(self) -> None:
        """Note that a call has worked."""
        self._breaker.worked()
        self._note("")


class KafkaSink:
    """Sends events to the swap topic (see `Sink`). One per process: it has the publisher."""

    def __init__(
        self,
        publisher: SwapPublisher,
        confirm: Callable[[], Awaitable[None]],
        retries: KafkaRetries,
    ) -> None:
        """`confirm` raises Fenced where this process no longer owns the source."""
        self._publisher = publisher
        self._confirm = confirm
        self._retries = retries

    async def send(self, records: Sequence[Outgoing]) -> None:
        """See `Sink`. Raises Fenced where this process no longer owns the source."""
        left = records
        while True:
            await self._confirm()
            answer = await self._publisher.publish(left)
            if answer.complete:
                self._retries.worked()
                return
            first = min(answer.failures)
            for place, failure in sorted(answer.failures.items()):
                if failure.refused:
                    raise Fatal(_refused(left[place], failure.reason))
            # From the first failure on, so that the last records of a key arrive last.
            left = left[first:]
            why = f"kafka: {len(answer.failures)} events: {answer.failures[first].reason}"
            await self._retries.pause(why)

    async def close(self) -> None:
        """Wait for up to 10 s for the events that are not acknowledged, then end the client."""
        await self._publisher.close()


class KafkaJournal:
    """The journal of one source in the topic KAFKA_SOURCES_TOPIC (see `Journal`)."""

    def __init__(
        self,
        config: Config,
        source: str,
        *,
        instance_id: str = "",
        retries: KafkaRetries | None = None,
    ) -> None:
        """See `SourceMembership` for `instance_id`."""
        self._config = config
        self._source = source
        self._membership = SourceMembership(config, source, instance_id=instance_id)
        self._retries = retries or KafkaRetries(_ignored)
        self._writing = asyncio.Lock()
        self._producer: Producer | None = None
        self._owner: SourceOwner
        self._confirmed = 0.0

    async def own(self) -> Mapping[str, bytes]:
        """See `Journal`."""
        while True:
            await self._membership.join()
            self._owner = this_owner(wall_ms())
            try:
                entries = await self._retried(self._take)
                await self._write({})
            except Fenced:
                # Kafka assigned the partition to another process meanwhile.
                continue
            log.info("source_owned", source=self._source, entries=len(entries))
            return {key: value for key, value in entries.items() if key != OWNER_KEY}

    async def write(self, entries: Mapping[str, bytes | None]) -> None:
        """See `Journal`. Raises Fatal where the entries are too large for one transaction."""
        await self._write(entries)

    async def confirm(self) -> None:
        """Return if this process owns the source, as of at most 2 s ago; else raise Fenced.

        For longer than that after an owner was last seen alive, Kafka makes no other process the
        owner: the session timeout of the group is 6 s.
        """
        if not self._membership.assigned or time.monotonic() - self._confirmed > _TRUSTED_S:
            await self._write({})

    async def close(self) -> None:
        """See `Journal`."""
        await self._membership.leave()
        self._drop_producer()

    async def _write(self, entries: Mapping[str, bytes | None]) -> None:
        """Write entries, and this owner with them; repeat it until Kafka accepts or refuses it."""
        records = {**entries, OWNER_KEY: msgspec.json.encode(self._owner)}
        async with self._writing:
            while True:
                began = time.monotonic()
                try:
                    self._membership.require()
                    await asyncio.to_thread(self._transact, records)
                except Retry as error:
                    await self._retries.pause(str(error))
                    await self._take_again()
                else:
                    self._retries.worked()
                    self._confirmed = began
                    return

    async def _take_again(self) -> None:
        """Begin again after a failed write, which may or may not be in the journal.

        Kafka answers alike where another process has taken the source over and where it has ended
        a transaction for its age; the journal says which. Raises Fenced in the first case.
        """
        # Look first, because to begin again takes the source from its true owner for a moment.
        self._require_own(await self._retried(self._read))
        self._require_own(await self._retried(self._take))

    def _require_own(self, entries: Mapping[str, bytes]) -> None:
        signed = entries.get(OWNER_KEY, b"")
        if signed != msgspec.json.encode(self._owner):
            raise Fenced(f"source {self._source} has another owner: {signed.decode() or 'unknown'}")

    async def _retried(self, read: Callable[[], Mapping[str, bytes]]) -> Mapping[str, bytes]:
        """Call `read` until Kafka answers. Raises Fenced where the ownership ends meanwhile."""
        while True:
            self._membership.require()
            try:
                return await asyncio.to_thread(read)
            except Retry as error:
                await self._retries.pause(str(error))

    def _read(self) -> Mapping[str, bytes]:
        return read_journals(self._config, self._source).get(self._source, {})

    def _take(self) -> Mapping[str, bytes]:
        """Make Kafka refuse the writes of every earlier owner; return what the journal holds."""
        self._drop_producer()
        producer = Producer(
            {
                "bootstrap.servers": self._config.kafka_bootstrap,
                "transactional.id": group_of(self._source),
                "transaction.timeout.ms": _TRANSACTION_MS,
                "compression.type": "lz4",
                "linger.ms": 0,
                "message.max.bytes": JOURNAL_BYTES,
                "reconnect.backoff.max.ms": 1_000,
                "log_level": 0,
            }
        )
        try:
            producer.init_transactions(_ANSWER_S)
        except KafkaException as error:
            raise Retry(f"kafka: beginning transactions: {reason_of(error)}") from error
        self._producer = producer
        return self._read()

    def _transact(self, records: Mapping[str, bytes | None]) -> None:
        """Write records in one transaction. Raises Retry where Kafka does not confirm it."""
        producer, topic = self._producer, self._config.kafka_sources_topic
        failures: list[Undelivered] = []
        if producer is None:
            raise Retry("kafka: no transaction can begin")

        def on_delivery(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failures.append(undelivered(error))

        try:
            producer.begin_transaction()
            for key, value in records.items():
                name = record_key(self._source, key)
                producer.produce(
                    self._config.kafka_sources_topic,
                    value,
                    name,
                    PARTITION,
                    on_delivery=on_delivery,
                )
            producer.flush(_ANSWER_S)
            producer.commit_transaction(_ANSWER_S)
        except SystemError as error:
            # How the client raises a fatal error, such as that of a fenced instance, where it also
            # has reports to deliver.
            raise Retry(f"kafka: writing the journal: {error.__cause__ or error}") from error
        except KafkaException as error:
            refused = any(each.refused for each in failures)
            if refused or undelivered(error.args[0]).refused:
                size = sum(len(value or b"") for value in records.values())
                raise Fatal(
                    f"source {self._source}: the journal entries {', '.join(records)} ({size:,} "
                    f"bytes) are too large: raise max.message.bytes of topic {topic}, at most to "
                    f"{JOURNAL_BYTES:,}"
                ) from error
            raise Retry(f"kafka: writing the journal: {reason_of(error)}") from error

    def _drop_producer(self) -> None:
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.purge()


def ports_on_kafka(
    config: Config, source: str, note: Callable[[str], None], *, instance_id: str = ""
) -> tuple[KafkaJournal, KafkaSink]:
    """Return the journal of a source, and the sink that asks it for the ownership.

    `note` gets what is wrong with Kafka, and "" once it answers.
    """
    retries = KafkaRetries(note)
    journal = KafkaJournal(config, source, instance_id=instance_id, retries=retries)
    publisher = SwapPublisher(config, timeout_ms=EVENT_TIMEOUT_MS)
    return journal, KafkaSink(publisher, journal.confirm, retries)


def _ignored(_fault: str) -> None:
    """Report nothing."""


def _refused(record: Outgoing, reason: str) -> str:
    shown = record.value[:_SHOWN].decode("utf-8", "replace")
    return f"Kafka refuses an event of {record.key.decode()} ({reason}): {shown}"
