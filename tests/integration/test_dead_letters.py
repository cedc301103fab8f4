"""Dead letters: listed, shown and replayed by the command, and read by the log."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, Producer, TopicPartition

from aggregator.contracts.records import LogRecord
from aggregator.dead_letters.preview import outlooks
from aggregator.dead_letters.producer import DeadLetters, Rejected
from aggregator.dead_letters.reader import DeadLetterLog, Letter, LetterPosition, replay
from aggregator.member.topics import ensure_topics
from aggregator.runtime.config import Config, load
from aggregator.runtime.errors import BadMessage, Fatal, Retry
from infra.embedded.ports import free_port
from infra.embedded.stack import Stack
from tests.support.processes import wait_until
from tests.support.service import Service, swap

# Each command starts a process, which takes seconds on a busy machine.
pytestmark = [pytest.mark.engines, pytest.mark.timeout(300)]

BYTES = [
    b"not json \xff\x00",
    b'{"chain":"ethereum"}',
    b"",
    None,
    b"\x1b[31mred\x1b[0m\r\nX",
    '{"tokén": "\u202e"}'.encode(),
]


@pytest.fixture
def service(tmp_path: Path, stack: Stack) -> Iterator[Service]:
    """Yield a service with separate topics on the shared engines."""
    made = Service(tmp_path, stack)
    ensure_topics(config_of(made))
    yield made


def config_of(service: Service) -> Config:
    return load(service.env)


def send_letters(
    service: Service, values: list[bytes | None], reasons: tuple[str, ...] = ()
) -> None:
    letters = DeadLetters(service.env["KAFKA_BOOTSTRAP"], f"{service.topic}.dlq")
    letters.send(
        [
            Rejected(
                service.topic,
                LogRecord(number % 3, 100 + number, 0, f"key-{number}".encode(), value),
                BadMessage(reasons[number % len(reasons)] if reasons else "not_json", "f", "why"),
            )
            for number, value in enumerate(values)
        ]
    )
    letters.flush(20)
    letters.close()


def opened(service: Service) -> DeadLetterLog:
    return DeadLetterLog(service.env["KAFKA_BOOTSTRAP"], f"{service.topic}.dlq")


def records(service: Service, count: int) -> list[Message]:
    """Return the records of the swap topic once there are `count`."""
    consumer = Consumer(
        {"bootstrap.servers": service.env["KAFKA_BOOTSTRAP"], "group.id": "look", "log_level": 0}
    )
    try:
        consumer.assign([TopicPartition(service.topic, n, 0) for n in range(4)])
        found: list[Message] = []
        deadline = time.monotonic() + 20
        while len(found) < count:
            assert time.monotonic() < deadline, f"{len(found)} of {count} records"
            found += [each for each in consumer.consume(100, 0.2) if each.error() is None]
        return found
    finally:
        consumer.close()


def test_the_log_shows_letters_as_they_were_send_letters(service: Service) -> None:
    send_letters(service, list(BYTES), ("not_json", "missing"))
    with opened(service) as log:
        (extent,) = log.extents()
        assert (extent.start, extent.end) == (0, len(BYTES))
        letters = log.newest(100)
        assert [each.position.offset for each in letters] == [5, 4, 3, 2, 1, 0]
        assert [each.value for each in reversed(letters)] == BYTES
        first = log.get(LetterPosition(0, 1))
        assert first == letters[4]
        assert (first.reason, first.field, first.detail) == ("missing", "f", "why")
        assert (first.source_topic, first.source_partition) == (service.topic, 1)
        assert (first.source_offset, first.key) == (101, b"key-1")
        assert abs(first.at - time.time() * 1_000) < 60_000
        assert [each.position.offset for each in log.newest(2)] == [5, 4]
        before = log.newest(2, before=LetterPosition(0, 4))
        assert [each.position.offset for each in before] == [3, 2]
        missing = log.newest(10, reason="missing")
        assert [each.position.offset for each in missing] == [5, 3, 1]
        assert [each.position.offset for each in log.all(reason="not_json")] == [0, 2, 4]
        for nowhere in (LetterPosition(0, 6), LetterPosition(3, 0), LetterPosition(0, 2**62)):
            assert log.get(nowhere) is None


def test_more_letters_than_one_read_brings(service: Service) -> None:
    send_letters(service, [b"%d" % number for number in range(1_700)])
    with opened(service) as log:
        assert [each.value for each in log.all()] == [b"%d" % number for number in range(1_700)]
        assert [each.value for each in log.newest(1)] == [b"1699"]


def test_replayed_bytes_go_where_they_came_from(service: Service) -> None:
    send_letters(service, list(BYTES))
    counts: list[int] = []
    with opened(service) as log:
        replay(
            list(log.all()),
            bootstrap=service.env["KAFKA_BOOTSTRAP"],
            source_topic=service.topic,
            partitions=4,
            progress=counts.append,
        )
    found = sorted(records(service, 6), key=lambda each: str(each.key()))
    assert [each.value() for each in found] == BYTES
    assert [each.key() for each in found] == [b"key-%d" % number for number in range(6)]
    assert [each.partition() for each in found] == [0, 1, 2, 0, 1, 2]
    assert [each.headers() for each in found] == [
        [("replayed-from", b"0:%d" % number)] for number in range(6)
    ]
    assert counts == [6]


def test_a_letter_of_another_topic_is_not_replayed(service: Service) -> None:
    letter = Letter(LetterPosition(0, 0), 0, "r", "", "", "elsewhere", 0, 0, None, b"x")
    mine = Letter(LetterPosition(0, 1), 0, "r", "", "", service.topic, 0, 0, None, b"x")
    with pytest.raises(Fatal, match="came from the topic 'elsewhere'"):
        replay(
            [mine, letter],
            bootstrap=service.env["KAFKA_BOOTSTRAP"],
            source_topic=service.topic,
            partitions=4,
        )
    send_letters(service, [b"only"])
    service.produce([b"marker"])
    assert [each.value() for each in records(service, 1)] == [b"marker"], "not even the first"


def test_kafka_that_is_down_is_told() -> None:
    with (
        DeadLetterLog(f"127.0.0.1:{free_port()}", "x.dlq") as log,
        pytest.raises(Retry, match="kafka at 127"),
    ):
        log.newest(1)


def test_a_topic_that_is_not_there_holds_nothing(stack: Stack) -> None:
    with DeadLetterLog(stack.env()["KAFKA_BOOTSTRAP"], "never-made.dlq") as log:
        assert log.extents() == []
        assert log.newest(10) == []
        assert log.get(LetterPosition(0, 0)) is None


@pytest.mark.parametrize("text", ["", ":", "a", "-1", "1:", ":1", "0:-1", "1:2:3", "٣", "1" * 40])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a position"):
        LetterPosition.parse(text)


def test_positions_are_read_as_they_are_written() -> None:
    for position in (LetterPosition(0, 0), LetterPosition(3, 12), LetterPosition(0, 2**63 - 1)):
        assert LetterPosition.parse(str(position)) == position
    assert LetterPosition.parse("12") == LetterPosition(0, 12)


def test_the_command(service: Service) -> None:
    send_letters(service, list(BYTES), ("not_json", "rule"))
    listed = service.manage("dead_letters", "list")
    assert listed.returncode == 0, listed.stderr
    lines = listed.stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["0:5", "0:4", "0:3", "0:2", "0:1", "0:0"]
    assert "6 shown of 6 in the topic" in listed.stderr
    assert "\x1b" not in listed.stdout and "\u202e" not in listed.stdout
    of_reason = service.manage("dead_letters", "list", "--reason", "rule", "--limit", "2", "--json")
    found = [json.loads(line) for line in of_reason.stdout.splitlines()]
    assert [(each["position"], each["reason"]) for each in found] == [
        ("0:5", "rule"),
        ("0:3", "rule"),
    ]

    shown = service.manage("dead_letters", "show", "0:1")
    assert "came from: " in shown.stdout and f"{service.topic} 1:101" in shown.stdout
    assert shown.stdout.splitlines()[-1] == '{"chain":"ethereum"}'
    raw = service.manage("dead_letters", "show", "1", "--raw")
    assert raw.stdout == '{"chain":"ethereum"}'

    dry = service.manage("dead_letters", "replay", "--all", "--dry-run")
    assert "0 of 6 would pass now" in dry.stdout
    assert "\x1b" not in dry.stdout and "\u202e" not in dry.stdout
    sent = service.manage("dead_letters", "replay", "1", "0:3", "--force")
    assert sent.returncode == 0, sent.stderr
    assert f"2 letters replayed to {service.topic}" in sent.stdout
    assert "sent 2 of 2" in sent.stderr
    logged = [json.loads(line) for line in sent.stdout.splitlines() if line.startswith("{")]
    assert [(each["event"], each["position"], each["by"]) for each in logged] == [
        ("dead_letter_replayed", "0:1", "manage.py"),
        ("dead_letter_replayed", "0:3", "manage.py"),
    ]
    assert {each.value() for each in records(service, 2)} == {b'{"chain":"ethereum"}', None}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["show", "7"], "there is no dead letter 0:7"),
        (["show", "x"], "not a position"),
        (["replay"], "give positions, or --all"),
        (["replay", "1", "--all"], "give positions, or --all"),
        (["replay", "1", "--reason", "rule"], "--reason goes with --all"),
        (["replay", "9"], "there is no dead letter 0:9"),
        (["list", "--limit", "0"], "--limit: give 1 or more"),
        ([], "required: command"),
    ],
)
def test_the_command_says_what_is_wrong(service: Service, arguments: list[str], said: str) -> None:
    done = service.manage("dead_letters", *arguments)
    assert done.returncode != 0
    assert said in done.stderr


def test_a_replayed_swap_counts_once(tmp_path: Path, stack: Stack) -> None:
    """After the cause is fixed (MAX_FUTURE is raised), two replays of a letter add one trade."""
    ahead = swap(1, timestamp=time.time_ns() // 1_000_000 + 600_000)
    with Service(tmp_path, stack) as service:
        first = service.aggregator()
        service.web()
        service.wait_ready(120)
        service.produce([swap(0), ahead])
        (letter,) = service.dead_letters(1, 120)
        assert dict(letter.headers() or [])["reason"] == b"future"
        service.wait_trades(1, 120)
        first.terminate()
        first.wait(60)
        service.aggregator("fixed", MAX_FUTURE="20m")
        service.wait_ready(120)
        for _ in range(2):
            done = service.manage("dead_letters", "replay", "0", MAX_FUTURE="20m")
            assert done.returncode == 0, done.stderr

        def replayed() -> int:
            partitions = service.get("/api/status").json()["partitions"]
            return sum(each["tallies"]["duplicates"] for each in partitions)

        wait_until(lambda: replayed() == 1, 120, "the second is a repeat")


def test_only_what_would_pass_is_replayed(service: Service) -> None:
    """Of six letters the current rules accept four; the dead-letter topic does not change."""
    bad = [swap(5, side="hold"), b"{"]
    send_letters(service, [swap(1), swap(2, symbol="x" * 300), bad[0], swap(3), bad[1], swap(4)])
    dry = service.manage("dead_letters", "replay", "--all", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    lines = dry.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:6]] == [
        ["0:0", "passes"],
        ["0:1", "passes"],
        ["0:2", "refused"],
        ["0:3", "passes"],
        ["0:4", "refused"],
        ["0:5", "passes"],
    ]
    assert "refused again: rule: side: Invalid enum value 'hold'" in lines[2]
    assert lines[6] == "4 of 6 would pass now"
    service.produce([b"nothing before"])

    sent = service.manage("dead_letters", "replay", "--all")
    assert sent.returncode == 0, sent.stderr
    assert f"4 letters replayed to {service.topic}" in sent.stdout
    assert "2 skipped: they would be refused again" in sent.stdout
    assert "skipped 0:2" in sent.stderr and "skipped 0:4" in sent.stderr
    found = {each.value() for each in records(service, 5)}
    assert len(found) == 5 and not found & set(bad)

    none = service.manage("dead_letters", "replay", "2", "4")
    assert f"0 letters replayed to {service.topic}" in none.stdout
    forced = service.manage("dead_letters", "replay", "2", "4", "--force")
    assert f"2 letters replayed to {service.topic}" in forced.stdout
    assert set(bad) < {each.value() for each in records(service, 7)}


def send_cut_letter(service: Service, value: bytes) -> int:
    """Produce a message and its letter, which is too large for the dead-letter topic."""
    bootstrap = service.env["KAFKA_BOOTSTRAP"]
    producer = Producer(
        {
            "bootstrap.servers": bootstrap,
            "compression.type": "zstd",
            "message.max.bytes": 20_000_000,
        }
    )
    offsets: list[int] = []
    producer.produce(
        service.topic, value, "k", 2, on_delivery=lambda _, sent: offsets.append(sent.offset())
    )
    assert producer.flush(20) == 0
    letters = DeadLetters(bootstrap, f"{service.topic}.dlq")
    record = LogRecord(2, offsets[0], 0, b"k", value)
    letters.send([Rejected(service.topic, record, BadMessage("rule", "symbol", "too long"))])
    letters.flush(20)
    letters.close()
    return offsets[0]


def test_a_cut_letter_is_replayed_from_where_it_came_from(service: Service) -> None:
    """3 MB that compress well: cut in the dead-letter topic, complete in the swap topic."""
    value = swap(1, symbol="y" * 3_000_000)
    service.produce([b"before"], partition=2)
    offset = send_cut_letter(service, value)
    shown = service.manage("dead_letters", "show", "0").stdout
    assert f"bytes:     the first 65,536 of {len(value):,}" in shown
    assert f"came from: {service.topic} 2:{offset}" in shown
    assert "original:  still in Kafka" in shown
    dry = service.manage("dead_letters", "replay", "0", "--dry-run")
    assert "1 of 1 would pass now" in dry.stdout
    done = service.manage("dead_letters", "replay", "0")
    assert f"1 letters replayed to {service.topic}" in done.stdout, done.stderr
    assert [each.value() for each in records(service, 3)] == [b"before", value, value]

    service.delete_records(2, offset + 1)
    assert "original:  no longer in Kafka" in service.manage("dead_letters", "show", "0").stdout
    for force in ([], ["--force"]):
        gone = service.manage("dead_letters", "replay", "0", *force)
        assert f"0 letters replayed to {service.topic}" in gone.stdout
        assert f"{service.topic} 2:{offset} is no longer in Kafka" in gone.stderr


def test_another_message_at_its_place_is_not_the_original(service: Service) -> None:
    """This happens after the topic was created again."""
    service.produce([b"another", b"and another"], partition=2)
    letter = Letter(
        LetterPosition(0, 0), 0, "r", "", "", service.topic, 2, 1, None, b"x", 3_000_000, "00ff"
    )
    (outlook,) = outlooks([letter], config_of(service))
    assert "no longer in Kafka" in outlook.refusal
    assert not outlook.sent(force=True)
    with pytest.raises(Fatal, match="0:0 is cut; the original is"):
        replay(
            [letter],
            bootstrap=service.env["KAFKA_BOOTSTRAP"],
            source_topic=service.topic,
            partitions=4,
        )
