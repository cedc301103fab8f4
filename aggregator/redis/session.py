"""The connection to Redis that markers and snapshots share, bound to one run of the server.

A Redis that restarted, was promoted after a failover, or was flushed may have lost writes that it
acknowledged. So every call must notice that it reached another run than the one before. Three ids
name a run:

- the server's run id, which a restart changes;
- its replication id, which a promotion changes;
- a random token that is stored in Redis, which a flush deletes.

The text of every script contains the ids, and scripts are called by EVALSHA only. A restarted
server has no scripts and answers NOSCRIPT. `incarnation.lua`, which precedes every script, compares
the replication id and the token. Both raise NewIncarnation. This module knows the connection, not
what is stored.
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
    """This is another run of Redis: discard the state in memory, `connect`, and replay the log."""


class NotCheckedIn(Retry):
    """No claim is accepted until all archivers have checked in with this run of Redis."""


class RedisPort(Protocol):
    """What every port to the one store offers: a restart of the store is a restart for all ports.

    After one port raises NewIncarnation, every call of every port raises it until `connect`.
    """

    def connect(self) -> None:
        """Bind to the present run. Raises Retry, or Fatal if the store's settings lose data."""

    def ping(self) -> None:
        """Check for a new incarnation without another call. Raises Retry or NewIncarnation."""

    def close(self) -> None:
        """Close the connections."""


class PendingCall:
    """A call that was sent. Call exactly one of `wait` and `abandon`, once."""

    def __init__(self, pool: redis.ConnectionPool, connection: Any) -> None:
        self._pool = pool
        self._connection = connection

    def wait(self) -> Any:
        """Return the answer. Raises the errors of `Incarnation.call`."""
        try:
            return self._connection.read_response()
        except RedisError as error:
            if isinstance(error, ReadOnlyError):
                # `leave_replica` closes idle connections only, and this one is in use.
                self._connection.disconnect()
                self._pool.disconnect(inuse_connections=False)
            raise _named(error) from error
        finally:
            self._pool.release(self._connection)

    def abandon(self) -> None:
        """Give up the answer; the server may have carried out the call."""
        # Without this the next user of the connection would read this call's answer as its own.
        self._connection.disconnect()
        self._pool.release(self._connection)


class Incarnation:
    """One run of the server. Its calls never take effect in another run. Thread-safe."""

    def __init__(self, client: redis.Redis, run_id: str, shas: dict[str, str]) -> None:
        self._client = client
        self._shas = shas
        self.run_id = run_id

    def call(self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]) -> Any:
        """Run the script file `script` and return its answer.

        Raises NewIncarnation, or Retry if the outcome is unknown.
        """
        try:
            # Never EVAL: it would load this run's script into a restarted server, and the call
            # would succeed there. A script that no `connect` loaded has the SHA "" and is refused.
            return self._client.evalsha(self._shas.get(script, ""), len(keys), *keys, *args)
        except RedisError as error:
            if isinstance(error, ReadOnlyError):
                leave_replica(self._client)
            raise _named(error) from error

    def start(
        self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]
    ) -> PendingCall:
        """Send `call` without waiting, so that the server works while the caller does.

        Raises Retry if the call could not be sent.
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
        """Return the bytes of a string key, or None. Any run may answer, as in `read_fields`."""
        try:
            return self._client.get(key)
        except RedisError as error:
            raise _named(error) from error

    def read_fields(self, key: bytes, fields: Sequence[bytes]) -> Any:
        """Return fields of a hash, bytes or None each. Any run may answer.

        A script would copy the values in the server, so this is a plain command, which checks no
        ids. Use the result only after a later `call` succeeded: runs do not come back, so this run
        answered the read as well.
        """
        try:
            return self._client.hmget(key, fields)
        except RedisError as error:
            raise Retry(f"redis: {error}") from error


class RedisSession:
    """`RedisPort` on one Redis or Valkey node. Name every script with `use` before `connect`."""

    def __init__(self, url: str) -> None:
        self._scripts: dict[str, str] = {}
        # A repeated EVALSHA could reach a restarted server unnoticed, so the caller repeats.
        self._redis = redis_client(url, retries=False)
        self.incarnation = Incarnation(self._redis, "", {})

    def use(self, *scripts: str) -> None:
        """Add script files of the folder `lua` to those that `connect` loads."""
        for script in scripts:
            self._scripts[script] = load_lua(_SCRIPTS / script).text

    def connect(self) -> None:
        """Read the ids of the server's run and load the scripts with the ids in their text."""
        try:
            process, history = self._master_ids()
            _check_durability(self._redis)
            # NX: all processes share the token of the first one, so that all are in one run.
            self._redis.set(RUN_TOKEN_KEY, secrets.token_hex(8), nx=True)
            token = self._token()
            if token is None:
                raise Retry("redis: it was flushed while it was connected")
            # The ids are constants of the text, not arguments: the SHA of a script then names the
            # run, and a server that never saw this run has no script of that SHA.
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
        """Call `Incarnation.call` on the run that is bound now."""
        return self.incarnation.call(script, keys, args)

    def ping(self) -> None:
        """Compare the ids of the server's run with the bound ones."""
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
        """Return (run id, replication id). Raises Retry if the server is a replica."""
        info = self._redis.info("server", "replication")
        if info["role"] != "master":
            leave_replica(self._redis)
            raise Retry(f"redis: {_REPLICA}")
        return str(info["run_id"]), str(info["master_replid"])

    def _token(self) -> str | None:
        """Return the SHA-1 of the token, or None if there is no token.

        The value becomes part of a script. Any client of Redis may write the token, and a
        hexadecimal digest cannot inject Lua.
        """
        token = self._redis.get(RUN_TOKEN_KEY)
        if not isinstance(token, bytes):
            return None
        return hashlib.sha1(token, usedforsecurity=False).hexdigest()


def leave_replica(client: redis.Redis) -> None:
    """Close the connections to a demoted server, so that the next call resolves its name again."""
    client.connection_pool.disconnect(inuse_connections=False)


def _named(error: RedisError) -> Retry:
    """Return the error that says what the caller must do."""
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


def _check_durability(client: redis.Redis) -> None:
    """Refuse a server that may evict keys, or that keeps no append-only file. Raises Fatal."""
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
