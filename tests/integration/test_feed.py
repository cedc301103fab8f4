"""`manage.py feed` as a child process with a real broker: its output, and what arrives in Kafka."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.processes import wait_until

ROOT = Path(__file__).parents[2]
PARTITIONS = 4


class Feed:
    """Starts feeds into a separate topic, and reads what they wrote."""

    def __init__(self, bootstrap: str, topic: str) -> None:
        self.bootstrap = bootstrap
        self.topic = topic

    def start(self, *arguments: str | Path, **env: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "manage.py", "feed", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, "KAFKA_BOOTSTRAP": self.bootstrap, "KAFKA_TOPIC": self.topic, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: str | Path, status: int = 0, **env: str) -> str:
        """Run a feed to its end; return its stderr."""
        process = self.start(*arguments, **env)
        out, stderr = process.communicate(timeout=60)
        assert (process.returncode, out) == (status, ""), stderr
        return stderr

    def make(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        admin.create_topics([NewTopic(self.topic, PARTITIONS, 1)])[self.topic].result(10)

    def delete(self) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap})
        names = [name for name in admin.list_topics(timeout=10).topics if self.topic in name]
        for future in admin.delete_topics(names).values() if names else ():
            future.result(10)

    def count(self) -> int:
        """Return the number of messages in the topic; 0 while a new topic has no leaders yet."""
        try:
            return sum(self.ends().values())
        except KafkaException:
            return 0

    def ends(self) -> dict[int, int]:
        """Return the end offset of each partition."""
        consumer = self._consumer()
        try:
            return {
                partition: consumer.get_watermark_offsets(
                    TopicPartition(self.topic, partition), timeout=10
                )[1]
                for partition in range(PARTITIONS)
            }
        finally:
            consumer.close()

    def messages(self) -> list[Message]:
        """Return every message of the topic, each partition in log order."""
        wanted = sum(self.ends().values())
        consumer = self._consumer()
        got: list[Message] = []
        try:
            consumer.assign(
                [TopicPartition(self.topic, n, OFFSET_BEGINNING) for n in range(PARTITIONS)]
            )
            deadline = time.monotonic() + 30
            while len(got) < wanted:
                assert time.monotonic() < deadline, f"{len(got)} of {wanted} messages"
                got += consumer.consume(1_000, timeout=0.5)
        finally:
            consumer.close()
        return got

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": self.topic,
                "enable.auto.commit": False,
            }
        )


@pytest.fixture
def feed(stack: Stack) -> Iterator[Feed]:
    feed = Feed(stack.kafka.address, f"feed-{uuid4().hex}")
    feed.make()
    yield feed
    feed.delete()


def events_file(path: Path, times: list[int | str]) -> Path:
    tokens = ["USDC", "0x" + "Ab" * 20, "0x" + "aB" * 20]
    lines = [
        json.dumps(
            {
                "chain": "base",
                "tx_hash": f"0x{n:064x}",
                "log_index": n,
                "timestamp": time_,
                "token": tokens[n % len(tokens)],
                "side": "buy",
                "amount": "1.50",
                "amount_usd": None,
            }
        )
        for n, time_ in enumerate(times)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_history_has_the_times_of_its_events_and_no_record_is_in_the_future(
    feed: Feed, tmp_path: Path
) -> None:
    begun = time.time_ns() // 1_000_000
    feed.run("--synthetic", "--events", "500", "--span", "30h", "--tokens", "20", "--seed", "1")
    messages = feed.messages()
    assert len(messages) == 500
    for message in messages:
        assert message.timestamp()[1] == json.loads(message.value() or b"")["timestamp"]
    feed.run(events_file(tmp_path / "events.ndjson", [1_000, begun + 60_000, begun - 60_000]))
    stamps = {
        event["timestamp"]: message.timestamp()[1]
        for message in feed.messages()
        if (event := json.loads(message.value() or b""))["chain"] == "base" and "venue" not in event
    }
    assert stamps[begun - 60_000] == begun - 60_000
    for unfit in (1_000, begun + 60_000):
        assert begun <= stamps[unfit] <= time.time_ns() // 1_000_000


def test_a_file_arrives_byte_for_byte_keyed_by_token_with_its_garbage(
    feed: Feed, tmp_path: Path
) -> None:
    path = events_file(tmp_path / "events.ndjson", list(range(1_000, 1_300)))
    with path.open("ab") as file:
        file.write(b'not json \xff\n{"chain":"base"}\n')
    stderr = feed.run(path)
    assert "fed 302 events" in stderr
    assert "2 unreadable, sent as they are, 0 not delivered" in stderr
    messages = feed.messages()
    assert sorted(m.value() or b"" for m in messages) == sorted(path.read_bytes().splitlines())
    partitions = defaultdict(set)
    keys: Counter[bytes | None] = Counter()
    for message in messages:
        keys[message.key()] += 1
        partitions[message.key()].add(message.partition())
    assert keys == {b"base:USDC": 100, b"base:0x" + b"ab" * 20: 200, None: 2}
    assert all(len(where) == 1 for key, where in partitions.items() if key is not None)


def test_each_partition_keeps_the_order_of_the_file(feed: Feed, tmp_path: Path) -> None:
    feed.run(events_file(tmp_path / "events.ndjson", list(range(5_000))))
    by_partition = defaultdict(list)
    for message in feed.messages():
        by_partition[message.partition()].append(json.loads(message.value() or b"")["log_index"])
    assert sum(map(len, by_partition.values())) == 5_000
    assert all(indices == sorted(indices) for indices in by_partition.values())


def test_shift_to_now_moves_the_newest_event_to_now_and_keeps_the_spacing(
    feed: Feed, tmp_path: Path
) -> None:
    path = events_file(
        tmp_path / "events.ndjson",
        [1_650_000_000_000, "2022-04-15T05:20:07.250Z", 1_650_000_001_000],
    )
    before = time.time() * 1_000
    feed.run(path, "--shift-to-now")
    after = time.time() * 1_000
    times = {}
    for message in feed.messages():
        event = json.loads(message.value() or b"")
        times[event["log_index"]] = event["timestamp"]
    assert before - 1 <= times[1] <= after
    assert (times[1] - times[0], times[1] - times[2]) == (7_250, 6_250)


def test_duplicates_are_resent_byte_for_byte_and_counted(feed: Feed, tmp_path: Path) -> None:
    path = events_file(tmp_path / "events.ndjson", list(range(3_000)))
    stderr = feed.run(path, "--duplicates", "0.1", "--seed", "4")
    values = Counter(message.value() for message in feed.messages())
    assert set(values) == set(path.read_bytes().splitlines())
    repeats = sum(number - 1 for number in values.values())
    assert set(values.values()) == {1, 2}
    assert 200 < repeats < 400
    assert f"fed {3_000 + repeats:,} events" in stderr
    assert f"{repeats} of them repeats" in stderr


def test_live_trades_are_new_ones_until_a_signal_ends_them_cleanly(
    feed: Feed, tmp_path: Path
) -> None:
    path = events_file(tmp_path / "events.ndjson", [1_000, 2_000])
    begun = time.time() * 1_000
    process = feed.start("--live", path, "--rate", "50", "--loop")
    try:
        wait_until(lambda: feed.count() >= 20, 30, "20 live trades")
    finally:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    messages = feed.messages()
    assert f"fed {len(messages)} events" in stderr
    assert "0 not delivered" in stderr
    events = [json.loads(message.value() or b"") for message in messages]
    assert len({(event["tx_hash"], event["log_index"]) for event in events}) == len(events)
    for message, event in zip(messages, events, strict=True):
        assert begun <= event["timestamp"] <= message.timestamp()[1]
        assert message.timestamp()[1] - event["timestamp"] < 1_000


def test_a_continued_day_can_be_sent_in_pieces_and_again_and_goes_on_in_the_present(
    feed: Feed, tmp_path: Path
) -> None:
    day = 1_650_412_800_000
    path = events_file(tmp_path / "day.ndjson", [day + n * 250 for n in range(4 * 3_600)])
    now = time.time_ns() // 1_000_000
    options = (path, "--continue", "--origin", now - 1_800_000)
    for since, until in ((now - 600_000, now - 60_000), (now - 120_000, now)):
        feed.run(*options, "--since", since, "--until", until)
    sent = feed.messages()
    ids = [json.loads(message.value() or b"")["tx_hash"] for message in sent]
    # There is a trade every quarter of a second, and one minute of them was sent twice.
    assert (len(ids), len(set(ids))) == (4 * 660, 4 * 600)

    process = feed.start(*options, "--since", now - 1_000)
    try:
        wait_until(lambda: feed.count() >= len(sent) + 12, 60, "live trades")
    finally:
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=20)
    assert process.returncode == 0, stderr
    assert "events, caught up with the present" in stderr
    known, repeats = Counter(ids), 0
    for message in feed.messages():
        event = json.loads(message.value() or b"")
        if known[event["tx_hash"]] > 0:
            known[event["tx_hash"]] -= 1
        elif event["tx_hash"] in ids:
            repeats += 1
        else:
            assert now < event["timestamp"] <= message.timestamp()[1]
    # The four events of the second before its start were sent before.
    assert repeats == 4


def test_an_even_rate_is_held(feed: Feed) -> None:
    begun = time.monotonic()
    stderr = feed.run("--synthetic", "--rate", "400", "--events", "800", "--tokens", "10")
    assert time.monotonic() - begun >= 799 / 400
    assert "fed 800 events" in stderr
    stamps = sorted(json.loads(m.value() or b"")["timestamp"] for m in feed.messages())
    assert stamps[-1] - stamps[0] == pytest.approx(799 / 400 * 1_000, rel=0.2)


def test_speed_replays_the_recorded_spacing(feed: Feed, tmp_path: Path) -> None:
    path = events_file(tmp_path / "events.ndjson", [0, 10_000, 20_000])
    feed.run(path, "--speed", "20")
    sent = sorted(message.timestamp()[1] for message in feed.messages())
    assert [second - first for first, second in pairwise(sent)] == [pytest.approx(500, abs=300)] * 2


def test_synthetic_events_repeat_by_their_seed(feed: Feed) -> None:
    arguments = (
        "--synthetic", "--events", "2000", "--tokens", "30", "--span", "1h",
        "--end", "1700000000000", "--seed", "9",
    )  # fmt: skip
    assert "seed 9" in feed.run(*arguments)
    feed.run(*arguments)
    values = Counter(message.value() for message in feed.messages())
    assert set(values.values()) == {2}
    assert len(values) == 2_000
    times = [json.loads(value or b"")["timestamp"] for value in values]
    assert 1_700_000_000_000 - 3_620_000 <= min(times) <= max(times) <= 1_700_000_000_000


def test_a_missing_topic_is_named_and_made_only_when_asked(stack: Stack) -> None:
    feed = Feed(stack.kafka.address, f"feed-{uuid4().hex}")
    try:
        stderr = feed.run("--synthetic", "--events", "5", status=1)
        assert f"topic {feed.topic} (KAFKA_TOPIC) does not exist" in stderr
        assert "run the aggregator first" in stderr
        assert "Traceback" not in stderr
        feed.run(
            "--synthetic", "--events", "5", "--create-topic", KAFKA_DLQ_TOPIC=f"{feed.topic}.dlq"
        )
        assert len(feed.messages()) == 5
    finally:
        feed.delete()


def test_a_broker_that_does_not_answer_is_named() -> None:
    nobody = f"127.0.0.1:{free_port()}"
    stderr = Feed(nobody, "feed").run("--synthetic", "--events", "5", status=1)
    assert f"no Kafka broker answers at {nobody} (KAFKA_BOOTSTRAP)" in stderr
    assert "Traceback" not in stderr


def test_a_missing_file_is_named(feed: Feed, tmp_path: Path) -> None:
    stderr = feed.run(tmp_path / "nowhere.gz", status=1)
    assert "no such file" in stderr
    assert "nowhere.gz" in stderr
    assert "Traceback" not in stderr


def test_what_was_read_before_a_damage_is_delivered_and_the_damage_is_reported(
    feed: Feed, tmp_path: Path
) -> None:
    path = events_file(tmp_path / "events.ndjson", list(range(2_000)))
    damaged = tmp_path / "damaged.gz"
    damaged.write_bytes(gzip.compress(path.read_bytes())[:-20])
    stderr = feed.run(damaged, status=1)
    assert "damaged.gz cannot be read" in stderr
    arrived = len(feed.messages())
    assert arrived > 0
    assert f"fed {arrived:,} events" in stderr


def test_events_that_the_broker_refuses_are_counted_in_the_exit_status(
    feed: Feed, tmp_path: Path
) -> None:
    path = events_file(tmp_path / "events.ndjson", [1, 2])
    with path.open("a") as file:
        file.write("x" * 2_000_000 + "\n")
    stderr = feed.run(path, status=1)
    assert "1 not delivered" in stderr
    assert "not delivered: 1; the first: " in stderr
    assert len(feed.messages()) == 2
