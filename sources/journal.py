"""The journals of all sources: how the compacted topic holds them, and how they are read.

A record's key is `<source>:<key>`, its value JSON, or null where the entry is deleted. The key
`owner` names the process that owns the source: each owner writes it before anything else, so its
place in the log is where its ownership begins.
"""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import msgspec
from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal, Retry

OWNER_KEY: Final = "owner"
PARTITION: Final = 0
"""The topic's only partition."""
_WITHIN_S: Final = 30.0
_ANSWER_S: Final = 5.0
_POLL: Final = 1_000


class JournalsMissing(Fatal):
    """There is no topic of journals yet: no source has run."""


Journals = Mapping[str, Mapping[str, bytes]]
"""The entries of every source, by its name and their keys."""


class SourceOwner(msgspec.Struct, frozen=True):
    """A process that owns a source: a number of its own, its host and pid, and since when (ms)."""

    id: str
    process: str
    at: int


def this_owner(now_ms: int) -> SourceOwner:
    """Return an owner for this process, unlike any other."""
    return SourceOwner(uuid.uuid4().hex, f"{socket.gethostname()}:{os.getpid()}", now_ms)


def group_of(source: str) -> str:
    """Return the consumer group whose member on PARTITION owns a source."""
    return f"source-{source}"


def record_key(source: str, key: str) -> bytes:
    """Return the key of an entry's record."""
    return f"{source}:{key}".encode()


def read_journals(
    config: Config, source: str | None = None, *, within_s: float = _WITHIN_S
) -> Journals:
    """Read the journals of one source or of all up to the topic's end as of this call.

    Only committed entries count. A transaction that another source has left open delays the call
    until Kafka ends it, which takes up to a minute. Raises Retry where the broker does not answer
    within `within_s`, and JournalsMissing where the topic does not exist.
    """
    topic = config.kafka_sources_topic
    try:
        return _read(config, _end(config), source, within_s)
    except KafkaException as error:
        raise Retry(f"kafka: reading topic {topic}: {error.args[0].str()}") from error


@contextmanager
def _consumer(config: Config, isolation: str) -> Iterator[Consumer]:
    consumer = Consumer(
        {
            "bootstrap.servers": config.kafka_bootstrap,
            "group.id": "source-readers",  # not joined
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": isolation,
            "auto.offset.reset": "earliest",
            "fetch.wait.max.ms": 100,
            "log_level": 0,
        }
    )
    try:
        yield consumer
    finally:
        consumer.close()


def _end(config: Config) -> int:
    """Return the end of the log, which lies after the transactions that are still open."""
    topic = config.kafka_sources_topic
    # A reader of committed records only would get the begin of the first open transaction.
    with _consumer(config, "read_uncommitted") as consumer:
        if topic not in consumer.list_topics(timeout=_ANSWER_S).topics:
            raise JournalsMissing(
                f"kafka at {config.kafka_bootstrap} has no topic {topic} (KAFKA_SOURCES_TOPIC): "
                "run manage.py ensure_topology"
            )
        place = TopicPartition(topic, PARTITION)
        found = consumer.get_watermark_offsets(place, timeout=_ANSWER_S, cached=False)
    if found is None:
        raise Retry(f"kafka: the end of topic {topic}: no answer")
    return int(found[1])


def _read(config: Config, end: int, only: str | None, within_s: float) -> Journals:
    topic, reached = config.kafka_sources_topic, 0
    held: defaultdict[str, dict[str, bytes]] = defaultdict(dict)
    deadline = time.monotonic() + within_s
    with _consumer(config, "read_committed") as consumer:
        consumer.assign([TopicPartition(topic, PARTITION, OFFSET_BEGINNING)])
        while reached < end:
            if time.monotonic() > deadline:
                raise Retry(f"kafka: topic {topic} is read to {reached} of {end}, then no answer")
            for message in consumer.consume(_POLL, 0.1):
                error, offset = message.error(), message.offset() or 0
                if error is None:
                    _apply(held, only, message.key(), message.value())
                    reached = offset + 1
                elif error.code() == KafkaError._PARTITION_EOF:
                    # After the markers of transactions too, which are no records.
                    reached = offset
                else:
                    raise Retry(f"kafka: reading topic {topic}: {error.str()}")
    return {source: entries for source, entries in held.items() if entries}


def _apply(
    held: defaultdict[str, dict[str, bytes]],
    only: str | None,
    key: bytes | None,
    value: bytes | None,
) -> None:
    source, _, name = (key or b"").decode().partition(":")
    if only is not None and source != only:
        return
    if value is None:
        held[source].pop(name, None)
    else:
        held[source][name] = value
