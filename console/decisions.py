"""The operators' decisions as web nodes ask for them (`settings.DECISIONS`).

Runs in threads. Every function raises Retry where the database or Redis cannot be used.
"""

from __future__ import annotations

from api.auth.access import AccessState
from api.board.listing import RegistryState
from console import publish_access, publish_registry


def publish() -> None:
    """Put limits, revocations and the token registry in Redis where the database is newer."""
    publish_access.publish()
    publish_registry.publish()


def access_state() -> AccessState:
    """Limits and revocations that are in force by the database."""
    state: AccessState = publish_access.recall()
    return state


def registry_state() -> RegistryState:
    """The token registry by the database."""
    state: RegistryState = publish_registry.recall()
    return state
