"""Limits and revocations for the web nodes, and what every socket is told besides."""

from __future__ import annotations

from typing import Any

import redis
from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db.models import Q
from django.utils import timezone

from aggregator.contracts.names import ACCESS_REVISION_KEY, ACCESS_STATE_KEY
from aggregator.runtime.errors import Retry
from api.auth.access import AccessState, OwnLimits, RevocationEntry
from api.auth.control import CHANGED, CLOSE, GROUP, NOTICE
from console.models.access import AccessRevision, ApiSubject, Revocation
from console.published import PublishedState


def state_of(revision: int) -> AccessState:
    """The database's decisions that are in force, under that revision (read before them)."""
    in_force = Q(expires_at__isnull=True) | Q(expires_at__gt=timezone.now())
    revoked = [
        RevocationEntry(
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


_published = PublishedState(
    name="access",
    revisions=AccessRevision,
    revision_key=ACCESS_REVISION_KEY,
    state_key=ACCESS_STATE_KEY,
    state=state_of,
    announce=lambda: _send({"type": CHANGED}),
)
changed = _published.changed
publish = _published.publish
recall = _published.recall
