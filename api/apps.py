"""The API as a Django app, so that manage.py finds its commands, models and checks."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


class ApiConfig(AppConfig):
    """Nothing connects at start: the feed starts in the server's event loop (`swapsite.asgi`)."""

    name = "api"

    def ready(self) -> None:
        """Have every saved or deleted decision published."""
        for signal in (post_save, post_delete):
            signal.connect(_on_change, dispatch_uid="api-access")


def _on_change(sender: type[Any], **_: Any) -> None:
    # here, because models cannot be imported before the apps are ready
    from console.models.access import Decision, RegisteredToken  # noqa: PLC0415
    from console.publish_access import changed  # noqa: PLC0415
    from console.publish_registry import changed as registry_changed  # noqa: PLC0415

    if issubclass(sender, Decision):
        changed()
    elif issubclass(sender, RegisteredToken):
        registry_changed()
