"""The operators' decisions from the database to Redis, where every web node finds them.

Runs in threads: the admin calls it when a change is committed, `api.security.control` now and
then. What is newer wins by its revision, so it may run anywhere, twice, and late.
"""

from __future__ import annotations

import time
from typing import Any, Final

import msgspec
import redis
import structlog
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.conf import settings
from django.db import DatabaseError, close_old_connections, transaction
from django.db.models import F, Q
from django.utils import timezone

from aggregator.contracts.names import ACCESS_REVISION_KEY, ACCESS_STATE_KEY
from aggregator.errors import Retry
from api.models import AccessRevision, ApiSubject, Revocation
from api.security.access import AccessState, OwnLimits, Revoked
from api.security.control import CHANGED, CLOSE, GROUP, NOTICE

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
    """Give the state a newer revision, and publish it once the transaction is committed."""
    now_ms = time.time_ns() // 1_000_000
    row, _ = AccessRevision.objects.get_or_create(pk=1)
    AccessRevision.objects.filter(pk=row.pk).update(revision=F("revision") + 1)
    AccessRevision.objects.filter(pk=row.pk, revision__lt=now_ms).update(revision=now_ms)
    transaction.on_commit(_publish_now)


def _publish_now() -> None:
    try:
        publish()
    except Retry as error:
        # The change is in the database; the web nodes bring it to Redis when it is back.
        log.warning("access_not_published", error=str(error))


def publish() -> bool:
    """Put the database's state in Redis where it is newer, and wake the web nodes.

    False where Redis holds it already. Raises Retry where the database or Redis cannot be used.
    """
    close_old_connections()
    try:
        revision = AccessRevision.objects.filter(pk=1).values_list("revision", flat=True).first()
        if revision is None:
            return False
        with redis.Redis.from_url(
            settings.SWAPS.redis_url, socket_timeout=_TIMEOUT_S, socket_connect_timeout=_TIMEOUT_S
        ) as client:
            held = client.get(ACCESS_REVISION_KEY)
            if held is not None and int(held) >= revision:
                return False
            state = msgspec.json.encode(state_of(revision))
            if not client.eval(_PUT, 2, ACCESS_REVISION_KEY, ACCESS_STATE_KEY, revision, state):
                return False
        _send({"type": CHANGED})
    except DatabaseError as error:
        raise Retry(f"the database cannot be read (manage.py migrate?): {error}") from error
    except (redis.RedisError, OSError) as error:
        raise Retry(f"Redis cannot be used: {error}") from error
    log.info("access_published", revision=revision)
    return True


def state_of(revision: int) -> AccessState:
    """The database's decisions that are in force, under that revision (read before them)."""
    in_force = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
    revoked = [
        Revoked(
            kind="jti" if each.kind == Revocation.Kind.TOKEN else "sub",
            value=each.value,
            until=int(each.expires_at.timestamp()) + 1 if each.expires_at else None,
            reason="the subject is revoked"
            if each.kind == Revocation.Kind.SUBJECT
            else "the token is revoked",
        )
        for each in Revocation.objects.filter(in_force)
    ]
    limits = {
        each.subject: OwnLimits(
            rate_per_s=each.rate_per_s,
            burst=each.burst,
            connections=each.connections,
            subscriptions=each.subscriptions,
        )
        for each in ApiSubject.objects.all()
    }
    return AccessState(revision, revoked, limits)


def send_notice(text: str) -> None:
    """Have every socket of every web node told; raises Retry where Redis cannot be used."""
    _send_or_retry({"type": NOTICE, "text": text})


def send_close(kind: str, value: str, code: int, reason: str) -> None:
    """Have the sockets of a token (`jti`) or subject (`sub`) closed everywhere; raises Retry."""
    _send_or_retry({"type": CLOSE, "kind": kind, "value": value, "code": code, "reason": reason})


def _send_or_retry(message: dict[str, object]) -> None:
    try:
        _send(message)
    except (redis.RedisError, OSError) as error:
        raise Retry(f"Redis cannot be used: {error}") from error


def _send(message: dict[str, object]) -> None:
    layer: Any = get_channel_layer()  # type: ignore[no-untyped-call]
    async_to_sync(layer.group_send)(GROUP, message)
