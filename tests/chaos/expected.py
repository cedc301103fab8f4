"""What every token must show, decided from the records of the topic alone.

Forwarded records are part of the topic, so the log of a partition decides its tokens. That they are
there, complete and in order, is checked from their originals (`forward_faults`).
`tests.support.oracle` decides and computes. Shares no code with the service.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, Final

from tests.support.oracle import (
    DecidedRecord,
    Logged,
    Rules,
    TokenNumbers,
    by_partition,
    decide,
    origin_of,
    recompute,
    token_id,
)

Windows = tuple[tuple[str, int], ...]
WINDOWS: Final[Windows] = (("5m", 5), ("1h", 60), ("24h", 1440))
_CHANGES: Final = "CPLDU"

Position = tuple[int, int]


def event_of(value: bytes | None) -> dict[str, Any] | None:
    """Return the event of a message; None where the traffic made it to be rejected."""
    try:
        event: dict[str, Any] = json.loads(value or b"")
    except ValueError:
        return None
    return None if event.get("bad") else event


def logged_of(
    value: bytes | None,
    partition: int,
    offset: int,
    record_timestamp: int,
    headers: Iterable[tuple[str, Any]] | None = None,
) -> Logged:
    """Return a record of the topic with its headers."""
    return Logged(event_of(value), partition, offset, record_timestamp, origin_of(headers))


class Expected:
    """The truth about whole logs, each partition's records in the order of offsets.

    `dead` are the positions that must end as dead letters.
    """

    def __init__(self, log: Iterable[Logged], rules: Rules, windows: Windows = WINDOWS) -> None:
        self.windows = windows
        decided = decide(log, rules)
        self.dead = {_position(each.logged) for each in decided if each.letter == "B"}
        self.letters: dict[str, int] = defaultdict(int)
        for each in decided:
            self.letters[each.letter] += 1
        self._partitions = by_partition(decided)
        self._records: dict[str, list[DecidedRecord]] = defaultdict(list)
        for each in decided:
            if each.letter in _CHANGES:
                self._records[token_id(each.logged.swap)].append(each)

    @property
    def tokens(self) -> set[str]:
        """All tokens that have numbers."""
        return set(self._records)

    @property
    def newest(self) -> int:
        """The newest record timestamp (ms)."""
        return max(
            each.logged.record_timestamp for log in self._partitions.values() for each in log
        )

    def partition(self, token: str) -> int:
        """Return the home of a token."""
        return self._records[token][0].logged.partition

    def records(self, token: str) -> int:
        """Return how many records changed a number of the token."""
        return len(self._records[token])

    def trades(self, token: str) -> list[Logged]:
        """Return what is published as a trade, in order: counted and undone swaps."""
        records = self._records[token]
        return [d.logged for d in records if d.letter in "CP" or d.undone is not None]

    def numbers(self, token: str, next_offset: int, now: int) -> TokenNumbers:
        """Return the numbers of a token, counted up to `next_offset` of its home, at `now` (ms).

        The history begins with the log, which is read from its first record.
        """
        records = self._records[token]
        # A repeat in front makes the token known where all its swaps are of minutes to come.
        read = [DecidedRecord(records[0].logged, "D")]
        read += [d for d in records if d.logged.offset < next_offset]
        first = self._partitions[self.partition(token)][0].logged
        numbers = recompute(
            read, now=now, windows=self.windows, history_from=first.record_timestamp
        )
        numbers[token].duplicates -= 1
        return numbers[token]

    def forward_faults(self) -> list[str]:
        """Return what is wrong with the forwarded records of the topic.

        Each misplaced record must be at its home, as it came, no later than those after it.
        """
        faults = []
        forwards: dict[Position, list[Logged]] = defaultdict(list)
        order: dict[tuple[int, int], list[int]] = defaultdict(list)
        for partition, log in self._partitions.items():
            for each in log:
                if (origin := each.logged.origin) is None:
                    continue
                if each.letter == "M":
                    faults.append(f"{_position(each.logged)} was forwarded away from home")
                if origin not in forwards:
                    order[origin[0], partition].append(origin[1])
                forwards[origin].append(each.logged)
        for pair, offsets in order.items():
            if offsets != sorted(offsets):
                faults.append(f"forwards from {pair[0]} to {pair[1]} came out of order")
        faults += self._lost(forwards)
        return faults

    def _lost(self, forwards: dict[Position, list[Logged]]) -> list[str]:
        faults = []
        misplaced = {}
        for log in self._partitions.values():
            for each in log:
                if each.letter == "M" and each.logged.origin is None:
                    misplaced[_position(each.logged)] = each.logged
        for position, logged in misplaced.items():
            found = forwards.get(position, [])
            if not found:
                faults.append(f"the record at {position} was never forwarded")
            for each in found:
                if each.event != logged.event or each.record_timestamp < logged.record_timestamp:
                    faults.append(f"{_position(each)} is not the record at {position}")
        for position in sorted(set(forwards) - set(misplaced)):
            faults.append(f"the record at {position} was forwarded, but is at home")
        return faults


def _position(logged: Logged) -> Position:
    return logged.partition, logged.offset
