"""A Kafka message, for the parts that do not use a Kafka client."""

from __future__ import annotations

import msgspec


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One message as it was read; `timestamp` is the record's, ms since the epoch."""

    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
