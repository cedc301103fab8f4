"""What operators decide, from the database to Redis, where every web node finds it.

Runs in threads: the admin calls it when a change is committed, a web node now and then, because
the database is the truth and Redis may have been away or emptied. What is newer wins by its
revision, so it may run anywhere, twice, and late. It must not know what it publishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import F

from aggregator.runtime.errors import Retry
from api.auth.revision import NEWEST_REVISION, revision_of

_TIMEOUT_S: Final = 2.0
# Two processes may publish at once: the older state must not take the place of the newer one.
_PUT: Final = """
local held = tonumber(redis.call('GET', KEYS[1]) or '-1') or -1
-- What cannot be a revision (ARGV[3] is the newest) was written by somebody else.
if tonumber(ARGV[1]) <= held and held <= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublishedState:
    """A part of the database that web nodes follow.

    `revisions` is the model of its one revision (ms since the epoch of the last change, unique);
    `state(revision)` reads what is in force, after the revision. `announce` is called after it is
    in Redis, and may raise redis.RedisError.
    """

    name: str
    revisions: Any
    revision_key: str
    state_key: str
    state: Callable[[int], object]
    announce: Callable[[], None] = lambda: None

    def changed(self) -> None:
        """Give the state a newer revision, and publish it once the transaction is committed.

        Call it in the transaction of the change, once however many rows it changes.
        """
        now_ms = time.time_ns() // 1_000_000
        self.revisions.objects.get_or_create(pk=1)
        self.revisions.objects.filter(pk=1).update(revision=F("revision") + 1)
        self.revisions.objects.filter(pk=1, revision__lt=now_ms).update(revision=now_ms)
        transaction.on_commit(self._publish_now)

    def publish(self) -> bool:
        """Put the database's state in Redis where it is newer; false where Redis holds it already.

        Raises Retry where the database or Redis cannot be used.
        """
        if not transaction.get_connection().in_atomic_block:
            close_old_connections()
        try:
            revision = self._revision()
            if revision is None or not self._put(revision):
                return False
            self.announce()
        except DatabaseError as error:
            raise Retry(f"the database cannot be read (manage.py migrate?): {error}") from error
        except (redis.RedisError, OSError) as error:
            raise Retry(f"Redis cannot be used: {error}") from error
        log.info(f"{self.name}_published", revision=revision)
        return True

    def recall(self) -> Any:
        """The database's state, for a node that cannot ask Redis; raises Retry."""
        if not transaction.get_connection().in_atomic_block:
            close_old_connections()
        try:
            return self.state(self._revision() or 0)
        except DatabaseError as error:
            raise Retry(f"the database cannot be read (manage.py migrate?): {error}") from error

    def _revision(self) -> int | None:
        revision: int | None = (
            self.revisions.objects.filter(pk=1).values_list("revision", flat=True).first()
        )
        return revision

    def _put(self, revision: int) -> bool:
        with redis.Redis.from_url(
            settings.SWAPS.redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as client:
            held = client.get(self.revision_key)
            held = None if held is None else revision_of(held)
            if held is not None and held >= revision:
                return False
            state = msgspec.json.encode(self.state(revision))
            keys = self.revision_key, self.state_key
            return bool(client.eval(_PUT, 2, *keys, revision, state, NEWEST_REVISION))

    def _publish_now(self) -> None:
        try:
            self.publish()
        except Retry as error:
            # The change is in the database; the web nodes bring it to Redis when it is back.
            log.warning(f"{self.name}_not_published", error=str(error))
