"""The connection to Redis that markers and snapshots share, bound to one run of the server.

A Redis that restarted, was promoted after a failover, or was flushed may have lost what it
answered, so no call may pass from one such run to the next unnoticed. A run is named by three ids:
the server's run id (a restart changes it), its replication id (a promotion changes it) and a random
token kept in Redis (a flush deletes it). The ids stand in the text of every script and only EVALSHA
is used, so another process answers NOSCRIPT; `incarnation.lua`, which precedes every script,
compares the other two. Both raise NewIncarnation. Knows the way to Redis, not what is kept there.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import redis
import structlog
from redis.exceptions import (
    NoPermissionError,
    NoScriptError,
    ReadOnlyError,
    RedisError,
    ResponseError,
)

from aggregator.contracts.names import RUN_TOKEN_KEY
from aggregator.runtime.errors import Fatal, Retry
from aggregator.runtime.lua import load_lua
from aggregator.runtime.redis_client import redis_client

_SCRIPTS: Final = Path(__file__).with_name("lua")
_PREAMBLE: Final = "incarnation.lua"
_CHANGED: Final = "redis restarted, was promoted or was flushed since it was connected"
_REPLICA: Final = "the server is a replica: connecting again until its name leads to the master"
UNCHECKED: Final = (
    "this user may not read CONFIG: whether it evicts keys (maxmemory-policy) and keeps an "
    "append-only file (appendonly) could not be checked"
)

log = structlog.get_logger(__name__)


class NewIncarnation(Retry):
    """Redis is another run than before: discard memory, `connect`, and replay the log."""


class NotCheckedIn(Retry):
    """Nothing is claimed until all archivers have checked in with this run of Redis."""


class RedisPort(Protocol):
    """One store behind several ports: a restart of it is a restart for all of them.

    After NewIncarnation, of any port, every call raises it until `connect`.
    """

    def connect(self) -> None:
        """Bind to the store as it is now. Raises Retry, or Fatal where its settings lose data."""

    def ping(self) -> None:
        """Notice a new incarnation without another call. Raises Retry or NewIncarnation."""

    def close(self) -> None:
        """Give the connections back."""


class PendingCall:
    """A call that was sent; `wait` for its answer or `abandon` it, once."""

    def __init__(self, pool: redis.ConnectionPool, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    def wait(self) -> Any:
        """The answer. Raises as `Incarnation.call`."""
        try:
            return self._connection.read_response()
        except RedisError as error:
            if isinstance(error, ReadOnlyError):
                self._connection.disconnect()
                self._pool.disconnect(inuse_connections=False)
            raise _named(error) from error
        finally:
            self._pool.release(self._connection)

    def abandon(self) -> None:
        """Nobody wants the answer; the call may have been carried out."""
        self._connection.disconnect()
        self._pool.release(self._connection)


class Incarnation:
    """One run of the server; its calls never reach another run. May be used from any thread."""

    def __init__(self, client: redis.Redis, run_id: str, shas: dict[str, str]) -> None:
        self._client = client
        self._shas = shas
        self.run_id = run_id

    def call(self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]) -> Any:
        """The answer of the script file `script`.

        Raises NewIncarnation, or Retry where nothing is known of the outcome.
        """
        try:
            return self._client.evalsha(self._shas.get(script, ""), len(keys), *keys, *args)
        except RedisError as error:
            if isinstance(error, ReadOnlyError):
                leave_replica(self._client)
            raise _named(error) from error

    def start(
        self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]
    ) -> PendingCall:
        """`call`, sent and not waited for: the server works while the caller does.

        Raises Retry where it could not be sent.
        """
        pool = self._client.connection_pool
        try:
            connection: Any = pool.get_connection()
        except RedisError as error:
            raise Retry(f"redis: {error}") from error
        try:
            sha = self._shas.get(script, "")
            connection.send_command("EVALSHA", sha, len(keys), *keys, *args)
        except RedisError as error:
            pool.release(connection)
            raise Retry(f"redis: {error}") from error
        return PendingCall(pool, connection)

    def read(self, key: bytes) -> Any:
        """A string's bytes, or None, of whichever run is there; good as `read_fields` is."""
        try:
            return self._client.get(key)
        except RedisError as error:
            raise _named(error) from error

    def read_fields(self, key: bytes, fields: Sequence[bytes]) -> Any:
        """Fields of a hash (bytes, or None), of whichever run is there; no copies made by a script.

        Good only once a `call` after it has succeeded: then it was of this run.
        """
        try:
            return self._client.hmget(key, fields)
        except RedisError as error:
            raise Retry(f"redis: {error}") from error


