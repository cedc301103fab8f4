"""The homes of a topic's tokens, which are fixed when the topic is first read.

The first owners of a topic commit the number of partitions that it has then, and the partitioner,
with their epochs. Later partitions of the topic are no homes: their owners forward everything. So
no token ever moves from one process to another under other numbers.
"""

from __future__ import annotations

from typing import Final

from aggregator.contracts.homes import Homes
from aggregator.counting.commit_metadata import CommitMetadata, read_metadata
from aggregator.member.log import Log
from aggregator.runtime.errors import Fatal

REMEDY: Final = (
    "The counts of a topic hold for one value of both, so count under other values with a new "
    "topic, or with a new KAFKA_GROUP and an empty Redis"
)


class TopicHomes:
    """The homes of one topic, decided at the first takeover of this process. Thread-safe."""

    def __init__(self, topic: str, partitioner: str, log: Log) -> None:
        self._topic = topic
        self._partitioner = partitioner
        self._log = log
        self._committed = 0
        # One object, which remembers the homes of tokens, for all partitions.
        self._homes = Homes(partitioner, 1)

    def of(self, partition: int, own: CommitMetadata, topic_id: str) -> Homes:
        """Return the homes, given what was committed of one partition.

        Raises Retry, Fenced, and Fatal where the partition was counted with other homes.
        """
        # What this process only means to commit may be overtaken: another may commit first.
        count = self._committed or own.homes or self._of_others(partition, topic_id)
        if own.homes and own.homes != count:
            raise Fatal(
                f"partition {partition} of {self._topic} was counted with {own.homes} homes for "
                f"its tokens, others with {count}. {REMEDY}"
            )
        if own.partitioner and own.partitioner != self._partitioner:
            raise Fatal(
                f"partition {partition} of {self._topic} was counted with "
                f"KAFKA_PARTITIONER={own.partitioner}, this process has {self._partitioner}: set "
                f"KAFKA_PARTITIONER={own.partitioner}. {REMEDY}"
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
                found = read_metadata(self._log.committed(other)[1])
                if found.homes and (found.topic_id == topic_id or not found.topic_id):
                    return found.homes
        return count
