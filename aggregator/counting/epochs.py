"""The epoch of a partition's owner, kept in the metadata of the group's committed offset.

Kafka refuses a commit of a member that the group has left behind, so an epoch read from there and
committed there again, one higher, belongs to the owner alone (DESIGN 4 rule 5).
"""

from __future__ import annotations

import msgspec

from aggregator.runtime.errors import Fatal


class CommitMetadata(msgspec.Struct, frozen=True):
    """The JSON in the commit metadata of the aggregator's group."""

    epoch: int


def read_epoch(metadata: str) -> int:
    """The epoch of the last owner; 0 where nobody has owned the partition yet."""
    if not metadata:
        return 0
    try:
        return msgspec.json.decode(metadata, type=CommitMetadata).epoch
    except msgspec.DecodeError as error:
        raise Fatal(
            f"the group's commit metadata is not ours ({metadata[:80]!r}): {error}. "
            "Give KAFKA_GROUP a name of its own"
        ) from error


def write_epoch(epoch: int) -> str:
    """The metadata to commit with every offset of an owner."""
    return msgspec.json.encode(CommitMetadata(epoch)).decode()
