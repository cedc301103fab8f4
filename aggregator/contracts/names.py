"""Names that more than one process must spell alike: NATS subjects, Redis keys, consumer groups.

Nothing a client sends becomes a name without passing through here. Subjects follow DESIGN 6,
keys DESIGN 10; the grammar of a NATS subject is that of docs.nats.io, "Subject-Based Messaging".
"""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import quote, unquote

TOKEN_SUBJECT_PREFIX: Final = "ws.broadcast.token."  # noqa: S105 - a subject
ALL_TOKENS_SUBJECT: Final = "ws.broadcast.token.*"
TRADES_SUBJECT_PREFIX: Final = "ws.broadcast.trades."
ALL_HEARTBEATS_SUBJECT: Final = "swaps.heartbeat.*"
ALL_RESYNCS_SUBJECT: Final = "swaps.resync.*"
ALL_HISTORIES_SUBJECT: Final = "swaps.history.*"
ALL_ARCHIVES_SUBJECT: Final = "swaps.archive.*"

MARKER_PREFIX: Final = b"dedupe:"
RATE_PREFIX: Final = "rl:"
# A random text, written where it is absent: a Redis that was flushed has another one.
RUN_TOKEN_KEY: Final = "run:token"  # noqa: S105 - a key
ACCESS_REVISION_KEY: Final = "auth:revision"
ACCESS_STATE_KEY: Final = "auth:state"
REGISTRY_REVISION_KEY: Final = "registry:revision"
REGISTRY_STATE_KEY: Final = "registry:state"

AGGREGATOR_GROUP: Final = "aggregator"
ARCHIVER_GROUP: Final = "archiver"


def token_id_of(chain: str, token: str) -> str:
    """`chain:token`, the id of a token in every part of the service."""
    return f"{chain}:{token}"


def token_subject(token_id: str) -> str:
    """The NATS subject of one token's patches: one subject token, reserved characters as %XX.

    >>> token_subject("cosmos:ibc/27394F.a b")
    'ws.broadcast.token.cosmos:ibc/27394F%2Ea%20b'
    """
    return TOKEN_SUBJECT_PREFIX + _subject_token(token_id)


def _subject_token(token_id: str) -> str:
    # `quote` leaves letters, digits and _.-~ alone; "." separates NATS tokens and must go too.
    return quote(token_id, safe=":/@+=,").replace(".", "%2E")


def token_of_subject(subject: str) -> str:
    """The inverse of `token_subject`."""
    return unquote(subject.removeprefix(TOKEN_SUBJECT_PREFIX))


def trades_subject(token_id: str) -> str:
    """The NATS subject of one token's trades, spelled as in `token_subject`."""
    return TRADES_SUBJECT_PREFIX + _subject_token(token_id)


def history_subject(partition: int) -> str:
    """Where a web node asks a partition's owner for a token's trades and candles."""
    return f"swaps.history.{partition}"


def heartbeat_subject(partition: int) -> str:
    """Where a partition's owner says once a second how far it is."""
    return f"swaps.heartbeat.{partition}"


def resync_subject(partition: int) -> str:
    """Where a web node asks a partition's owner for its state (request-reply)."""
    return f"swaps.resync.{partition}"


def archive_subject(partition: int) -> str:
    """Where a partition's archiver says once a second how far it is."""
    return f"swaps.archive.{partition}"


def checkin_key(topic: str) -> bytes:
    """The Redis key of the run of Redis for which every partition's archiver has checked in."""
    return f"checkin:{topic}".encode()


def archive_key(topic: str, partition: int) -> bytes:
    """The Redis key of how far a partition's archiver had got when it checked in."""
    return f"archive:{topic}:{partition}".encode()


def marker_key(marker: bytes) -> bytes:
    """The Redis key of an event's marker; `marker` is the 16-byte hash of its identity."""
    return MARKER_PREFIX + marker


class SnapshotKeys(NamedTuple):
    """The Redis keys of one partition's snapshot; `staged` is there only while one is replaced."""

    head: bytes
    sections: bytes
    staged: bytes


def snapshot_keys(topic: str, partition: int) -> SnapshotKeys:
    """`snap:<topic>:<partition>:...`: a topic's name holds no ":", so topics do not mix."""
    prefix = f"snap:{topic}:{partition}:"
    return SnapshotKeys(*(f"{prefix}{part}".encode() for part in SnapshotKeys._fields))


class BoardKeys(NamedTuple):
    """The Redis keys of one partition's board rows."""

    head: bytes
    rows: bytes


def board_keys(topic: str, partition: int) -> BoardKeys:
    """`board:<topic>:<partition>:...`: a hash {epoch, seq, next_offset, partitions}, and one of
    rows (`TokenStats` in JSON) by token id.
    """
    prefix = f"board:{topic}:{partition}:"
    return BoardKeys(*(f"{prefix}{part}".encode() for part in BoardKeys._fields))
