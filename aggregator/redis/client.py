"""The connection to Redis: its scripts, its timeouts, and what its errors ask of the caller.

Every error becomes Retry. A server that answers as a replica, that is loading its file or that does
not serve the key is left: the connection is closed, and the next call resolves the name again. This
module knows the connection, not what is stored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from aggregator.runtime.errors import Fatal, Retry
from aggregator.runtime.lua import LuaScript, load_lua
from aggregator.runtime.redis_client import redis_client

_SCRIPTS: Final = Path(__file__).with_name("lua")
# Another server may serve the keys by now. redis-py derives MOVED from ASK, MASTERDOWN from
# CLUSTERDOWN. BUSY and TRYAGAIN come from the right server and pass.
_ELSEWHERE: Final = (ReadOnlyError, BusyLoadingError, ClusterDownError, AskError)
_REPLICA: Final = "the server is a replica: connecting again until its name leads to the master"
UNCHECKED: Final = (
    "this user may not read CONFIG: whether it evicts keys (maxmemory-policy) and keeps an "
    "append-only file (appendonly) could not be checked"
)

log = structlog.get_logger(__name__)


class RedisClient:
    """A client of one Redis or Valkey server. Thread-safe. Every call raises Retry.

    After a Retry a call may have been carried out, or may still be. With `retries` the client
    repeats a call whose connection failed: for calls that may be carried out twice, in any order.
    """

    def __init__(self, url: str, *, retries: bool = False) -> None:
        self._redis = redis_client(url, retries=retries)
        self._scripts: dict[str, LuaScript] = {}

    def connect(self) -> None:
        """Check that the server is a master that keeps what it is given. Raises Fatal if not."""
        self.ping()
        with self._named_errors():
            settings = read_settings(self._redis)
        if settings is None:
            log.warning("redis_settings_unchecked", reason=UNCHECKED)
            return
        faults = []
        policy = settings["maxmemory-policy"]
        if policy not in (None, "noeviction"):
            faults.append(f"maxmemory-policy is {policy}: set it to noeviction, or state vanishes")
        if settings["appendonly"] not in (None, "yes"):
            faults.append("appendonly is off: set it to yes, or a restart loses the state")
        if faults:
            raise Fatal("redis: " + "; ".join(faults))

    def ping(self) -> None:
        """Ask whether the server is a master."""
        with self._named_errors():
            if self._redis.info("replication")["role"] != "master":
                raise ReadOnlyError

    def call(self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]) -> Any:
        """Run the file `script` of the folder `lua` and return its answer."""
        if script not in self._scripts:
            self._scripts[script] = load_lua(_SCRIPTS / script)
        text, sha = self._scripts[script]
        with self._named_errors():
            try:
                return self._redis.evalsha(sha, len(keys), *keys, *args)
            except NoScriptError:
                # The server has restarted, or is another one. EVAL also loads the script.
                return self._redis.eval(text, len(keys), *keys, *args)

    def fields(self, key: bytes, names: Sequence[bytes | str]) -> list[bytes | None]:
        """Return fields of a hash; None for each that is absent."""
        with self._named_errors():
            # A script would copy the values inside the server.
            found: Any = self._redis.hmget(key, names)
            return list(found)

    def values(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """Return the values of string keys; None for each that is absent."""
        with self._named_errors():
            found: Any = self._redis.mget(keys)
            return list(found)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Translate errors of Redis, and leave a server that cannot serve this client."""
        try:
            yield
        except RedisError as error:
            if isinstance(error, _ELSEWHERE):
                # Each thread closes its own connection: it gets the same error on it.
                self._redis.connection_pool.disconnect(inuse_connections=False)
            raise Retry(_reason(error)) from error


def _reason(error: RedisError) -> str:
    if isinstance(error, ReadOnlyError):
        return f"redis: {_REPLICA}"
    if isinstance(error, NoPermissionError):
        return f"redis answers, but refuses this user: {error}"
    return f"redis: {error}"


def read_settings(client: Any) -> dict[str, str | None] | None:
    """Return `maxmemory-policy` and `appendonly`; None if this user may not read them.

    Managed servers forbid CONFIG to every user, rename it, or return nothing.
    """
    names = ("maxmemory-policy", "appendonly")
    try:
        found = {name: client.config_get(name).get(name) for name in names}
    except ResponseError as error:
        # Other errors are temporary, such as LOADING and BUSY: the caller tries again.
        if isinstance(error, NoPermissionError) or "unknown command" in str(error).lower():
            return None
        raise
    return found if any(found.values()) else None
