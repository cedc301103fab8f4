"""What leaves a member: forwards in order without a hole, dead letters at least once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.contracts.records import LogRecord, origin_header, origin_of
from aggregator.dead_letters.producer import KEPT_BYTES, Rejected
from aggregator.member import outbox as outboxes
from aggregator.member.outbox import Outbox
from aggregator.runtime.config import load
from aggregator.runtime.errors import BadMessage, Retry
from tests.unit.member.broker import Broker, Message
from tests.unit.member.toys import Clock

TOPIC, LETTERS = "raw-swaps", "raw-swaps.dlq"
NOW_MS = 1_700_000_100_000


class Sender:
    """An outbox on a broker of a test."""

    def __init__(self, seed: int = 0) -> None:
        self.broker = Broker(seed)
        self.clock = Clock()
        self.outbox = Outbox(
            load({}), producers=self.broker.producer, now_ms=lambda: NOW_MS, clock=self.clock
        )

    def poll(self, count: int = 1, pause_s: float = 0.1) -> None:
        for _ in range(count):
            self.clock.now += pause_s
            self.outbox.poll()

    def settle(self) -> None:
        """Poll until nothing is outstanding."""
        for _ in range(1_000):
            if all(self.outbox.lowest(each) is None for each in range(4)):
                return
            self.poll()
        raise AssertionError(self.outbox.fault)


@pytest.fixture
def sender() -> Sender:
    return Sender()


def record(offset: int, partition: int = 0, value: bytes | None = b"v") -> LogRecord:
    return LogRecord(partition, offset, 1_700_000_000_000 + offset, b"k", value, ())


def rejected(offset: int, partition: int = 0, value: bytes | None = b"v") -> Rejected:
    return Rejected(TOPIC, record(offset, partition, value), BadMessage("rule", "side", "why"))


def origins(broker: Broker, home: int) -> list[tuple[int, int] | None]:
    return [origin_of(list(each.headers.items())) for each in broker.logs[TOPIC, home]]


def test_a_forward_is_the_record_with_an_origin_and_a_new_timestamp(sender: Sender) -> None:
    old = LogRecord(3, 17, 1_700_000_000_000, b"k", b"v", [("trace", b"1"), ("origin", b"mine")])
    late = LogRecord(3, 18, NOW_MS + 5, None, None, ())
    sender.outbox.forward([old, late], [1, 1])
    sender.settle()
    first, second = sender.broker.logs[TOPIC, 1]
    assert (first.key, first.value, first.timestamp) == (b"k", b"v", NOW_MS)
    assert first.names == ["trace", "origin", "origin"]
    assert first.headers == {"trace": b"1", "origin": b"3:17:1700000000000"}
    assert (second.key, second.value, second.timestamp) == (None, None, NOW_MS + 5)
    assert origins(sender.broker, 1) == [(3, 17), (3, 18)]


@pytest.mark.parametrize(
    ("headers", "origin"),
    [
        ([], None),
        ([("origin", b"1:2:3")], (1, 2)),
        ([("origin", b"1:2:-1")], (1, 2)),
        ([("origin", b"1:2:3"), ("origin", b"4:5:6")], (4, 5)),
        ([("origin", b"1:2:3"), ("origin", b"chain")], (1, 2)),
        ([("origin", None)], None),
        ([("origin", b"1:2")], None),
        ([("origin", b"-1:2:3")], None),
        ([("origin", b" 1:2:3")], None),
        ([("origin", "\uff11:2:3".encode())], None),
        ([("origin", b"2147483648:2:3")], None),
        ([("origin", b"1:9223372036854775808:3")], None),
        ([("Origin", b"1:2:3")], None),
    ],
)
def test_origins(headers: list[tuple[str, bytes | None]], origin: tuple[int, int] | None) -> None:
    assert origin_of(headers) == origin


def test_an_origin_is_read_back() -> None:
    assert origin_of([origin_header(record(2**62, 7))]) == (7, 2**62)


def test_what_is_not_acknowledged_is_outstanding(sender: Sender) -> None:
    sender.broker.trouble = {"hold": 1.0}
    sender.outbox.forward([record(5), record(9)], [1, 2])
    sender.outbox.reject([rejected(7), rejected(3, partition=1)])
    sender.poll(3)
    assert [sender.outbox.lowest(each) for each in range(3)] == [5, 3, None]
    assert [sender.outbox.outstanding(each) for each in range(3)] == [3, 1, 0]
    assert sender.outbox.outstanding_bytes(0) > 0
    sender.broker.trouble = {}
    sender.settle()
    assert [sender.outbox.outstanding_bytes(each) for each in range(3)] == [0, 0, 0]


def test_only_the_partition_that_has_much_outstanding_has_no_room(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "MOST_OUTSTANDING", 10)
    sender.broker.trouble = {"hold": 1.0}
    sender.outbox.forward([record(each) for each in range(9)], [1] * 9)
    assert sender.outbox.has_room(0)
    sender.outbox.reject([rejected(9)])
    assert not sender.outbox.has_room(0)
    assert sender.outbox.has_room(1)
    sender.broker.trouble = {}
    sender.settle()
    assert sender.outbox.has_room(0)


def test_bytes_are_bounded_too(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outboxes, "MOST_BYTES", 5_000)
    sender.broker.trouble = {"hold": 1.0}
    sender.outbox.forward([record(1, value=b"x" * 6_000)], [1])
    assert not sender.outbox.has_room(0)


def test_a_slow_broker_is_a_fault(sender: Sender) -> None:
    sender.broker.trouble = {"hold": 1.0}
    sender.outbox.forward([record(5)], [3])
    sender.poll(5)
    assert sender.outbox.fault == ""
    sender.poll(100)
    assert "partition 0 for partition 3 is not acknowledged for 1" in sender.outbox.fault
    with pytest.raises(Retry, match="offset 5 is not acknowledged"):
        sender.outbox.flush(0, 0.0)
    sender.broker.trouble = {}
    sender.settle()
    assert sender.outbox.fault == ""
    sender.outbox.flush(0, 0.0)


def test_after_a_failure_everything_is_sent_again_in_order(sender: Sender) -> None:
    sender.broker.trouble = {"fail": 1.0}
    sender.outbox.forward([record(each) for each in range(5)], [1] * 5)
    sender.poll(1, pause_s=0.0)
    assert "forwards: " in sender.outbox.fault
    sender.broker.trouble = {}
    sender.settle()
    assert sender.broker.values(TOPIC, 1) == [b"v"] * 5
    assert origins(sender.broker, 1) == [(0, each) for each in range(5)]
    assert len(sender.broker.producers) == 2
    assert sender.broker.producers[0].purged
    assert sender.outbox.fault == ""


def test_failures_in_a_row_back_off(sender: Sender) -> None:
    sender.broker.trouble = {"fail": 1.0}
    sender.outbox.forward([record(0)], [1])
    sender.poll(3_000, pause_s=0.01)
    assert 5 <= len(sender.broker.producers) <= 20, "in 30 s"


def test_a_batch_that_is_too_large_together_is_sent_one_by_one(sender: Sender) -> None:
    sender.broker.most_bytes = 300
    records = [record(each, value=b"x" * 100) for each in range(200)]
    sender.outbox.forward(records, [1] * 200)
    sender.settle()
    assert list(dict.fromkeys(origins(sender.broker, 1))) == [(0, each) for each in range(200)]
    assert sender.broker.values(LETTERS) == []
    sender.broker.most_bytes = 10_000
    sender.outbox.forward([record(200)], [1])
    sender.settle()
    assert "batch.num.messages" not in sender.broker.producers[-1].settings, "large batches again"


def test_a_forward_that_its_topic_refuses_becomes_a_dead_letter(sender: Sender) -> None:
    records = [record(each, value=b"%d" % each) for each in range(20)]
    records[7] = record(7, value=b"x" * 10_000)
    records[12] = record(12, value=b"y" * 10_000)
    sender.outbox.forward(records, [1] * 20)
    sender.settle()
    kept = dict.fromkeys(origins(sender.broker, 1))
    assert list(kept) == [(0, each) for each in range(20) if each not in (7, 12)]
    letters = sender.broker.logs[LETTERS, -1]
    assert [each.headers["source-offset"] for each in letters] == [b"7", b"12"]
    assert {each.headers["reason"] for each in letters} == {b"too_large"}
    assert sender.outbox.lowest(0) is None


def test_one_that_the_client_refuses_holds_up_nothing(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_LARGEST_BYTES", 5_000)
    small = Sender()
    small.outbox.forward([record(0), record(1, value=b"x" * 6_000), record(2)], [1] * 3)
    small.settle()
    assert origins(small.broker, 1) == [(0, 0), (0, 2)]
    assert len(small.broker.logs[LETTERS, -1]) == 1


def test_a_full_client_takes_the_rest_later(sender: Sender) -> None:
    sender.outbox.forward([record(0)], [1])
    sender.broker.producers[0].queue_limit = 3
    sender.outbox.forward([record(each) for each in range(1, 20)], [1] * 19)
    sender.settle()
    assert origins(sender.broker, 1) == [(0, each) for each in range(20)]


def test_a_dropped_partition_is_forgotten(sender: Sender) -> None:
    sender.broker.trouble = {"fail": 1.0}
    sender.outbox.forward([record(5), record(6, 1)], [2, 2])
    sender.outbox.reject([rejected(7)])
    sender.poll()
    sender.outbox.drop(0)
    assert sender.outbox.lowest(0) is None
    sender.broker.trouble = {}
    sender.settle()
    assert origins(sender.broker, 2) == [(1, 6)]
    sender.outbox.forward([record(5)], [2])
    sender.settle()
    assert origins(sender.broker, 2) == [(1, 6), (0, 5)]


def test_close_sends_nothing_more(sender: Sender) -> None:
    sender.broker.trouble = {"hold": 1.0}
    sender.outbox.forward([record(5)], [1])
    sender.outbox.reject([rejected(6)])
    sender.outbox.close()
    assert [each.purged for each in sender.broker.producers] == [True, True]
    assert sender.outbox.lowest(0) is None


# Dead letters.


def letters_of(broker: Broker) -> dict[int, Message]:
    """The last letter of each offset."""
    found = broker.logs[LETTERS, -1]
    return {int(each.headers["source-offset"]): each for each in found}


def test_a_letter_says_where_it_comes_from_and_why(sender: Sender) -> None:
    sender.outbox.reject([rejected(7, 3, b"bad")])
    sender.settle()
    [letter] = sender.broker.logs[LETTERS, -1]
    assert (letter.value, letter.key) == (b"bad", b"k")
    said = {name: value for name, value in letter.headers.items() if name != "at"}
    assert said == {
        "reason": b"rule",
        "field": b"side",
        "detail": b"why",
        "source-topic": b"raw-swaps",
        "source-partition": b"3",
        "source-offset": b"7",
    }


def test_letters_are_sent_again_until_they_are_acknowledged(sender: Sender) -> None:
    sender.broker.trouble = {"fail": 1.0}
    sender.outbox.reject([rejected(each) for each in range(20)])
    sender.poll(3_000, pause_s=0.01)
    assert "dead letters: " in sender.outbox.fault
    assert sender.outbox.lowest(0) == 0
    sender.broker.trouble = {"fail": 0.3}
    sender.settle()
    assert sorted(letters_of(sender.broker)) == list(range(20))
    assert sender.outbox.fault == ""


def test_a_letter_is_cut_only_if_it_is_too_large_alone(sender: Sender) -> None:
    sender.broker.most_bytes = KEPT_BYTES + 200
    values = {each: bytes([each]) * 20_000 for each in range(20)}
    values[20] = b"x" * (KEPT_BYTES * 2)
    sender.outbox.reject([rejected(each, value=value) for each, value in values.items()])
    sender.settle()
    found = letters_of(sender.broker)
    assert {each: letter.value for each, letter in found.items()} == values | {
        20: b"x" * KEPT_BYTES
    }
    assert found[20].headers["cut-from-bytes"] == b"%d" % (KEPT_BYTES * 2)


def test_a_letter_may_lose_all_its_bytes(sender: Sender) -> None:
    sender.broker.most_bytes = 1_000
    sender.outbox.reject([rejected(0, value=b"x" * 30_000)])
    sender.settle()
    assert letters_of(sender.broker)[0].value == b""


def test_a_topic_that_takes_not_even_that_is_a_fault_until_it_does(sender: Sender) -> None:
    sender.broker.most_bytes = 50
    sender.outbox.reject([rejected(0)])
    sender.poll(600)
    assert "raise its max.message.bytes" in sender.outbox.fault
    assert sender.outbox.lowest(0) == 0
    sender.broker.most_bytes = 1_000
    sender.settle()
    assert sender.outbox.fault == ""


# The order of forwards, whatever fails.


def kept_at_home(broker: Broker, home: int) -> set[tuple[int, int]]:
    """What the home counts: it drops a forward not above the highest origin it has seen."""
    highest: dict[int, int] = {}
    kept = set()
    for origin in origins(broker, home):
        assert origin is not None
        source, offset = origin
        if offset > highest.get(source, -1):
            highest[source] = offset
            kept.add(origin)
    return kept


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 10**9))
def test_whatever_fails_nothing_that_is_acknowledged_is_dropped_at_home(seed: int) -> None:
    sender = Sender(seed)
    broker, outbox, random = sender.broker, sender.outbox, sender.broker.random
    broker.most_bytes = random.choice([10_000, 1_000, 300])
    homes: dict[tuple[int, int], int] = {}
    ends = dict.fromkeys(range(3), 0)

    def check() -> None:
        kept = {home: kept_at_home(broker, home) for home in range(3)}
        for (source, offset), home in homes.items():
            lowest = outbox.lowest(source)
            if lowest is None or offset < lowest:
                letter = any(
                    each.headers["source-offset"] == b"%d" % offset
                    and each.headers["source-partition"] == b"%d" % source
                    for each in broker.logs[LETTERS, -1]
                )
                assert letter or (source, offset) in kept[home]

    for _ in range(random.randint(1, 40)):
        match random.randrange(8):
            case 0 | 1 | 2:
                source = random.randrange(3)
                records = []
                for _ in range(random.randint(1, 12)):
                    ends[source] += random.randint(1, 3)
                    size = random.choice([10, 10, 10, 200, 2_000])
                    records.append(record(ends[source], source, b"x" * size))
                    homes[source, ends[source]] = random.randrange(3)
                outbox.forward(records, [homes[source, each.offset] for each in records])
            case 3:
                sender.poll(random.randint(1, 20), pause_s=random.choice([0.0, 0.05, 1.0]))
            case 4:
                broker.trouble = {
                    what: random.choice([0.0, 0.0, 0.2, 0.6]) for what in ("lose", "fail", "hold")
                }
            case 5:
                broker.arrive()
            case 6:
                outbox.reject([rejected(ends[0] + 1)])
                ends[0] += 1
            case 7:
                check()
    broker.trouble = {}
    while broker.late:
        broker.arrive()
        sender.poll()
    sender.settle()
    check()
