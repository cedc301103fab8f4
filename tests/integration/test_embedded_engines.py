"""Each engine of the embedded stack gives a real client what the service needs."""

from __future__ import annotations

import hashlib
import hmac
import http.client
from collections.abc import Iterator
from datetime import UTC, datetime
from uuid import uuid4

import nats
import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from nats.aio.msg import Msg
from redis import Redis as RedisClient

from infra.embedded.s3 import S3
from infra.embedded.stack import Stack


@pytest.fixture
def topic(stack: Stack) -> Iterator[str]:
    name = f"embedded-{uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": stack.kafka.address})
    admin.create_topics([NewTopic(name, 2, 1)])[name].result(10)
    yield name
    admin.delete_topics([name])[name].result(10)


def send(stack: Stack, topic: str, count: int) -> None:
    producer = Producer({"bootstrap.servers": stack.kafka.address, "enable.idempotence": True})
    for number in range(count):
        producer.produce(topic, b"%d" % number, partition=number % 2, timestamp=1_000 + number)
    assert producer.flush(10) == 0


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_kafka_serves_a_group_of_either_protocol(stack: Stack, topic: str, protocol: str) -> None:
    send(stack, topic, 20)
    consumer = Consumer(
        {
            "bootstrap.servers": stack.kafka.address,
            "group.id": topic,
            "group.protocol": protocol,
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
        }
    )
    try:
        consumer.subscribe([topic])
        got = consumer.consume(20, timeout=15)
        assert sorted(int(message.value() or b"") for message in got) == list(range(20))

        # Exactly-once needs metadata with a commit, lookup by time, and high watermarks.
        intent = TopicPartition(topic, 0, 7, metadata="x" * 4_000)
        consumer.commit(offsets=[intent], asynchronous=False)
        (stored,) = consumer.committed([TopicPartition(topic, 0)], timeout=10)
        assert (stored.offset, stored.metadata) == (7, "x" * 4_000)
        (at,) = consumer.offsets_for_times([TopicPartition(topic, 0, 1_011)], timeout=10)
        assert at.offset == 6
        assert consumer.get_watermark_offsets(TopicPartition(topic, 1), timeout=10) == (0, 10)
    finally:
        consumer.close()


def test_kafka_creates_no_topic_automatically(stack: Stack) -> None:
    unknown = f"never-made-{uuid4().hex}"
    metadata = AdminClient({"bootstrap.servers": stack.kafka.address}).list_topics(unknown, 10)
    assert metadata.topics[unknown].error is not None
    assert "Unknown topic" in str(metadata.topics[unknown].error)


def test_redis_is_set_as_the_service_needs_it(stack: Stack) -> None:
    with RedisClient.from_url(stack.redis.url) as client:
        wanted = {"appendonly": "yes", "appendfsync": "everysec", "maxmemory-policy": "noeviction"}
        assert client.config_get(*wanted) == wanted
        key = f"embedded:{uuid4().hex}"
        assert client.set(key, b"0:7", nx=True, get=True, ex=60) is None
        assert client.set(key, b"0:8", nx=True, get=True, ex=60) == b"0:7"
        client.delete(key)


async def test_nats_answers_requests(stack: Stack) -> None:
    client = await nats.connect(stack.nats.url)
    subject = f"embedded.{uuid4().hex}"

    async def answer(message: Msg) -> None:
        await message.respond(message.data[::-1])

    await client.subscribe(subject, cb=answer)
    assert (await client.request(subject, b"abc", timeout=5)).data == b"cba"
    await client.close()


def test_s3_needs_the_keys(stack: Stack) -> None:
    bucket = f"embedded-{uuid4().hex}"
    assert signed(stack.s3, "PUT", f"/{bucket}")[0] == 200
    assert signed(stack.s3, "PUT", f"/{bucket}/a/b.bin", b"cold data")[0] == 200
    assert signed(stack.s3, "GET", f"/{bucket}/a/b.bin") == (200, b"cold data")

    status, refusal = signed(stack.s3, "GET", f"/{bucket}/a/b.bin", secret="guessed")
    assert status == 403
    assert b"SignatureDoesNotMatch" in refusal


def signed(
    s3: S3, method: str, path: str, body: bytes = b"", secret: str | None = None
) -> tuple[int, bytes]:
    """Send a request signed with AWS Signature Version 4 ("Create a signed AWS API request")."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/us-east-1/s3/aws4_request"
    digest = hashlib.sha256(body).hexdigest()
    headers = {"host": s3.address, "x-amz-content-sha256": digest, "x-amz-date": stamp}
    names = ";".join(headers)
    listed = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = f"{method}\n{path}\n\n{listed}\n{names}\n{digest}"
    hashed = hashlib.sha256(canonical.encode()).hexdigest()
    key = f"AWS4{secret or s3.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}"
    signature = hmac.digest(key, text.encode(), "sha256").hex()
    headers["authorization"] = (
        f"AWS4-HMAC-SHA256 Credential={s3.access_key}/{scope}, "
        f"SignedHeaders={names}, Signature={signature}"
    )
    connection = http.client.HTTPConnection(s3.address, timeout=5)
    try:
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
