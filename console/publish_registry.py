"""Publishes the token registry of the database to the web nodes."""

from __future__ import annotations

from aggregator.contracts.names import REGISTRY_REVISION_KEY, REGISTRY_STATE_KEY
from api.board.listing import Listing, RegistryState
from console.models.registry import RegisteredToken, RegistryRevision
from console.published import PublishedState


def listings() -> dict[str, Listing]:
    """Return the database's tokens in the form that web nodes use, by token id."""
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


_published = PublishedState(
    name="registry",
    revisions=RegistryRevision,
    revision_key=REGISTRY_REVISION_KEY,
    state_key=REGISTRY_STATE_KEY,
    state=lambda revision: RegistryState(revision, listings()),
)
changed = _published.changed
publish = _published.publish
recall = _published.recall
