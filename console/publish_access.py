"""Publishes the limits and revocations of the database to the web nodes."""

from __future__ import annotations

from typing import Any

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db.models import Q
from django.utils import timezone

from aggregator.contracts.names import ACCESS_REVISION_KEY, ACCESS_STATE_KEY
from api.auth.access import AccessState, OwnLimits, RevocationEntry
from api.auth.control import CHANGED, GROUP
from console.models.access import AccessRevision, ApiSubject, Revocation
from console.published import PublishedState


def state_of(revision: int) -> AccessState:
    """Return the decisions in force by the database. `revision` must have been read before them."""
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


def _announce() -> None:
    layer: Any = get_channel_layer()  # type: ignore[no-untyped-call]
    async_to_sync(layer.group_send)(GROUP, {"type": CHANGED})


_published = PublishedState(
    name="access",
    revisions=AccessRevision,
    revision_key=ACCESS_REVISION_KEY,
    state_key=ACCESS_STATE_KEY,
    state=state_of,
    announce=_announce,
)
changed = _published.changed
publish = _published.publish
recall = _published.recall
