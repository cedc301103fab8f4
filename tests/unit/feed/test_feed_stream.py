"""Repeats and pace of a feed, with a clock that only waiting advances."""

from __future__ import annotations

from itertools import count, islice

import pytest

from aggregator.feed.stream import (
    Record,
    at_rate,
    at_speed,
    record_time,
    token_key,
    with_repeats,
)


class Clock:
    """A `Pacer` whose time passes only while a caller waits; it stops the feed at `stop_at`."""

    def __init__(self, stop_at: float = float("inf")) -> None:
        self._now = 100.0
        self._stop_at = 100.0 + stop_at

    def now(self) -> float:
        return self._now

    def until(self, instant: float) -> bool:
        self._now = max(self._now, instant)
        return self._now < self._stop_at


def records(times: list[int | None]) -> list[Record]:
    return [Record(b"k", b"%d" % n, time) for n, time in enumerate(times)]


@pytest.mark.parametrize(
    ("chain", "token", "key"),
    [
        ("base", "0x" + "AB" * 20, b"base:0x" + b"ab" * 20),
        ("base", "0X" + "AB" * 20, b"base:0x" + b"ab" * 20),
        ("base", "0x" + "AB" * 19, b"base:0x" + b"AB" * 19),
        ("solana", "So11111111111111111111111111111111111111112", None),
        ("cosmos", "ibc/27394F", b"cosmos:ibc/27394F"),
        ("x", "\N{GREEK SMALL LETTER ALPHA}B", b"x:\xce\xb1B"),
        ("sui", "0x0002::sui::SUI", b"sui:0x2::sui::SUI"),
        ("x", "no token", b"x:no token"),
        ("x", "", b"x:"),
    ],
    ids=[
        *("address", "capital 0X", "too short for an address", "base58", "slash", "not ascii"),
        *("Move type", "white space", "empty"),
    ],
)
def test_one_token_has_one_key(chain: str, token: str, key: bytes | None) -> None:
    assert token_key(chain, token) == (key or f"{chain}:{token}".encode())


DAY = 86_400_000
NOW = 1_700_000_000_000


@pytest.mark.parametrize(
    ("event_ms", "recorded"),
    [
        (NOW, NOW),
        (NOW - 1, NOW - 1),
        (NOW - 3 * DAY, NOW - 3 * DAY),
        (NOW - 3 * DAY - 1, NOW),
        (0, NOW),
        (NOW + 1, NOW),
        (None, NOW),
    ],
    ids=["now", "just now", "kept", "not kept", "1970", "in the future", "not an event"],
)
def test_a_record_has_the_time_of_its_event_where_the_topic_keeps_it(
    event_ms: int | None, recorded: int
) -> None:
    assert record_time(event_ms, NOW, 3 * DAY) == recorded


def test_repeats_are_byte_for_byte_after_their_original_and_within_a_thousand() -> None:
    source = records([*range(20_000)])
    sent = list(with_repeats(source, 0.05, seed=3))
    assert [record for record in sent if not record.repeat] == source
    first = {record.value: at for at, record in enumerate(sent) if not record.repeat}
    again = [(at, record) for at, record in enumerate(sent) if record.repeat]
    assert 850 < len(again) < 1150
    for at, record in again:
        assert 1 <= at - first[record.value] <= 1_100
        assert record._replace(repeat=False) == sent[first[record.value]]


def test_repeats_go_by_the_seed_and_none_is_lost_at_the_end() -> None:
    source = records([1, 2, 3])
    assert list(with_repeats(source, 0.5, seed=1)) == list(with_repeats(source, 0.5, seed=1))
    everything_twice = list(with_repeats(source, 1.0, seed=1))
    assert sorted(record.value for record in everything_twice) == [
        b"0", b"0", b"1", b"1", b"2", b"2",
    ]  # fmt: skip
    assert list(with_repeats(source, 0.0, seed=1)) == source


def test_a_rate_takes_each_record_when_it_is_due() -> None:
    clock = Clock()
    taken_at = (Record(None, b"", round(clock.now() * 1000)) for _ in count())
    sent = list(islice(at_rate(taken_at, 4, clock), 5))
    assert [record.timestamp for record in sent] == [100_000, 100_250, 100_500, 100_750, 101_000]


def test_a_rate_ends_with_its_records_and_when_the_pacer_stops() -> None:
    assert len(list(at_rate(iter(records([1, 2, 3])), 10, Clock()))) == 3
    endless = (Record(None, b"", None) for _ in count())
    assert len(list(at_rate(endless, 10, Clock(stop_at=1)))) == 10


def test_speed_keeps_the_spacing_and_sends_overdue_events_immediately() -> None:
    clock = Clock()
    times = [50_000, 51_000, None, 50_500, 53_000, 53_000]
    sent_at = [clock.now() - 100 for _ in at_speed(records(times), 2, clock)]
    assert sent_at == [0, 0.5, 0.5, 0.5, 1.5, 1.5]


def test_speed_ends_when_the_pacer_stops() -> None:
    assert len(list(at_speed(records([0, 1_000, 9_000]), 1, Clock(stop_at=5)))) == 2
