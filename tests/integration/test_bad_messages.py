"""Bad messages of every size and number: good messages count, and the faults are reported."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from aggregator.contracts.homes import Homes
from aggregator.dead_letters.producer import KEPT_BYTES
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import load
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.plain import PLAIN
from tests.support.processes import wait_until
from tests.support.service import Service, swap

# Some of these move hundreds of megabytes, on a machine that may be busy.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]
WITHIN_S = 120


def token_at(partition: int) -> str:
    """Return a token whose home is this one of four partitions."""
    homes = Homes("murmur2", 4)
    names = (f"T{number}" for number in count())
    return next(name for name in names if homes.of(f"ethereum:{name}") == partition)


HOMES = [token_at(0), token_at(1)]


@pytest.fixture
def service(tmp_path: Path, stack: Stack) -> Iterator[Service]:
    with Service(tmp_path, stack) as running:
        running.env["METRICS_PORT"] = str(free_port())
        yield running


def readyz(service: Service) -> dict[str, Any]:
    """Return the aggregator's /readyz; empty while it does not answer."""
    try:
        port = service.env["METRICS_PORT"]
        answer = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30, verify=PLAIN)
    except httpx.TransportError:
        return {}
    body: dict[str, Any] = answer.json()
    return body


def metric(service: Service, sample: str) -> float | None:
    """Return the value of one metric sample of the aggregator."""
    port = service.env["METRICS_PORT"]
    text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30, verify=PLAIN).text
    found = [line.split()[-1] for line in text.splitlines() if line.startswith(f"{sample} ")]
    return float(found[0]) if found else None


def allow(bootstrap: str, topic: str, most_bytes: int) -> None:
    """Set a topic's max.message.bytes."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    entry = ConfigEntry(
        "max.message.bytes", str(most_bytes), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(20)


def send(service: Service, value: bytes, partition: int, codec: str = "none") -> None:
    """Send one large message, as a producer with raised limits does."""
    failures: list[KafkaError] = []
    producer = Producer(
        {
            "bootstrap.servers": service.env["KAFKA_BOOTSTRAP"],
            "message.max.bytes": 200_000_000,
            "compression.type": codec,
        }
    )
    producer.produce(
        service.topic,
        value,
        "k",
        partition,
        on_delivery=lambda error, _: failures.append(error) if error else None,
    )
    assert producer.flush(60) == 0
    assert failures == []


def headers(letter: Message) -> dict[str, str]:
    return {name: value.decode() for name, value in letter.headers() or []}


def is_cut(letter: Message, value: bytes) -> bool:
    """Check that the headers say so, and how to find and recognise the original."""
    said = headers(letter)
    assert letter.value() == value[:KEPT_BYTES]
    assert said["cut-from-bytes"] == str(len(value))
    assert said["sha256"] == hashlib.sha256(value).hexdigest()
    assert said["source-partition"] and said["source-offset"]
    return True


def test_a_letter_too_large_for_its_topic_is_sent_cut(service: Service) -> None:
    """On default topics: a value near the limit, a long detail, and a compressed value above it."""
    near, enum = b"x" * 1_048_400, swap(1, side="z" * 600_000)
    compressed = json.dumps({"note": "y" * 3_000_000, "side": "hold"}).encode()
    ensure_topics(load(service.env))
    send(service, near, 0)
    service.produce([swap(10, token="A")], partition=0)
    service.produce([b"small", enum, swap(11, token="B")], partition=1)
    send(service, compressed, 2, "zstd")
    service.produce([swap(number) for number in range(100, 200)])
    service.aggregator()
    service.web()
    service.wait_ready(WITHIN_S)
    service.wait_trades(102, WITHIN_S)
    letters = {letter.value()[:9]: letter for letter in service.dead_letters(4, WITHIN_S)}
    assert is_cut(letters[near[:9]], near)
    assert is_cut(letters[compressed[:9]], compressed)
    for whole in (b"small", enum):
        assert letters[whole[:9]].value() == whole
        assert "cut-from-bytes" not in headers(letters[whole[:9]])
    assert len(headers(letters[enum[:9]])["detail"]) <= 1_000
    assert metric(service, "swaps_ingest_dead_letters_cut_total") == 2
    assert readyz(service)["ready"] is True


def test_a_topic_that_takes_more_than_its_dead_letters_topic(service: Service) -> None:
    ensure_topics(load(service.env))
    allow(service.env["KAFKA_BOOTSTRAP"], service.topic, 20_000_000)
    values = [b"x" * size for size in (1_500_000, 3_000_000, 12_000_000)]
    for value in values:
        service.produce([b"bad before", swap(len(value), token="A")], partition=0)
        send(service, value, 0)
    service.produce([swap(number) for number in range(100)])
    service.aggregator()
    service.web()
    service.wait_trades(103, WITHIN_S)
    letters = sorted(
        service.dead_letters(6, WITHIN_S), key=lambda each: int(headers(each)["source-offset"])
    )
    assert [letter.value() for letter in letters[::2]] == [b"bad before"] * 3, "each once"
    assert all(map(is_cut, letters[1::2], values))


def held(bootstrap: str, topic: str) -> list[Message]:
    """Return every message of the topic."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "look",
            "enable.partition.eof": True,
            "log_level": 0,
        }
    )
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
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


