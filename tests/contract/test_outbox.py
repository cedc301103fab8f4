"""What the outbox of a member sends to a real broker, and what it does when the broker fails."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from aggregator.contracts.records import LogRecord, origin_of
from aggregator.dead_letters.producer import KEPT_BYTES, DeadLetters, Rejected
from aggregator.member.kafka import KafkaLog
from aggregator.member.outbox import Outbox
from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import BadMessage, Retry
from infra.embedded.kafka import Kafka
from infra.embedded.stack import Stack

pytestmark = pytest.mark.engines
WITHIN_S = 60


class Site:
    """A broker with topics of a test."""

    def __init__(self, bootstrap: str) -> None:
        self.bootstrap = bootstrap
        self._admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def topic(self, most_bytes: int = 1_000_000, partitions: int = 1) -> str:
        name = f"topic-{uuid4().hex[:8]}"
        made = NewTopic(name, partitions, 1, config={"max.message.bytes": str(most_bytes)})
        for future in self._admin.create_topics([made]).values():
            future.result(20)
        return name

    def config(self, most_bytes: int = 1_000_000) -> Config:
        """The settings of an aggregator of a new topic with three partitions."""
        names = {
            "KAFKA_BOOTSTRAP": self.bootstrap,
            "KAFKA_TOPIC": self.topic(most_bytes, 3),
            "KAFKA_DLQ_TOPIC": self.topic(),
        }
        return load(names)

    def allow(self, topic: str, most_bytes: int) -> None:
        entry = ConfigEntry(
            "max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET
        )
        resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
        for future in self._admin.incremental_alter_configs([resource]).values():
            future.result(20)

    def delete(self, topic: str) -> None:
        for future in self._admin.delete_topics([topic]).values():
            future.result(20)

    def held(self, topic: str, partition: int = 0) -> list[Message]:
        """Return every message of a partition."""
        settings = {"bootstrap.servers": self.bootstrap, "group.id": "look", "log_level": 0}
        consumer = Consumer(settings | {"enable.partition.eof": True})
        try:
            consumer.assign([TopicPartition(topic, partition, 0)])
            found: list[Message] = []
            while (message := consumer.poll(20)) is not None:
                error = message.error()
                if error is None:
                    found.append(message)
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
            raise AssertionError("the topic was not read to its end")
        finally:
            consumer.close()


@pytest.fixture
def site(stack: Stack) -> Site:
    return Site(stack.env()["KAFKA_BOOTSTRAP"])


@pytest.fixture(scope="module")
def own_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kafka]:
    """A broker that a test may kill and start again."""
    with Stack(tmp_path_factory.mktemp("kafka"), only=(Kafka,)) as engines:
        yield engines.kafka


def headers(message: Message) -> dict[str, str]:
    return {name: (value or b"").decode() for name, value in message.headers() or []}


def origins(messages: list[Message]) -> list[int]:
    """The origin offsets of messages, without what arrived twice."""
    found = [origin_of(each.headers() or []) for each in messages]
    return list(dict.fromkeys(each[1] for each in found if each is not None))


def until(condition: Callable[[], bool], outbox: Outbox) -> None:
    deadline = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < deadline, outbox.fault
        outbox.poll()
        time.sleep(0.01)


@contextmanager
def opened(config: Config) -> Iterator[Outbox]:
    outbox = Outbox(config)
    yield outbox
    outbox.close()


def record(offset: int, value: bytes, partition: int = 0) -> LogRecord:
    return LogRecord(partition, offset, 1_700_000_000_000 + offset, b"key", value, [("h", b"1")])


# Forwards.


def test_a_forward_is_read_with_its_origin(site: Site) -> None:
    config = site.config()
    began_ms = time.time() * 1_000
    with opened(config) as outbox:
        outbox.forward([record(7, b"a"), record(9, b"b")], [2, 2])
        outbox.flush(0, WITHIN_S)
    log = KafkaLog(config)
    found = log.read_at(2, [0, 1])
    log.close()
    assert [each.value for each in found.values()] == [b"a", b"b"]
    assert found[0].headers == [("h", b"1"), ("origin", b"0:7:1700000000007")]
    assert found[0].key == b"key"
    assert began_ms - 1 <= found[0].timestamp <= time.time() * 1_000 + 1


def test_forwards_stay_in_order_over_a_kill_of_the_broker(own_kafka: Kafka) -> None:
    site = Site(own_kafka.address)
    config = site.config()
    total = 30_000
    with opened(config) as outbox:
        for first in range(0, total, 1_000):
            records = [record(each, b"x" * 100) for each in range(first, first + 1_000)]
            outbox.forward(records, [each % 2 for each in range(1_000)])
            outbox.poll()
            if first == 10_000:
                own_kafka.kill()
        assert outbox.lowest(0) is not None
        with pytest.raises(Retry, match="is not acknowledged"):
            outbox.flush(0, 0.1)
        own_kafka.start()
        until(lambda: outbox.lowest(0) is None, outbox)
        assert outbox.fault == ""
    for home in range(2):
        assert origins(site.held(config.kafka_topic, home)) == list(range(home, total, 2))


def test_a_forward_that_its_topic_refuses_is_a_dead_letter(site: Site) -> None:
    """The record itself is accepted with some bytes less: as its producer had sent it."""
    config = site.config(most_bytes=20_000)
    values = [b"v" * 300] * 1_000
    for place in (0, 500, 501, 999):
        values[place] = hashlib.shake_128(b"v").digest(20_000)  # does not compress
    with opened(config) as outbox:
        outbox.forward([record(place, value) for place, value in enumerate(values)], [1] * 1_000)
        until(lambda: outbox.lowest(0) is None, outbox)
    refused = [0, 500, 501, 999]
    assert origins(site.held(config.kafka_topic, 1)) == [
        each for each in range(1_000) if each not in refused
    ]
    letters = [headers(each) for each in site.held(config.kafka_dlq_topic)]
    assert [int(each["source-offset"]) for each in letters] == refused
    assert {each["reason"] for each in letters} == {"too_large"}


def test_batches_that_are_too_large_together(site: Site) -> None:
    config = site.config(most_bytes=2_000)
    values = [hashlib.shake_128(b"%d" % each).digest(300) for each in range(1_000)]
    with opened(config) as outbox:
        outbox.forward([record(place, value) for place, value in enumerate(values)], [1] * 1_000)
        until(lambda: outbox.lowest(0) is None, outbox)
        site.allow(config.kafka_topic, 1_000_000)
        outbox.forward([record(place, b"v") for place in range(1_000, 2_000)], [1] * 1_000)
        until(lambda: outbox.lowest(0) is None, outbox)
    assert origins(site.held(config.kafka_topic, 1)) == list(range(2_000))
    assert site.held(config.kafka_dlq_topic) == []


def test_a_topic_that_is_gone_is_a_fault_and_keeps_everything_outstanding(site: Site) -> None:
    config = site.config()
    with opened(config) as outbox:
        outbox.forward([record(0, b"a")], [1])
        until(lambda: outbox.lowest(0) is None, outbox)
        site.delete(config.kafka_topic)
        outbox.forward([record(each, b"a") for each in range(1, 100)], [1] * 99)
        until(lambda: outbox.fault != "", outbox)
        assert outbox.lowest(0) == 1
        assert outbox.outstanding(0) == 99


# Dead letters.


def rejected(offset: int, value: bytes | None, detail: str = "why") -> Rejected:
    return Rejected(
        "swaps", LogRecord(0, offset, 0, b"key", value), BadMessage("rule", "side", detail)
    )


def test_a_batch_is_not_cut_for_being_large_together(site: Site) -> None:
    """The broker measures batches: it refuses a hundred letters of 1 KB, but accepts each."""
    topic = site.topic(20_000)
    values = [b"%04d" % offset * 256 for offset in range(100)]
    letters = DeadLetters(site.bootstrap, topic)
    letters.send([rejected(offset, value) for offset, value in enumerate(values)])
    letters.flush(WITHIN_S)
    letters.close()
    assert sorted(each.value() or b"" for each in site.held(topic)) == values


def test_as_much_is_kept_as_the_topic_takes(site: Site) -> None:
    topic = site.topic(100_000)
    letters = DeadLetters(site.bootstrap, topic)
    large = b"x" * 120_000
    letters.send([rejected(0, b"x" * 90_000), rejected(1, large), rejected(2, None)])
    letters.flush(WITHIN_S)
    small = site.topic(20_000)
    others = DeadLetters(site.bootstrap, small)
    others.send([rejected(0, b"x" * 19_000), rejected(1, b"x" * 30_000)])
    others.flush(WITHIN_S)
    for each in (letters, others):
        each.close()
    found = {headers(each)["source-offset"]: each for each in site.held(topic)}
    assert {offset: each.value() for offset, each in found.items()} == {
        "0": b"x" * 90_000,
        "1": large[:KEPT_BYTES],
        "2": None,
    }
    assert headers(found["1"])["cut-from-bytes"] == "120000"
    assert headers(found["1"])["sha256"] == hashlib.sha256(large).hexdigest()
    found = {headers(each)["source-offset"]: each for each in site.held(small)}
    assert {offset: each.value() for offset, each in found.items()} == {
        "0": b"x" * 19_000,
        "1": b"",
    }


def test_what_was_acknowledged_is_not_sent_again(site: Site) -> None:
    topic = site.topic(700)
    letters = DeadLetters(site.bootstrap, topic)
    letters.send([rejected(0, b"fits"), rejected(1, b"", "d" * 1_000)])
    with pytest.raises(Retry, match=r"raise its max\.message\.bytes"):
        letters.flush(3.0)
    assert (letters.lowest(0), letters.outstanding(0)) == (1, 1)
    site.allow(topic, 100_000)
    letters.flush(WITHIN_S)
    letters.close()
    assert [headers(each)["source-offset"] for each in site.held(topic)] == ["0", "1"]


def test_letters_reach_a_broker_that_was_away(own_kafka: Kafka) -> None:
    """An unreachable broker is not a size limit: the letters are complete."""
    site = Site(own_kafka.address)
    topic = site.topic()
    letters = DeadLetters(site.bootstrap, topic)
    letters.send([rejected(0, b"before")])
    letters.flush(WITHIN_S)
    own_kafka.kill()
    letters.send([rejected(1, b"x" * 90_000), rejected(2, b"small")])
    with pytest.raises(Retry):
        letters.flush(0.5)
    own_kafka.start()
    letters.flush(WITHIN_S)
    letters.close()
    assert [len(each.value() or b"") for each in site.held(topic)] == [6, 90_000, 5]
