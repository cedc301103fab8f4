"""The aggregators' metadata of a committed offset: the owner's epoch and where tokens are at home.

Kafka refuses the commit of a member that is no longer in the group. So an epoch that a member reads
there and commits one higher belongs to that member alone (DESIGN 4 rule 8).
"""

from __future__ import annotations

import msgspec

from aggregator.runtime.errors import Fatal


class CommitMetadata(msgspec.Struct, frozen=True):
    """The JSON in the commit metadata of the aggregator's group.

    `homes` is the number of partitions that tokens are at home on, and `partitioner` chooses among
    them; both stay the same for as long as the topic lives. `topic_id` is Kafka's id of the topic,
    "" where the broker has none. A version before these fields left `homes` 0.
    """

    epoch: int
    homes: int = 0
    partitioner: str = ""
    topic_id: str = ""

    def encode(self) -> str:
        """Return the text to commit with every offset of an owner."""
        return msgspec.json.encode(self).decode()


NOTHING_COMMITTED = CommitMetadata(0)


def read_metadata(text: str) -> CommitMetadata:
    """Return what the last owner committed; epoch 0 where there was none.

    Raises Fatal where another program committed the metadata.
    """
    if not text:
        return NOTHING_COMMITTED
    try:
        return msgspec.json.decode(text, type=CommitMetadata)
    except msgspec.DecodeError as error:
        raise Fatal(
            f"the group's commit metadata is not ours ({text[:80]!r}): {error}. "
            "Give KAFKA_GROUP a name of its own"
        ) from error
