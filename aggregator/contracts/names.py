"""Names that several processes share: NATS subjects, Redis keys and Kafka consumer groups.

What is called a subject here is a NATS subject, to which messages are published (DESIGN 6); what is
called a key is a Redis key, under which values are stored (DESIGN 10). `RATE_PREFIX` begins Redis
keys. Text from a client or a producer becomes part of a name only through these functions. The
grammar of a NATS subject is in docs.nats.io, "Subject-Based Messaging".
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote

# NATS subjects; "*" subscribes to every token or partition.
TOKEN_SUBJECT_PREFIX: Final = "ws.broadcast.token."  # noqa: S105 - a subject
ALL_TOKENS_SUBJECT: Final = "ws.broadcast.token.*"
TRADES_SUBJECT_PREFIX: Final = "ws.broadcast.trades."
ALL_HEARTBEATS_SUBJECT: Final = "swaps.heartbeat.*"
ALL_RESYNCS_SUBJECT: Final = "swaps.resync.*"
ALL_HISTORIES_SUBJECT: Final = "swaps.history.*"
ALL_ARCHIVES_SUBJECT: Final = "swaps.archive.*"
ALL_SOURCES_SUBJECT: Final = "swaps.source.*"

# Redis keys.
RATE_PREFIX: Final = "rl:"
ACCESS_REVISION_KEY: Final = "auth:revision"
ACCESS_STATE_KEY: Final = "auth:state"
REGISTRY_REVISION_KEY: Final = "registry:revision"
REGISTRY_STATE_KEY: Final = "registry:state"

# Kafka consumer groups.
AGGREGATOR_GROUP: Final = "aggregator"
ARCHIVER_GROUP: Final = "archiver"


def token_id_of(chain: str, token: str) -> str:
    """Return `chain:token`, the id of a token in every part of the service."""
    return f"{chain}:{token}"


def token_subject(token_id: str) -> str:
    """Return the NATS subject of a token's patches.

    The token id is one token of the subject, with reserved characters as %XX.

    >>> token_subject("cosmos:ibc/27394F.a b")
    'ws.broadcast.token.cosmos:ibc/27394F%2Ea%20b'
    """
    return TOKEN_SUBJECT_PREFIX + _subject_token(token_id)


def _subject_token(token_id: str) -> str:
    # `quote` keeps letters, digits and _.-~; "." separates the tokens of a NATS subject.
    return quote(token_id, safe=":/@+=,").replace(".", "%2E")


def trades_subject(token_id: str) -> str:
    """Return the NATS subject of a token's trades, escaped as in `token_subject`."""
    return TRADES_SUBJECT_PREFIX + _subject_token(token_id)


def history_subject(partition: int) -> str:
    """Return the NATS subject on which a partition's owner answers `HistoryRequest`s."""
    return f"swaps.history.{partition}"


def heartbeat_subject(partition: int) -> str:
    """Return the NATS subject of a partition's `Heartbeat`, published once a second."""
    return f"swaps.heartbeat.{partition}"


def resync_subject(partition: int) -> str:
    """Return the NATS subject on which a partition's owner answers `ResyncRequest`s."""
    return f"swaps.resync.{partition}"


def archive_subject(partition: int) -> str:
    """Return the NATS subject of a partition's `ArchiveStatus`, published once a second."""
    return f"swaps.archive.{partition}"


def source_subject(name: str) -> str:
    """Return the NATS subject of a source's `SourceStatus`, published once a second."""
    return f"swaps.source.{_subject_token(name)}"


class SnapshotKeys(NamedTuple):
    """The Redis keys of one partition's snapshot.

    `staged` exists only while a new snapshot is being written.
    """

    head: bytes
    sections: bytes
    staged: bytes


def snapshot_keys(topic: str, partition: int) -> SnapshotKeys:
    """Return the keys `snap:{<topic>:<partition>}:...`.

    The name of a topic contains no ":", so the keys of two topics never collide. The braces are a
    hash tag: a Redis Cluster keeps all keys of a partition on one node.
    """
    prefix = f"snap:{{{topic}:{partition}}}:"
    return SnapshotKeys(*(f"{prefix}{part}".encode() for part in SnapshotKeys._fields))


def block_key(topic: str, partition: int, block: int) -> bytes:
    """Return the key `dedupe:{<topic>:<partition>}:<block>` of a block of decided ids."""
    return f"dedupe:{{{topic}:{partition}}}:{block}".encode()


class BoardKeys(NamedTuple):
    """The Redis keys of one partition's board rows."""

    head: bytes
    rows: bytes


def board_keys(topic: str, partition: int) -> BoardKeys:
    """Return the keys `board:{<topic>:<partition>}:...`.

    `head` is a hash {epoch, seq, next_offset, partitions}; `rows` is a hash from token id to board
    row (`TokenStats` in JSON).
    """
    prefix = f"board:{{{topic}:{partition}}}:"
    return BoardKeys(*(f"{prefix}{part}".encode() for part in BoardKeys._fields))
