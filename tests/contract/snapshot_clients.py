"""Clients of the real snapshot store, for its tests."""

from __future__ import annotations

import secrets
from typing import TypeVar

import redis

from aggregator.redis.session import RedisSession
from aggregator.redis.snapshots import RedisSnapshots, SnapshotHeader

S = TypeVar("S", bound=RedisSnapshots)


def header(epoch: int, next_offset: int = 0) -> SnapshotHeader:
    return SnapshotHeader(epoch, next_offset, watermark=None, seq=next_offset, history_from=None)


class Clients:
    """Clients of one Redis and one topic, each with a session of its own."""

    def __init__(self, url: str) -> None:
        self.topic = f"swaps-{secrets.token_hex(6)}"
        self.admin = redis.Redis.from_url(url)
        self._url = url
        self._sessions: list[RedisSession] = []

    def new(self) -> RedisSnapshots:
        return self.new_of(RedisSnapshots)

    def new_of(self, kind: type[S]) -> S:
        session = RedisSession(self._url)
        snapshots = kind(session, self.topic)
        session.connect()
        self._sessions.append(session)
        return snapshots

    def connect(self) -> None:
        """Bind every client to Redis as it is now."""
        for session in self._sessions:
            session.connect()

    @property
    def session(self) -> RedisSession:
        """The session of the client made last."""
        return self._sessions[-1]

    def close(self) -> None:
        self.admin.close()
        for session in self._sessions:
            session.close()
