"""Changes a stream of records between its source and the broker: repeats and pace.

Pure generators over iterators; time comes from a `Pacer`. Knows nothing of files or Kafka.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator
from contextlib import suppress
from random import Random
from typing import Final, NamedTuple, Protocol

from aggregator.contracts.ids import TokenIdInvalid, canonical_token
from aggregator.contracts.names import token_id_of

REPEAT_WITHIN: Final = 1_000


class Record(NamedTuple):
    """A message to send; the bytes are sent as they are.

    `key` is the token id and `timestamp` the event time in ms; both are None where the value is not
    an event. `repeat` marks a message that was sent before.
    """

    key: bytes | None
    value: bytes
    timestamp: int | None
    repeat: bool = False


class Pacer(Protocol):
    """The clock that sets the pace of a stream."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def until(self, instant: float) -> bool:
        """Wait until `instant` of that clock; return False when the feed must stop."""


def token_key(chain: str, token: str) -> bytes:
    """Return the Kafka key of a token: its id, or what was given where that is no token.

    All spellings of a token (DESIGN 3) have one key and thus one partition. Raises
    UnicodeEncodeError where the text cannot be a key.
    """
    with suppress(TokenIdInvalid):
        token = canonical_token(token)
    return token_id_of(chain, token).encode()


def record_time(event_ms: int | None, now_ms: int, kept_ms: int) -> int:
    """Return the timestamp of the Kafka record of an event, ms since the epoch.

    It is the time of the event, so that days of old swaps are counted as they would have been then:
    a partition's clock is the highest timestamp of its records. An event gets the time of sending
    where its own lies in the future, which no record may, or more than `kept_ms` in the past: the
    topic's retention goes by these timestamps, and would delete the record.
    """
    if event_ms is None or not now_ms - kept_ms <= event_ms <= now_ms:
        return now_ms
    return event_ms


def with_repeats(records: Iterable[Record], share: float, seed: int) -> Iterator[Record]:
    """Yield the records, and repeat each with probability `share`, 1 to 1,000 messages later.

    Repeats that are pending when the records end follow directly.
    """
    rng = Random(f"{seed}:repeats")
    due: list[tuple[int, int, Record]] = []
    sent = 0
    for record in records:
        while due and due[0][0] <= sent:
            sent += 1
            yield heapq.heappop(due)[2]
        sent += 1
        yield record
        if rng.random() < share:
            # `sent` is unique, so the heap never compares records.
            heapq.heappush(due, (sent + rng.randrange(REPEAT_WITHIN), sent, _repeat(record)))
    while due:
        yield heapq.heappop(due)[2]


def _repeat(record: Record) -> Record:
    return record._replace(repeat=True)


def at_rate(records: Iterator[Record], per_second: float, pacer: Pacer) -> Iterator[Record]:
    """Yield the records at an even rate.

    Each record is taken from its source only when it is due, so a source that uses the current time
    as the event time uses the time of sending.
    """
    start = pacer.now()
    taken = 0
    while pacer.until(start + taken / per_second):
        record = next(records, None)
        if record is None:
            return
        taken += 1
        yield record


def at_speed(records: Iterable[Record], speed: float, pacer: Pacer) -> Iterator[Record]:
    """Yield the records with the spacing of their event times, `speed` times as fast.

    A record without a time, or with an earlier time than a previous one, is due immediately.
    """
    start = pacer.now()
    first: int | None = None
    for record in records:
        if record.timestamp is not None:
            if first is None:
                first = record.timestamp
            if not pacer.until(start + (record.timestamp - first) / 1_000 / speed):
                return
        yield record
