"""The epoch of a partition's owner, kept in the metadata of the group's committed offset.

Kafka refuses the commit of a member that is no longer in the group. So an epoch that a member reads
there and commits one higher belongs to that member alone (DESIGN 4 rule 8).
"""

from __future__ import annotations

import msgspec

from aggregator.runtime.errors import Fatal


class CommitMetadata(msgspec.Struct, frozen=True):
    """The JSON in the commit metadata of the aggregator's group."""

    epoch: int


def read_epoch(metadata: str) -> int:
    """Return the epoch of the last owner, 0 where there was none.

    Raises Fatal where another program committed the metadata.
    """
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
    """Return the metadata to commit with every offset of an owner."""
    return msgspec.json.encode(CommitMetadata(epoch)).decode()
