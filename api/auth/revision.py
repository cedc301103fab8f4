"""Revisioned states in Redis: what operators decided, beside the revision of the last change.

A revision is the time of the change in ms since the epoch, stored as digits. Web nodes read the
revision, which is small, and read the state only if it is newer than the one they have.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import msgspec

from aggregator.runtime.errors import Retry
from api.auth.redis_link import RedisLink

# A client of the same Redis may have written another value under the key.
NEWEST_REVISION: Final = 10**16 - 1

State = TypeVar("State")


def revision_of(value: bytes) -> int | None:
    """Return the revision; None if the value cannot be one."""
    if not value.isdigit() or len(value) > len(str(NEWEST_REVISION)):
        return None
    return int(value)


async def newer_state(
    link: RedisLink,
    revision_key: str,
    state_key: str,
    decode: Callable[[bytes], State],
    known: int | None,
) -> State | None:
    """Return the state if Redis holds one with a revision above `known`, else None.

    Raises Retry, and redis.RedisError, if Redis cannot be read or holds something else.
    """
    value = await link.call("GET", revision_key)
    if value is None:
        return None
    if (revision := revision_of(value)) is None:
        raise Retry(f"{revision_key} in Redis is not a revision: {value[:32]!r}")
    if known is not None and revision <= known:
        return None
    state = await link.call("GET", state_key)
    if state is None:
        return None
    try:
        return decode(state)
    except msgspec.MsgspecError as error:
        raise Retry(f"{state_key} in Redis cannot be decoded: {error}") from error
