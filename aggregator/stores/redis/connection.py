"""The connection to Redis that markers and snapshots share, bound to one run of the server.

A restarted Redis may have lost its last second, so no call may pass from one run to the next
unnoticed (DESIGN 4 rule 6). The server's run id stands in the text of every script, and only
EVALSHA is used: another run does not know the script and answers NOSCRIPT, which is raised as
NewIncarnation. Knows the way to Redis, not what is kept there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError
from redis.retry import Retry as RedisRetry

from aggregator.errors import Fatal, Retry

_SCRIPTS: Final = Path(__file__).parent
_TIMEOUT_S: Final = 5.0


class NewIncarnation(Retry):
    """Redis is another run than before: discard memory, `connect`, and replay the log."""


class NotCheckedIn(Retry):
    """Nothing is claimed until all archivers have checked in with this run of Redis."""


class Session(Protocol):
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
        except NoScriptError as error:
            raise NewIncarnation("redis has restarted since it was connected") from error
        except RedisError as error:
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
        except NoScriptError as error:
            raise NewIncarnation("redis has restarted since it was connected") from error
        except RedisError as error:
            raise Retry(f"redis: {error}") from error

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

    def read_fields(self, key: bytes, fields: Sequence[bytes]) -> Any:
        """Fields of a hash (bytes, or None), of whichever run is there; no copies made by a script.

        Good only once a `call` after it has succeeded: then it was of this run.
        """
        try:
            return self._client.hmget(key, fields)
        except RedisError as error:
            raise Retry(f"redis: {error}") from error


class RedisSession:
    """`Session` on one Redis or Valkey node. Every script is named before `connect`."""

    def __init__(self, url: str) -> None:
        self._scripts: dict[str, str] = {}
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # A retried EVALSHA could reach a restarted server unnoticed; the caller retries.
            retry=RedisRetry(NoBackoff(), 0),
        )
        self.incarnation = Incarnation(self._redis, "", {})

    def use(self, *scripts: str) -> None:
        """Name the script files, beside this module, that `connect` is to load."""
        for script in scripts:
            self._scripts[script] = (_SCRIPTS / script).read_text()

    def connect(self) -> None:
        """Read the server's run id and load the scripts with it in their text."""
        try:
            run_id = self._run_id()
            _check_durability(self._redis)
            shas = {
                script: str(self._redis.script_load(f'local RUN_ID = "{run_id}"\n{text}'))
                for script, text in self._scripts.items()
            }
        except RedisError as error:
            raise Retry(f"redis: {error}") from error
        self.incarnation = Incarnation(self._redis, run_id, shas)

    def call(self, script: str, keys: Sequence[bytes], args: Sequence[bytes | str | int]) -> Any:
        """`Incarnation.call` on the run that is bound now."""
        return self.incarnation.call(script, keys, args)

    def ping(self) -> None:
        """Compare the server's run id with the one that is bound."""
        try:
            run_id = self._run_id()
        except RedisError as error:
            raise Retry(f"redis: {error}") from error
        if run_id != self.incarnation.run_id:
            raise NewIncarnation("redis has restarted since it was connected")

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()

    def _run_id(self) -> str:
        return str(self._redis.info("server")["run_id"])


def _named(error: RedisError) -> Retry:
    if isinstance(error, ResponseError) and str(error).startswith("NOCHECKIN"):
        return NotCheckedIn("waiting for the archivers to check in with this run of Redis")
    return Retry(f"redis: {error}")


def _check_durability(client: redis.Redis) -> None:
    """Refuse a server that may evict what we keep, or that keeps no append-only file."""
    faults = []
    policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    if policy not in (None, "noeviction"):
        faults.append(f"maxmemory-policy is {policy}: set it to noeviction, or swaps count twice")
    if client.config_get("appendonly").get("appendonly") not in (None, "yes"):
        faults.append("appendonly is off: set it to yes, or a restart forgets every marker")
    if faults:
        raise Fatal("redis: " + "; ".join(faults))
