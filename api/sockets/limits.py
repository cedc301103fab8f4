"""The limits of a client, and how long a node waits for a client."""

from __future__ import annotations

from typing import Final, Self

import msgspec

from aggregator.runtime.config import Config

AUTH_WITHIN_MS: Final = 10_000
EXPIRY_NOTICE_MS: Final = 60_000
HEARTBEAT_MS: Final = 1_000
BURST_S: Final = 2
SUBJECT_QUEUES: Final = 4
"""The outboxes of one subject together may hold as much as this many full outboxes."""


class SocketLimits(msgspec.Struct, frozen=True):
    """Hold the settings WS_*, which `aggregator.runtime.config` describes.

    `api.auth.access` holds the limits of a subject: its connections, subscriptions and rates.
    """

    tokens_a_message: int = 200
    connections: int = 10_000
    messages_per_s: int = 20
    message_bytes: int = 65_536
    queue_bytes: int = 1_048_576
    subject_queue_bytes: int = 4 * 1_048_576
    slow_after_ms: int = 10_000

    @classmethod
    def of(cls, config: Config) -> Self:
        """Return the limits that the settings define."""
        return cls(
            tokens_a_message=config.ws_subscriptions,
            connections=config.ws_connections,
            messages_per_s=config.ws_messages_per_s,
            message_bytes=config.ws_message_bytes,
            queue_bytes=config.ws_queue_bytes,
            subject_queue_bytes=SUBJECT_QUEUES * config.ws_queue_bytes,
            slow_after_ms=config.ws_slow_after_ms,
        )


class Allowance:
    """A token bucket: `rate` messages a second, and a burst of BURST_S seconds' worth."""

    def __init__(self, rate: int, now_ms: int) -> None:
        self._rate = rate
        self._left = float(rate * BURST_S)
        self._at = now_ms

    def take(self, now_ms: int) -> bool:
        """Take one message; return whether it is allowed now."""
        filled = self._left + (now_ms - self._at) / 1_000 * self._rate
        self._left = min(float(self._rate * BURST_S), filled)
        self._at = now_ms
        if self._left < 1:
            return False
        self._left -= 1
        return True
