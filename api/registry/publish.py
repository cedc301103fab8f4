"""The registry from the database to Redis, where every web node finds it.

Runs in threads: the admin calls it when a change is committed, a web node now and then, because
the database is the truth and Redis may have been away or emptied. What is newer wins by its
revision, so it may run anywhere, twice, and late.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec
import redis
import structlog
from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import F

from aggregator.contracts.names import REGISTRY_REVISION_KEY, REGISTRY_STATE_KEY
from aggregator.errors import Retry
from api.registry.listing import Listing, RegistryState
from api.registry.models import RegisteredToken, RegistryRevision

_TIMEOUT_S: Final = 2.0
# Two processes may publish at once: the older state must not take the place of the newer one.
_PUT: Final = """
local held = tonumber(redis.call('GET', KEYS[1]) or '-1')
if tonumber(ARGV[1]) <= held then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1])
return 1
"""

log = structlog.get_logger(__name__)


def changed() -> None:
    """Give the registry a newer revision, and publish it once the transaction is committed.

    Call it in the transaction of the change, once however many tokens it changes.
    """
    now_ms = time.time_ns() // 1_000_000
    RegistryRevision.objects.get_or_create(pk=1)
    RegistryRevision.objects.filter(pk=1).update(revision=F("revision") + 1)
    RegistryRevision.objects.filter(pk=1, revision__lt=now_ms).update(revision=now_ms)
    transaction.on_commit(_publish_now)


def _publish_now() -> None:
    try:
        publish()
    except Retry as error:
        # The change is in the database; the web nodes bring it to Redis when it is back.
        log.warning("registry_not_published", error=str(error))


def publish() -> bool:
    """Put the database's registry in Redis where it is newer; false where Redis holds it already.

    Raises Retry where the database or Redis cannot be used.
    """
    if not transaction.get_connection().in_atomic_block:
        close_old_connections()
    try:
        revision = RegistryRevision.objects.filter(pk=1).values_list("revision", flat=True).first()
        if revision is None:
            return False
        with redis.Redis.from_url(
            settings.SWAPS.redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as client:
            held = client.get(REGISTRY_REVISION_KEY)
            if held is not None and int(held) >= revision:
                return False
            state = msgspec.json.encode(RegistryState(revision, listings()))
            keys = (REGISTRY_REVISION_KEY, REGISTRY_STATE_KEY)
            if not client.eval(_PUT, 2, *keys, revision, state):
                return False
    except DatabaseError as error:
        raise Retry(f"the database cannot be read (manage.py migrate?): {error}") from error
    except (redis.RedisError, OSError) as error:
        raise Retry(f"Redis cannot be used: {error}") from error
    log.info("registry_published", revision=revision)
    return True


def listings() -> dict[str, Listing]:
    """The database's tokens as web nodes take them."""
    return {each.token_id: _listing(each) for each in RegisteredToken.objects.iterator()}


def _listing(token: RegisteredToken) -> Listing:
    return Listing(
        version=int(token.changed_at.timestamp() * 1_000),
        symbol=token.symbol or None,
        name=token.name or None,
        decimals=token.decimals,
        hidden=token.hidden,
        flags=tuple(flag for flag in ("spam", "verified") if getattr(token, flag)),
    )
