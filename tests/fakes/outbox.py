"""The outbox of a member in memory: what a producer does, without a broker and without waiting."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from aggregator.contracts.records import LogRecord, origin_header
from aggregator.dead_letters.producer import Rejected
from aggregator.member.memory import MemoryTopic


class MemoryOutbox:
    """Sends to a `MemoryTopic`, in order, in `poll`.

    `may_send` decides before each record whether the broker takes it now. `may_acknowledge` decides
    whether a taken record is acknowledged; if not, it is sent once more later.
    """

    def __init__(
        self, topic: MemoryTopic, letters: list[Rejected], now_ms: Callable[[], int]
    ) -> None:
        self.fault = ""
        self.room = 1_000
        self.may_send: Callable[[], bool] = lambda: True
        self.may_acknowledge: Callable[[], bool] = lambda: True
        self._topic = topic
        self._now_ms = now_ms
        self._letters = letters
        self._waiting: deque[tuple[LogRecord, int] | Rejected] = deque()

    def reject(self, rejected: Sequence[Rejected]) -> None:
        """See `Outbox`."""
        self._waiting.extend(rejected)

    def forward(self, records: Sequence[LogRecord], homes: Sequence[int]) -> None:
        """See `Outbox`."""
        self._waiting.extend(zip(records, homes, strict=True))

    def poll(self) -> None:
        """See `Outbox`."""
        while self._waiting and self.may_send():
            self._send(self._waiting[0])
            if not self.may_acknowledge():
                return
            self._waiting.popleft()

    def lowest(self, partition: int) -> int | None:
        """See `Outbox`."""
        return min(self._offsets(partition), default=None)

    def outstanding(self, partition: int) -> int:
        """See `Outbox`."""
        return len(self._offsets(partition))

    def has_room(self, partition: int) -> bool:
        """See `Outbox`."""
        return self.outstanding(partition) < self.room

    def drop(self, partition: int) -> None:
        """See `Outbox`."""
        self._waiting = deque(
            each for each in self._waiting if self._source(each).partition != partition
        )

    def close(self) -> None:
        """See `Outbox`."""

    def _offsets(self, partition: int) -> list[int]:
        sources = map(self._source, self._waiting)
        return [each.offset for each in sources if each.partition == partition]

    @staticmethod
    def _source(waiting: tuple[LogRecord, int] | Rejected) -> LogRecord:
        return waiting.record if isinstance(waiting, Rejected) else waiting[0]

    def _send(self, waiting: tuple[LogRecord, int] | Rejected) -> None:
        if isinstance(waiting, Rejected):
            self._letters.append(waiting)
            return
        record, home = waiting
        self._topic.append(
            home,
            record.value,
            key=record.key,
            timestamp=max(record.timestamp, self._now_ms()),
            headers=[*record.headers, origin_header(record)],
        )
