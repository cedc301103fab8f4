"""The homes of a topic's tokens, which are fixed when a group first reads the topic.

The first owners of a topic commit the number of partitions that it has then, and the partitioner,
with their metadata. Later partitions of the topic are no homes: their owners forward everything. So
no token ever moves from one process to another under other numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from aggregator.contracts.homes import Homes
from aggregator.member.log import Log
from aggregator.runtime.config import Config
from aggregator.runtime.errors import Fatal


class CommittedHomes(Protocol):
    """As much of a group's commit metadata as decides where tokens are at home.

    `homes` is 0 where nothing is committed, the texts are "" where they are not known.
    """

    @property
    def homes(self) -> int: ...
    @property
    def partitioner(self) -> str: ...
    @property
    def topic_id(self) -> str: ...


class TopicHomes:
    """The homes of one topic for one group, decided at the first takeover of this process.

    `read` decodes commit metadata. For the error texts, `taken` says what was done with the
    partitions ("counted") and `remedy` how an operator starts again. Thread-safe.
    """

    def __init__(
        self,
        config: Config,
        member_log: Log,
        read: Callable[[str], CommittedHomes],
        *,
        taken: str,
        remedy: str,
    ) -> None:
        self._topic = config.kafka_topic
        self._partitioner = config.kafka_partitioner
        self._log = member_log
        self._read = read
        self._taken = taken
        self._remedy = remedy
        self._committed = 0
        # One object, which remembers the homes of tokens, for all partitions.
        self._homes = Homes(self._partitioner, 1)

    def of(self, partition: int, own: CommittedHomes, topic_id: str) -> Homes:
        """Return the homes, given what was committed of one partition.

        Raises Retry, Fenced, and Fatal where the partition was taken with other homes.
        """
        # What this process only means to commit may be overtaken: another may commit first.
        count = self._committed or own.homes or self._of_others(partition, topic_id)
        if own.homes and own.homes != count:
            raise Fatal(
                f"partition {partition} of {self._topic} was {self._taken} with {own.homes} homes "
                f"for its tokens, others with {count}. {self._remedy}"
            )
        if own.partitioner and own.partitioner != self._partitioner:
            raise Fatal(
                f"partition {partition} of {self._topic} was {self._taken} with "
                f"KAFKA_PARTITIONER={own.partitioner}, this process has {self._partitioner}: set "
                f"KAFKA_PARTITIONER={own.partitioner}. {self._remedy}"
            )
        if self._homes.homes != count:
            self._homes = Homes(self._partitioner, count)
        return self._homes

    def committed(self, homes: Homes) -> None:
        """Note that a commit of this process says that these are the homes."""
        self._committed = homes.homes

    def _of_others(self, partition: int, topic_id: str) -> int:
        """Return what any other partition has committed, else the present number of partitions."""
        count = self._log.partition_count()
        for other in range(count):
            if other != partition:
                found = self._read(self._log.committed(other)[1])
                if found.homes and found.topic_id in {"", topic_id}:
                    return found.homes
        return count
