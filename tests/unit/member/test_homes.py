"""The homes of a topic: as committed first, whoever asks later and however many partitions."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from aggregator.archiving.intents import LogPosition, pack, unpack
from aggregator.counting.commit_metadata import CommitMetadata, read_metadata
from aggregator.member.homes import CommittedHomes, TopicHomes
from aggregator.member.memory import MemoryLog, MemoryTopic
from aggregator.runtime.config import load
from aggregator.runtime.errors import Fatal

GROUP = "g"
Read = Callable[[str], CommittedHomes]
Write = Callable[[CommitMetadata], str]


def position_of(metadata: CommitMetadata) -> str:
    """The same in the words of an archiver."""
    return pack(
        LogPosition(
            homes=metadata.homes, partitioner=metadata.partitioner, topic_id=metadata.topic_id
        )
    )


@pytest.fixture(params=["counting", "archiving"])
def group(request: pytest.FixtureRequest) -> tuple[Read, Write]:
    """How a group reads and writes its metadata."""
    if request.param == "counting":
        return read_metadata, CommitMetadata.encode
    return unpack, position_of


def homes_of(topic: MemoryTopic, read: Read) -> TopicHomes:
    return TopicHomes(
        load({}), MemoryLog(topic, GROUP), read, taken="counted", remedy="Begin again"
    )


def test_the_first_reader_takes_the_present_number_of_partitions(group: tuple[Read, Write]) -> None:
    read, _ = group
    topic = MemoryTopic(3)
    assert homes_of(topic, read).of(0, read(""), topic.topic_id).homes == 3


def test_what_another_partition_has_committed_stays(group: tuple[Read, Write]) -> None:
    read, write = group
    topic = MemoryTopic(2)
    topic.group(GROUP).committed[1] = (0, write(CommitMetadata(1, 2, "murmur2", topic.topic_id)))
    topic.add_partitions(3)
    found = homes_of(topic, read).of(4, read(""), topic.topic_id)
    assert (found.homes, found.partitioner) == (2, "murmur2")


def test_the_metadata_of_a_deleted_topic_says_nothing(group: tuple[Read, Write]) -> None:
    read, write = group
    topic = MemoryTopic(4)
    topic.group(GROUP).committed[1] = (0, write(CommitMetadata(1, 2, "murmur2", "another")))
    assert homes_of(topic, read).of(0, read(""), topic.topic_id).homes == 4


def test_a_number_that_was_not_committed_is_not_remembered(group: tuple[Read, Write]) -> None:
    read, write = group
    topic = MemoryTopic(2)
    mine = homes_of(topic, read)
    assert mine.of(0, read(""), topic.topic_id).homes == 2
    # Before this process commits, the topic gets partitions and another process commits first.
    topic.add_partitions(2)
    topic.group(GROUP).committed[1] = (0, write(CommitMetadata(1, 4, "murmur2", topic.topic_id)))
    homes = mine.of(0, read(""), topic.topic_id)
    assert homes.homes == 4
    mine.committed(homes)
    topic.add_partitions(1)
    assert mine.of(4, read(""), topic.topic_id).homes == 4


@pytest.mark.parametrize(
    ("homes", "partitioner", "why"),
    [(3, "murmur2", "with 3 homes for its tokens, others with 2"), (2, "crc32", "set KAFKA_PART")],
)
def test_other_homes_stop(
    group: tuple[Read, Write], homes: int, partitioner: str, why: str
) -> None:
    read, write = group
    topic = MemoryTopic(2)
    mine = homes_of(topic, read)
    mine.committed(mine.of(0, read(""), topic.topic_id))
    own = read(write(CommitMetadata(1, homes, partitioner, topic.topic_id)))
    with pytest.raises(Fatal, match=why):
        mine.of(1, own, topic.topic_id)