class RedisSession:
    """`RedisPort` on one Redis or Valkey node. Every script is named before `connect`."""

    def __init__(self, url: str) -> None:
        self._scripts: dict[str, str] = {}
        # A repeated EVALSHA could reach a restarted server unnoticed, so the caller repeats.
        self._redis = redis_client(url, retries=False)
        self.incarnation = Incarnation(self._redis, "", {})

    def use(self, *scripts: str) -> None:
        """Name the script files, beside this module, that `connect` is to load."""
        for script in scripts:
            self._scripts[script] = load_lua(_SCRIPTS / script).text

    def connect(self) -> None:
        """Read the ids of the server's run and load the scripts with them in their text."""
        try:
            process, history = self._master_ids()
            _check_durability(self._redis)
            self._redis.set(RUN_TOKEN_KEY, secrets.token_hex(8), nx=True)
            token = self._token()
            if token is None:
                raise Retry("redis: it was flushed while it was connected")
            ids = f'local REPLICATION_ID, TOKEN = "{history}", "{token}"\n'
            run_id = f"{process}:{history}:{token}"
            preamble = f'local RUN_ID = "{run_id}"\n{ids}{load_lua(_SCRIPTS / _PREAMBLE).text}'
            shas = {
                script: str(self._redis.script_load(preamble + text))
                for script, text in self._scripts.items()
            }
        except RedisError as error:
            raise _named(error) from error
        self.incarnation = Incarnation(self._redis, run_id, shas)

    def call(self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]) -> Any:
        """`Incarnation.call` on the run that is bound now."""
        return self.incarnation.call(script, keys, args)

    def ping(self) -> None:
        """Compare the ids of the server's run with those that are bound."""
        try:
            process, history = self._master_ids()
            run_id = f"{process}:{history}:{self._token()}"
        except RedisError as error:
            raise _named(error) from error
        if run_id != self.incarnation.run_id:
            raise NewIncarnation(_CHANGED)

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _master_ids(self) -> tuple[str, str]:
        """(run id, replication id). Raises Retry where the server is a replica."""
        info = self._redis.info("server", "replication")
        if info["role"] != "master":
            leave_replica(self._redis)
            raise Retry(f"redis: {_REPLICA}")
        return str(info["run_id"]), str(info["master_replid"])

    def _token(self) -> str | None:
        """The token as its SHA-1, because it becomes part of a script and anybody may write it."""
        token = self._redis.get(RUN_TOKEN_KEY)
        if not isinstance(token, bytes):
            return None
        return hashlib.sha1(token, usedforsecurity=False).hexdigest()


def leave_replica(client: redis.Redis) -> None:
    """Close the connections to a server that was demoted: the next call looks its name up again."""
    client.connection_pool.disconnect(inuse_connections=False)


def _named(error: RedisError) -> Retry:
    """The error by what the caller must do."""
    if isinstance(error, NoScriptError) or str(error).startswith("NEWRUN"):
        return NewIncarnation(_CHANGED)
    if isinstance(error, ReadOnlyError):
        return Retry(f"redis: {_REPLICA}")
    if isinstance(error, NoPermissionError):
        return Retry(f"redis answers, but refuses this user: {error}")
    if isinstance(error, ResponseError) and str(error).startswith("NOCHECKIN"):
        return NotCheckedIn("waiting for the archivers to check in with this run of Redis")
    return Retry(f"redis: {error}")


def read_settings(client: Any) -> dict[str, str | None] | None:
    """`maxmemory-policy` and `appendonly`; None where the server does not let this user read them.

    Managed servers forbid CONFIG to every user, rename it, or answer with nothing.
    """
    names = ("maxmemory-policy", "appendonly")
    try:
        found = {name: client.config_get(name).get(name) for name in names}
    except ResponseError as error:
        # A server that is loading or busy is asked again.
        if isinstance(error, NoPermissionError) or "unknown command" in str(error).lower():
            return None
        raise
    return found if any(found.values()) else None


def _check_durability(client: redis.Redis) -> None:
    """Refuse a server that may evict what we keep, or that keeps no append-only file."""
    settings = read_settings(client)
    if settings is None:
        log.warning("redis_settings_unchecked", reason=UNCHECKED)
        return
    faults = []
    policy = settings["maxmemory-policy"]
    if policy not in (None, "noeviction"):
        faults.append(f"maxmemory-policy is {policy}: set it to noeviction, or swaps count twice")
    if settings["appendonly"] not in (None, "yes"):
        faults.append("appendonly is off: set it to yes, or a restart forgets every marker")
    if faults:
        raise Fatal("redis: " + "; ".join(faults))