def test_a_quarter_of_bad_messages_is_no_run(service: Service) -> None:
    """501 bad messages among 1,503 good ones arrive in about one poll."""
    ensure_topics(load(service.env))
    values = [swap(n, token=HOMES[0], side="hold" if n % 4 == 0 else "buy") for n in range(2_004)]
    service.produce(values, partition=0)
    aggregator = service.aggregator()
    service.web()
    service.wait_trades(1_503, WITHIN_S)
    assert len(service.dead_letters(501, WITHIN_S)) == 501
    assert readyz(service)["degraded"] == []
    assert service.logged(aggregator, "bad_run") == []
    assert metric(service, 'swaps_ingest_bad_ratio{partition="0"}') == 0.25


def test_a_run_of_bad_messages_is_said_and_stops_nothing(service: Service) -> None:
    """A restart within the run does not end it; good messages do."""
    first = service.aggregator()
    service.web()
    service.wait_ready(WITHIN_S)
    service.produce([b"garbage"] * 5_000, partition=0)
    service.produce([swap(1, token=HOMES[1])], partition=1)
    service.wait_trades(1, WITHIN_S)
    said = "of the last 1,000 messages were refused"
    wait_until(lambda: said in service.reasons(), WITHIN_S, "the web node to say it")
    answer = readyz(service)
    assert answer["ready"] is True
    assert [each for each in answer["degraded"] if said in each and "partition 0: " in each]
    assert metric(service, 'swaps_ingest_bad_ratio{partition="0"}') == 1.0
    first.kill()

    service.produce([b"garbage"] * 2_000 + [swap(2, token=HOMES[0])], partition=0)
    second = service.aggregator("second")
    service.wait_trades(2, WITHIN_S)
    wait_until(lambda: said in service.reasons(), WITHIN_S, "the web node to say it again")
    service.produce([swap(n, token=HOMES[0]) for n in range(10, 1_010)], partition=0)
    service.wait_trades(1_002, WITHIN_S)
    wait_until(lambda: readyz(service).get("degraded") == [], WITHIN_S, "the run to be over")
    wait_until(lambda: said not in service.reasons(), WITHIN_S, "the web node to clear it")
    assert len(service.logged(second, "bad_run_over")) == 1
    letters = held(service.env["KAFKA_BOOTSTRAP"], f"{service.topic}.dlq")
    assert {int(headers(each)["source-offset"]) for each in letters} == set(range(7_000))


def saved(service: Service, partition: int) -> int:
    """Return the offset that the aggregators' group has committed, which follows a snapshot."""
    group = service.env["KAFKA_GROUP"]
    consumer = Consumer({"bootstrap.servers": service.env["KAFKA_BOOTSTRAP"], "group.id": group})
    try:
        place = TopicPartition(service.topic, partition)
        return int(consumer.committed([place], timeout=10)[0].offset)
    finally:
        consumer.close()


def test_a_batch_that_cannot_be_read_stalls_its_partition_and_says_so(service: Service) -> None:
    """The client does not decompress a batch of 150 MB; other partitions are counted."""
    aggregator = service.aggregator()
    service.web()
    service.wait_ready(WITHIN_S)
    service.produce([swap(0, token=HOMES[1])], partition=1)
    service.wait_trades(1, WITHIN_S)
    # A swap that is in no snapshot yet would be lost with the records that are deleted below.
    wait_until(lambda: saved(service, 1) == 1, WITHIN_S, "a snapshot of the first swap")
    send(service, b"x" * 150_000_000, 1, "zstd")
    service.produce([swap(1, token=HOMES[1])], partition=1)
    service.produce([swap(2, token=HOMES[0])], partition=0)
    service.wait_trades(2, WITHIN_S)
    said = "partition 1 is stalled: the batch at offset 1 cannot be read"
    wait_until(lambda: said in json.dumps(readyz(service)), WITHIN_S, "the aggregator to say it")
    assert readyz(service)["ready"] is False
    wait_until(
        lambda: "the batch at offset 1" in service.reasons(), WITHIN_S, "the web node to say it"
    )
    assert metric(service, 'swaps_ingest_unreadable{partition="1"}') == 1
    assert len(service.logged(aggregator, "unreadable")) == 1
    wait_until(
        lambda: (
            {each["token_id"]: each["stale"] for each in service.overview()["tokens"]}
            == {f"ethereum:{HOMES[1]}": True, f"ethereum:{HOMES[0]}": False}
        ),
        WITHIN_S,
        "the tokens of that partition alone to be stale",
    )

    service.delete_records(1, 2)
    service.wait_trades(3, WITHIN_S)
    wait_until(lambda: readyz(service)["ready"] is True, WITHIN_S, "the partition to go on")
    assert metric(service, 'swaps_ingest_unreadable{partition="1"}') == 0
