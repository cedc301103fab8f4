"""The markers: one Redis string a swap, that names the log position at which it counts.

Plain "have I seen this id" loses a swap when the process dies between the marker and the apply. A
position does not: whoever replays the log comes to the same position and is let through
(DESIGN 4 rules 1, 2, 6). Every call is bound to one run of Redis: its run id stands in the script's
text and only EVALSHA is used, so a restarted server, which may have lost its last second, answers
NOSCRIPT and never a claim.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError
from redis.retry import Retry as RedisRetry

from aggregator.contracts.verdict import Verdict
from aggregator.errors import Fatal, Retry

_CLAIM: Final = (Path(__file__).parent / "claim.lua").read_text()
_VERDICTS: Final = {verdict.value: verdict for verdict in Verdict}
_TIMEOUT_S: Final = 5.0


class Claim(msgspec.Struct, frozen=True, gc=False):
    """One record's question. `late`: its bucket was closed. `removed`: it is a retraction."""

    marker: bytes
    partition: int
    offset: int
    late: bool
    removed: bool


class NewIncarnation(Retry):
    """Redis is another run than before: discard memory, `connect`, and replay the log."""


class Markers(Protocol):
    """Decides once, for every reader of the log, which occurrence of a swap counts.

    `claim` answers in the order of its claims. Asked again with the same position it answers the
    same, whoever asks; any other position of the same swap is a duplicate. Raises Retry when the
    store cannot be reached (nothing is known of the outcome, and asking again is safe) and
    NewIncarnation when the store may have forgotten claims.
    """

    def connect(self) -> None:
        """Bind to the store as it is now. Raises Retry, or Fatal where its settings lose data."""

    def claim(self, claims: Sequence[Claim]) -> list[Verdict]:
        """One verdict a claim."""

    def ping(self) -> None:
        """Notice a new incarnation without a claim. Raises as `claim`."""


class RedisMarkers:
    """`Markers` on one Redis or Valkey node."""

    def __init__(self, url: str, ttl_ms: int) -> None:
        self._ttl = str(ttl_ms)
        self._sha = ""
        self._run_id = ""
        self._redis = redis.Redis.from_url(
            url,
            socket_timeout=_TIMEOUT_S,
            socket_connect_timeout=_TIMEOUT_S,
            # A retried EVALSHA could reach a restarted server unnoticed; the caller retries.
            retry=RedisRetry(NoBackoff(), 0),
        )

    def connect(self) -> None:
        """Bind to the server's present run: read its run id, load the script that carries it."""
        try:
            run_id = str(self._redis.info("server")["run_id"])
            _check_durability(self._redis)
            self._sha = str(self._redis.script_load(f"-- run {run_id}\n{_CLAIM}"))
        except RedisError as error:
            raise Retry(f"redis: {error}") from error
        self._run_id = run_id

    def claim(self, claims: Sequence[Claim]) -> list[Verdict]:
        """One Lua call for the whole batch."""
        if not claims:
            return []
        kinds = "".join(["R" if c.removed else "L" if c.late else "A" for c in claims])
        markers = b"".join([c.marker for c in claims])
        positions = ",".join([f"{c.partition}:{c.offset}" for c in claims])
        try:
            letters = self._redis.evalsha(self._sha, 0, self._ttl, kinds, markers, positions)
        except NoScriptError as error:
            raise NewIncarnation("redis has restarted since it was connected") from error
        except RedisError as error:
            raise Retry(f"redis: {error}") from error
        assert isinstance(letters, bytes)
        return [_VERDICTS[letter] for letter in letters.decode()]

    def ping(self) -> None:
        """Compare the server's run id with the one that is bound."""
        try:
            run_id = str(self._redis.info("server")["run_id"])
        except RedisError as error:
            raise Retry(f"redis: {error}") from error
        if run_id != self._run_id:
            raise NewIncarnation("redis has restarted since it was connected")

    def close(self) -> None:
        """Close the connections."""
        self._redis.close()


def _check_durability(client: redis.Redis) -> None:
    """Refuse a server that may evict markers or keeps no append-only file."""
    faults = []
    policy = client.config_get("maxmemory-policy").get("maxmemory-policy")
    if policy not in (None, "noeviction"):
        faults.append(f"maxmemory-policy is {policy}: set it to noeviction, or swaps count twice")
    if client.config_get("appendonly").get("appendonly") not in (None, "yes"):
        faults.append("appendonly is off: set it to yes, or a restart forgets every marker")
    if faults:
        raise Fatal("redis: " + "; ".join(faults))
