"""Publishes the operators' decisions from the database to Redis, from where web nodes read them.

The admin calls it after each committed change. Web nodes call it periodically, because the database
is the source of truth and Redis may have been down or emptied. The higher revision wins, so calls
may run in any process, repeatedly and late. Calls block; run them in threads. This module must not
know what it publishes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import F

from aggregator.runtime.clock import wall_ms
from aggregator.runtime.errors import Retry
from aggregator.runtime.redis_client import redis_client
from api.auth.revision import NEWEST_REVISION, revision_of

_TIMEOUT_S: Final = 2.0
# Two processes may publish concurrently: the older state must not replace the newer one.
_PUT: Final = """
local held = tonumber(redis.call('GET', KEYS[1]) or '-1') or -1
-- Overwrite a value above the largest possible revision (ARGV[3]): another client wrote it.
if tonumber(ARGV[1]) <= held and held <= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class PublishedState:
    """A part of the database that web nodes follow.

    `revisions` is the model with its revision (unique time of the last change, ms since the epoch).
    `state(revision)` reads what is in force; it is called after the revision was read. `announce`
    is called after the state is in Redis, and may raise redis.RedisError.
    """

    name: str
    revisions: Any
    revision_key: str
    state_key: str
    state: Callable[[int], object]
    announce: Callable[[], None] = lambda: None

    def changed(self) -> None:
        """Increase the revision, and publish the state after the transaction commits.

        Call it in the transaction of the change, once for any number of changed rows.
        """
        now_ms = wall_ms()
        self.revisions.objects.get_or_create(pk=1)
        self.revisions.objects.filter(pk=1).update(revision=F("revision") + 1)
        self.revisions.objects.filter(pk=1, revision__lt=now_ms).update(revision=now_ms)
        transaction.on_commit(self._publish_now)

    def publish(self) -> bool:
        """Publish the database's state if it is newer; return False if Redis has it already.

        Raises Retry if the database or Redis cannot be used.
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
        """Return the database's state, for a node that cannot read Redis. Raises Retry."""
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
        with redis_client(settings.SWAPS.redis_url, timeout_s=_TIMEOUT_S) as client:
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
            # The change is in the database; a web node publishes it when Redis is back.
            log.warning(f"{self.name}_not_published", error=str(error))
