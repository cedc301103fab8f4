"""Redis, Kafka and ClickHouse as far as the rules depend on them, and how they fail."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any

from tests.model.rules import LEASE, ArchiveRow, Record


class NoAnswer(Exception):
    """Redis or ClickHouse did not answer."""


class FencedOff(Exception):
    """Kafka or Redis says that another owner has taken over."""


class ModelRedis:
    """One node: a log of calls, of which a crash or a failover keeps a prefix.

    After a failover some clients stay on the old primary for a while. `clock` returns the time,
    `chance(x)` whether something of probability x happens, `answers_get_lost` whether a call may be
    made and its answer lost.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        chance: Callable[[float], bool],
        answers_get_lost: Callable[[], bool],
    ) -> None:
        self._clock, self._chance, self._answers_get_lost = clock, chance, answers_get_lost
        self.data: dict[Any, Any] = {}
        self.calls: list[list[tuple[Any, Any]]] = []
        self.synced = 0
        self.down_until = 0
        self.old_primaries: dict[int, dict[Any, Any]] = {}
        self._life = 1
        self._reached = self.data
        self._current: list[tuple[Any, Any]] = []

    def call(self, connection: dict[int, int], function: Callable[..., Any], *args: Any) -> Any:
        """Run `function(redis, *args)` in one step. Raises NoAnswer and FencedOff."""
        on_primary = connection.setdefault(id(self), self._life) == self._life
        if self._clock() < self.down_until:
            raise NoAnswer
        if not on_primary and (connection[id(self)] not in self.old_primaries or self._chance(0.2)):
            connection[id(self)] = self._life
            raise NoAnswer
        self._current = []
        self._reached = self.data if on_primary else self.old_primaries[connection[id(self)]]
        answer = function(self, *args)
        if on_primary and self._current:
            self.calls.append(self._current)
        self._reached = self.data
        if self._current and self._answers_get_lost() and self._chance(0.03):
            raise NoAnswer
        return answer

    def get(self, key: Any, default: Any = None) -> Any:
        """Return a value; a block's key expires."""
        value = self._reached.get(key)
        if value is None or (key[0] == "block" and self._clock() >= value[1]):
            return default
        return value

    def set(self, key: Any, value: Any) -> None:
        """Set a value as part of the running call."""
        self._current.append((key, self._reached.get(key)))
        self._reached[key] = value

    def restart(self, keep: int, failover: bool = False) -> None:
        """Lose all calls but the first `keep`."""
        if failover:
            self.old_primaries[self._life] = dict(self.data)
        while len(self.calls) > keep:
            for key, before in reversed(self.calls.pop()):
                self.data[key] = before
        self.synced = keep
        self._life += 1
        self._reached = self.data

    def recover(self) -> None:
        """Answer from now on; old primaries are gone."""
        self.old_primaries, self.down_until = {}, 0


class ModelKafka:
    """The logs of the partitions, where each begins, and what the groups have committed."""

    def __init__(self, partitions: int) -> None:
        self.log: list[list[Record]] = [[] for _ in range(partitions)]
        self.start = [0] * partitions
        self.owner: dict[tuple[str, int], int] = {}
        self.committed: dict[tuple[str, int], tuple[int, Any]] = defaultdict(lambda: (0, None))

    def add_partition(self) -> None:
        """Append an empty partition."""
        self.log.append([])
        self.start.append(0)

    def commit(self, group: str, partition: int, member: int, offset: int, metadata: Any) -> None:
        """Commit. Raises FencedOff for a member that no longer owns the partition."""
        if self.owner.get((group, partition)) != member:
            raise FencedOff
        self.committed[group, partition] = (offset, metadata)

    def first_since(self, partition: int, timestamp: int, end: int) -> int:
        """Return the first offset whose record is not older; all before it are older."""
        return next(
            (
                offset
                for offset in range(self.start[partition], end)
                if self.log[partition][offset].timestamp >= timestamp
            ),
            end,
        )


class ModelClickHouse:
    """raw_swaps, the tokens that it has noted (`window` of them), and the epochs of backfills."""

    def __init__(self, window: int | None) -> None:
        self.rows: list[ArchiveRow] = []
        # Of each partition: the number, odd while a backfill writes, and when it was raised.
        self.epochs: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
        self._tokens: deque[str] = deque(maxlen=window)

    def insert(self, token: str, rows: list[ArchiveRow], age: int = 0) -> None:
        """Insert a block whose intent is `age` ticks old, unless its token is known."""
        if age > LEASE:
            raise NoAnswer
        if token not in self._tokens:
            self._tokens.append(token)
            self.rows += rows

    def rows_of(self, partition: int) -> list[ArchiveRow]:
        """Return the rows of a partition."""
        return [row for row in self.rows if row.partition == partition]

    def delete(self, partition: int, offsets: set[int]) -> None:
        """Delete rows of a partition by hand."""
        self.rows = [
            row for row in self.rows if row.partition != partition or row.offset not in offsets
        ]
