"""What may happen to a stream of records between its source and the broker: repeats and pace.

Pure generators over iterators; time comes in through a `Pacer`. Knows nothing of files or Kafka.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterable, Iterator
from random import Random
from typing import Final, NamedTuple, Protocol

from aggregator.contracts.names import token_id_of

REPEAT_WITHIN: Final = 1_000

_ADDRESS = re.compile(r"0[xX][0-9a-fA-F]{40}")


class Record(NamedTuple):
    """One Kafka message to be: the bytes are sent exactly as they are here.

    `key` is the token id, None where the value cannot be read as an event. `timestamp` is the event
    time in ms, None likewise. `repeat` marks a message that was sent before.
    """

    key: bytes | None
    value: bytes
    timestamp: int | None
    repeat: bool = False


class Pacer(Protocol):
    """Time, as the pace needs it."""

    def now(self) -> float:
        """Seconds on a clock that never goes back."""

    def until(self, instant: float) -> bool:
        """Wait for `instant` of that clock; False when the feed is told to stop."""


def token_key(chain: str, token: str) -> bytes:
    """The Kafka key of a token: one spelling of a token is one key, so it has one partition.

    A 0x address of 40 hex digits is the same token in any case of its letters (DESIGN 3). Raises
    UnicodeEncodeError where the text cannot be a key.
    """
    if _ADDRESS.fullmatch(token):
        token = token.lower()
    return token_id_of(chain, token).encode()


def with_repeats(records: Iterable[Record], share: float, seed: int) -> Iterator[Record]:
    """The records, and with probability `share` each once more, 1 to 1,000 messages later.

    What is still to be repeated when the records end comes right after them.
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
            # `sent` in the middle keeps the heap from ever comparing records.
            heapq.heappush(due, (sent + rng.randrange(REPEAT_WITHIN), sent, _repeat(record)))
    while due:
        yield heapq.heappop(due)[2]


def _repeat(record: Record) -> Record:
    return record._replace(repeat=True)


def at_rate(records: Iterator[Record], per_second: float, pacer: Pacer) -> Iterator[Record]:
    """The records at an even rate. Each is taken from its source only when it is due, so that a
    source that stamps its records with the present stamps them with the moment of sending."""
    start = pacer.now()
    taken = 0
    while pacer.until(start + taken / per_second):
        record = next(records, None)
        if record is None:
            return
        taken += 1
        yield record


def at_speed(records: Iterable[Record], speed: float, pacer: Pacer) -> Iterator[Record]:
    """The records with the spacing of their event times, `speed` times as fast.

    A record without a time, or earlier than one before it, is due at once.
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
