"""Clients for Redis and Valkey: the one place that sets their timeouts and retries.

Nothing connects here; the first command does.
"""

from __future__ import annotations

from typing import Any, Final

import redis
import redis.asyncio
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry as SyncRetry

TIMEOUT_S: Final = 5.0


def redis_client(url: str, *, timeout_s: float = TIMEOUT_S, retries: bool = True) -> redis.Redis:
    """Return a client that gives up a connect or an answer after `timeout_s`.

    `retries` lets the client repeat a command whose connection failed. Pass False where the caller
    repeats it, or where a command must not be carried out twice.
    """
    options: dict[str, Any] = {} if retries else {"retry": SyncRetry(NoBackoff(), 0)}
    return redis.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, **options
    )


def async_redis_client(
    url: str,
    *,
    timeout_s: float | None = TIMEOUT_S,
    connect_timeout_s: float = TIMEOUT_S,
    retries: bool = True,
    **options: Any,
) -> redis.asyncio.Redis:
    """Return the same for asyncio. `timeout_s` None leaves a missing answer to the caller.

    `options` are those of redis-py's Connection.
    """
    if not retries:
        options["retry"] = AsyncRetry(NoBackoff(), 0)
    return redis.asyncio.Redis.from_url(
        url, socket_timeout=timeout_s, socket_connect_timeout=connect_timeout_s, **options
    )
