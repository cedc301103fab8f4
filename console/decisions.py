"""What web nodes call for the operators' decisions, without importing `console`.

`settings.DECISIONS` names this module. Its functions block, so web nodes call them in threads. Each
raises Retry if the database or Redis cannot be used.
"""

from __future__ import annotations

from api.auth.access import AccessState
from api.board.listing import RegistryState
from console import publish_access, publish_registry


def publish() -> None:
    """Publish limits, revocations and the token registry to Redis if the database is newer."""
    publish_access.publish()
    publish_registry.publish()


def access_state() -> AccessState:
    """Return the limits and revocations in force by the database."""
    state: AccessState = publish_access.recall()
    return state


def registry_state() -> RegistryState:
    """Return the token registry by the database."""
    state: RegistryState = publish_registry.recall()
    return state
