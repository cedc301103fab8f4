"""A message of the log as it was read, for the parts that know no Kafka client."""

from __future__ import annotations

import msgspec


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One message as it came; `timestamp` is the record's, ms since the epoch."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
