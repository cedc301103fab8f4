"""The group of a source: Kafka assigns the journal's partition to one of the source's processes.

A thread polls the client, so that a busy event loop does not lose the ownership, and passes what it
learns to the event loop. A process that Kafka takes for dead learns of it later than Kafka: what
refuses its writes is the journal's transaction (`kafka.py`), not this module.
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import cache
from typing import Any, Final

import structlog
from confluent_kafka import OFFSET_END, Consumer, KafkaError, KafkaException, TopicPartition

from aggregator.member.fencing import Fences
from aggregator.runtime.backoff import Backoff
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Fenced
from sources.journal import PARTITION, group_of

_POLL_S: Final = 0.25

log = structlog.get_logger(__name__)


@cache
def _fences(group: str, instance_id: str) -> Fences:
    """Return the recent fences of a name in this process: a new membership continues to count."""
    return Fences(group, instance_id)


class SourceMembership:
    """A member of the group of `source`; `join` and the waits belong to one event loop."""

    def __init__(self, config: Config, source: str, *, instance_id: str = "") -> None:
        """`source` is the name in the settings of the sources.

        With `instance_id`, a process that starts again under the same name gets the partition
        immediately; without it, Kafka waits for 6 s after a kill.
        """
        self._topic = config.kafka_sources_topic
        self._source = source
        self._assigned = asyncio.Event()
        self._closing = threading.Event()
        self._fatal: Fatal | None = None
        self._instance_id = instance_id
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop
        self._settings: dict[str, Any] = {
            "bootstrap.servers": config.kafka_bootstrap,
            "group.id": group_of(source),
            "enable.auto.commit": False,
            # With it, a process that stands by never takes the partition from the owner.
            "partition.assignment.strategy": "cooperative-sticky",
            "session.timeout.ms": 6_000,
            "heartbeat.interval.ms": 1_000,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,
        }
        if instance_id:
            self._settings["group.instance.id"] = instance_id

    @property
    def assigned(self) -> bool:
        """Whether this process has the partition, as far as it knows."""
        return self._assigned.is_set() and self._fatal is None

    def require(self) -> None:
        """Raise Fenced where this process is not the owner, Fatal where it cannot become it."""
        if self._fatal is not None:
            raise self._fatal
        if not self._assigned.is_set():
            raise Fenced(f"this process is no longer the owner of source {self._source}")

    async def join(self) -> None:
        """Join the group if this is the first call; wait until the partition is assigned.

        Raises Fatal where another process uses the same instance id.
        """
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            self._thread = threading.Thread(
                target=self._run, name=f"source-{self._source}", daemon=True
            )
            self._thread.start()
        await self._assigned.wait()
        self.require()

    async def leave(self) -> None:
        """Leave the group, which assigns the partition to the next process immediately."""
        self._closing.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
            self._thread = None
        self._assigned.clear()

    def _run(self) -> None:
        backoff = Backoff()
        while not self._closing.is_set():
            consumer = Consumer(self._settings)
            try:
                pause_s = backoff.pause_s()
                if self._poll(consumer):
                    pause_s = _fences(group_of(self._source), self._instance_id).pause_s()
            except Fatal as error:
                self._fatal = error
                self._note(assigned=True)  # wakes `join`, which raises the error
                return
            except KafkaException as error:
                log.warning("source_membership", source=self._source, error=str(error))
            finally:
                consumer.close()
            self._closing.wait(pause_s)

    def _poll(self, consumer: Consumer) -> bool:
        """Poll until `leave`, or until the client is dead; return whether it is.

        It dies when another process takes its instance id, and can do so for itself: `fencing`.
        """
        consumer.subscribe(
            [self._topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_revoke,
        )
        fault = ""
        while not self._closing.is_set():
            message = consumer.poll(_POLL_S)
            error = None if message is None else message.error()
            if error is None:
                continue
            if error.str() != fault:
                fault = error.str()
                log.warning("source_membership", source=self._source, error=fault)
            if error.code() == KafkaError._FATAL:
                self._note(assigned=False)
                return True
        return False

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        # Nothing is read here: the assignment is all that matters.
        consumer.incremental_assign(
            [TopicPartition(each.topic, each.partition, OFFSET_END) for each in partitions]
        )
        consumer.pause(partitions)
        if any(each.partition == PARTITION for each in partitions):
            self._note(assigned=True)

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        consumer.incremental_unassign(partitions)
        if any(each.partition == PARTITION for each in partitions):
            self._note(assigned=False)

    def _note(self, *, assigned: bool) -> None:
        change = self._assigned.set if assigned else self._assigned.clear
        with suppress(RuntimeError):
            # The loop may have ended meanwhile, and nobody waits any more.
            self._loop.call_soon_threadsafe(change)
