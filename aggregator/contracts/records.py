"""A Kafka message, for the parts that do not use a Kafka client, and its `origin` header.

A record that is met away from its token's home is forwarded there. The forwarded record says in the
header `origin` where it comes from: `<partition>:<offset>:<its first timestamp>`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec

Header = tuple[str, str | bytes | None]
"""A header as the client gives and takes it; the values of read records are bytes."""

Origin = tuple[int, int]
"""(partition, offset) that a record was forwarded from."""

ORIGIN: Final = "origin"

_ORIGIN: Final = re.compile(rb"(\d{1,10}):(\d{1,19}):-?\d{1,19}")
_PARTITIONS: Final = 2**31
_OFFSETS: Final = 2**63


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One message as it was read; `timestamp` is the record's, ms since the epoch."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[Header] = ()


def origin_header(record: LogRecord) -> Header:
    """Return the header that a forward of `record` carries."""
    return ORIGIN, f"{record.partition}:{record.offset}:{record.timestamp}".encode()


def origin_of(headers: Sequence[Header] | None) -> Origin | None:
    """Return where a record with these headers was forwarded from; None for any other record.

    A forward gets its header after those that the producer set, so the last one counts. A header of
    that name in another form is the producer's own.
    """
    for name, value in reversed(headers or ()):
        if name == ORIGIN and isinstance(value, bytes) and (found := _ORIGIN.fullmatch(value)):
            partition, offset = int(found[1]), int(found[2])
            if partition < _PARTITIONS and offset < _OFFSETS:
                return partition, offset
    return None
