"""The configuration of `console`, the one Django app for operators."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.db.models.signals import post_delete, post_save


class ConsoleConfig(AppConfig):
    """Publishes every saved or deleted decision; opens no connection at start.

    The models have the app labels `api` and `aggregator`, because their tables, permissions and
    migrations have them (`MIGRATION_MODULES` in `swapsite.settings`).
    """

    name = "console"

    def ready(self) -> None:
        """Connect the signals that publish every saved or deleted decision."""
        for signal in (post_save, post_delete):
            signal.connect(_on_change, dispatch_uid="console-decisions")


def _on_change(sender: type[Any], **_: Any) -> None:
    # imported here, because models cannot be imported before the apps are ready
    from console.models import Decision, RegisteredToken  # noqa: PLC0415
    from console.publish_access import changed  # noqa: PLC0415
    from console.publish_registry import changed as registry_changed  # noqa: PLC0415

    if issubclass(sender, Decision):
        changed()
    elif issubclass(sender, RegisteredToken):
        registry_changed()
